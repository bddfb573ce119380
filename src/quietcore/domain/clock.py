"""What the guest's clock starts from."""

from __future__ import annotations

from quietcore.domain.draft import Draft


def contribute(draft: Draft) -> None:
    """Write <clock>: `utc`, `localtime`, seconds from UTC ("-3600"), or the name of a time zone."""
    clock, offset = draft.section("clock"), draft.spec.clock_offset or "utc"
    if offset in {"utc", "localtime"}:
        clock.set("offset", offset)
    elif offset.removeprefix("-").removeprefix("+").isdecimal():
        clock.set("offset", "variable")
        clock.set("adjustment", str(int(offset)))
        clock.set("basis", "utc")
    else:
        clock.set("offset", "timezone")
        clock.set("timezone", offset)
