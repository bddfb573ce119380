"""Every field that KubeVirt knows, and what becomes of it here: the source of docs/compatibility.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from quietcore.manifest import fields
from quietcore.manifest.support import Status, support

_ROOTS: Final = (
    "VirtualMachineInstance",
    "VirtualMachine",
    "VirtualMachineInstancetype",
    "VirtualMachinePreference",
    "KubeVirt",
)
_ELSEWHERE: Final = {"ObjectMeta": "metadata", "VirtualMachineInstanceSpec": "spec"}
"""Types that several kinds share; they are spelled out below VirtualMachineInstance only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSupport:
    """One field of one kind. A refused or ignored mapping stands for everything below it; `kind` is KubeVirt's type of the field."""

    root: str
    path: str
    kind: str
    status: Status
    reason: str = ""
    unless_off: bool = False


def compatibility() -> tuple[FieldSupport, ...]:
    """All fields, kind by kind, each before what is below it. The cluster-wide kinds have the fields of the namespaced ones."""
    return tuple(row for root in _ROOTS for row in _rows(root, root, ""))


def source() -> str:
    """The version of KubeVirt whose fields these are."""
    return fields.source()


def _rows(root: str, kind: str, prefix: str) -> Iterator[FieldSupport]:
    for known in fields.types()[kind].values():
        verdict = support(kind, known.name)
        path = f"{prefix}{known.name}{'[]' if known.kind.startswith('[]') else ''}"
        shared = _ELSEWHERE.get(known.element) if root != _ROOTS[0] else None
        reason = f"as {shared} of a {_ROOTS[0]}" if shared else verdict.reason
        yield FieldSupport(root=root, path=path, kind=known.kind, status=verdict.status, reason=reason, unless_off=verdict.unless_off)
        if verdict.status == "supported" and known.element in fields.types() and not shared:
            yield from _rows(root, known.element, f"{path}.")
