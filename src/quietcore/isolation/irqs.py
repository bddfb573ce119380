"""Interrupts and the kernel's own threads off the dedicated CPUs.

Interrupts are always computed from where they were allowed first, so that the order of VMs does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping

from quietcore.isolation.foreign import ForeignTask, IrqFact
from quietcore.model import CpuSet, SetAffinity, SetValue


def irq_steps(irqs: tuple[IrqFact, ...], originals: Mapping[int, str], owned: CpuSet, rest: CpuSet) -> tuple[SetValue, ...]:
    """The writes that leave each movable interrupt on its original CPUs without `owned`, or on `rest` where none of them is left."""
    steps = []
    for irq in irqs:
        wanted = (CpuSet.parse(originals.get(irq.irq, str(irq.allowed))) - owned) or rest
        if wanted and wanted != irq.allowed and not irq.managed:
            steps.append(SetValue(path=f"/proc/irq/{irq.irq}/smp_affinity_list", value=str(wanted), readback="cpus"))
    return tuple(steps)


def kernel_task_steps(tasks: tuple[ForeignTask, ...], owned: CpuSet, rest: CpuSet) -> tuple[SetAffinity, ...]:
    """The affinities that keep the kernel's own threads off `owned`, or send them to `rest` where they are allowed nowhere else.

    A partition does this when it is made. When a CPU comes back online, the kernel gives the threads of its node their masks
    again (kcompactd and RCU's, for instance), right through the partition.
    """
    away = [(task.tid, task.allowed - owned or rest) for task in tasks if task.kernel and not task.allowed.isdisjoint(owned)]
    return tuple(SetAffinity(tid=tid, cpus=cpus) for tid, cpus in away if cpus)
