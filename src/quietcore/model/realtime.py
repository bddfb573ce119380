"""What a host takes from real-time tasks that never sleep: budgets of groups, throttling, the fair server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """At most `runtime` of every `period` on one CPU; a negative runtime is no bound. The unit is the kernel file's own."""

    runtime: int
    period: int

    @property
    def share(self) -> Fraction:
        """The part of a CPU, at most 1."""
        return Fraction(1) if self.runtime < 0 or self.runtime >= self.period else Fraction(self.runtime, self.period)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLevel:
    """One cgroup v1 group with RT_GROUP_SCHED (cpu.rt_runtime_us of cpu.rt_period_us); `siblings` share its parent's budget with it."""

    group: str
    budget: Budget
    siblings: Mapping[str, Budget] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeHost:
    """The limits of real-time tasks as the kernel shows them now.

    `throttle` is sched_rt_runtime_us of sched_rt_period_us; None where there is no such file. `fair_servers` maps a CPU to what the
    fair server (Linux 6.12) lends to ordinary tasks there, in nanoseconds; empty where the kernel has none or debugfs does not show it.
    `levels` are the groups from the root of the cpu hierarchy (mounted at `cpu_mount`) to the one where the VM's real-time threads
    belong; empty without RT_GROUP_SCHED. `groups` says where each of these threads is in that hierarchy.
    """

    throttle: Budget | None = None
    fair_servers: Mapping[int, Budget] = field(default_factory=lambda: MappingProxyType({}))
    cpu_mount: str = ""
    levels: tuple[BudgetLevel, ...] = ()
    groups: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
