"""What a real-time guest must not have."""

from __future__ import annotations

from quietcore.domain.draft import Draft, add


def contribute(draft: Draft) -> None:
    """Switch the PMU off, whose virtualisation costs every context switch, and the HPET, whose emulation costs exits.

    The other rules stand with their concern: no balloon and no graphics (devices), nosharepages (memory), tsc-deadline (CPU model);
    FIFO is no part of the XML (pinning).
    """
    if draft.spec.cpu.realtime is None:
        return
    add(draft.section("features"), "pmu", state="off")
    add(draft.section("clock"), "timer", name="hpet", present="no")
