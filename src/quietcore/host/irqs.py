"""The host's interrupts and the CPUs to which they may be delivered."""

from __future__ import annotations

from quietcore.host.fs import HostFs
from quietcore.isolation import IrqFact
from quietcore.model import CpuSet


def irqs(fs: HostFs) -> tuple[IrqFact, ...]:
    """Every interrupt with at least one action, by number. Empty where the kernel shows none (a container)."""
    if not fs.is_dir("/proc/irq"):
        return ()
    found = []
    for name in fs.listdir("/proc/irq"):
        text = fs.read_or(f"/proc/irq/{name}/smp_affinity_list", "") if name.isdigit() else ""
        actions = fs.read_or(f"/sys/kernel/irq/{name}/actions", "").strip()
        if text and actions:
            found.append(IrqFact(irq=int(name), name=actions, allowed=CpuSet.parse(text), managed=_is_managed(fs, name)))
    return tuple(sorted(found, key=lambda one: one.irq))


def _is_managed(fs: HostFs, irq: str) -> bool:
    """Only the debug file tells; where it is missing, a refused write will tell the same later."""
    return "IRQD_AFFINITY_MANAGED" in fs.read_or(f"/sys/kernel/debug/irq/irqs/{irq}", "")
