"""Who else is on the host's CPUs, as values."""

from __future__ import annotations

from dataclasses import dataclass

from quietcore.model import CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTask:
    """A task of the host that is not the VM's and could be kept off a CPU (threads that are bound to one CPU are no foreigners)."""

    tid: int
    comm: str
    allowed: CpuSet
    kernel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IrqFact:
    """An interrupt: the CPUs that it may be delivered to. `managed` ones are the kernel's own to place."""

    irq: int
    name: str
    allowed: CpuSet
    managed: bool = False
