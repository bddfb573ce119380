"""Is a guest's memory really locked? A page fault in a real-time guest takes longer than any task that could disturb it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quietcore.model import Finding, MemorySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLock:
    """What the kernel says of QEMU's locked memory (VmLck), and whether this host lets libvirt lock as much as a guest has."""

    pid: int
    locked_bytes: int
    possible: bool


def unlocked(memory: MemorySpec, lock: MemoryLock) -> Iterator[Finding]:
    """The finding for a guest that asks for locked memory and has not got it: an error where the host could have locked it.

    Hugepages cannot be swapped and the kernel does not count them as locked; then at least QEMU's own memory has to be.
    """
    least = memory.guest_bytes if memory.hugepage_bytes is None else 1
    if memory.locked and lock.locked_bytes < least:
        yield Finding(
            code="memory-not-locked",
            severity="error" if lock.possible else "warning",
            kind="process",
            id=str(lock.pid),
            expected="some locked memory" if least == 1 else f"at least {least} bytes locked",
            actual=f"{lock.locked_bytes} bytes (VmLck)",
            hint="QEMU's memory may be swapped out: see <memoryBacking><locked/> of the domain"
            if lock.possible
            else "libvirt may not raise QEMU's limit of locked memory here: run it with CAP_SYS_RESOURCE",
        )
