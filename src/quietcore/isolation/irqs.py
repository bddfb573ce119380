"""Interrupts off the dedicated CPUs: always computed from where they were allowed first, so that the order of VMs does not matter."""

from __future__ import annotations

from collections.abc import Mapping

from quietcore.isolation.foreign import IrqFact
from quietcore.model import CpuSet, SetValue


def irq_steps(irqs: tuple[IrqFact, ...], originals: Mapping[int, str], owned: CpuSet, rest: CpuSet) -> tuple[SetValue, ...]:
    """The writes that leave each movable interrupt on its original CPUs without `owned`, or on `rest` where none of them is left."""
    steps = []
    for irq in irqs:
        wanted = (CpuSet.parse(originals.get(irq.irq, str(irq.allowed))) - owned) or rest
        if wanted and wanted != irq.allowed and not irq.managed:
            steps.append(SetValue(path=f"/proc/irq/{irq.irq}/smp_affinity_list", value=str(wanted), readback="cpus"))
    return tuple(steps)
