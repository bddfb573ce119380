"""Real-time budgets of cgroup v1 with RT_GROUP_SCHED, without which a thread below the root cannot become SCHED_FIFO (EPERM).

The budgets of siblings must add up to no more than their parent's, on whichever CPUs they run; yet each group has its budget on
every CPU anew. So one group that all VMs share (`/machine`) is given what is free, and every real-time thread is put into it:
a budget of its own for each vCPU would leave four vCPUs with a quarter of a CPU each. The kernel takes a child's budget only after
its parent's (EINVAL), and takes it back only when no real-time thread is left in the group (EBUSY).
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from quietcore.model import Budget, MoveThread, RealtimeHost, SetValue, Step


def granted(host: RealtimeHost) -> tuple[Budget, ...]:
    """The budget of each level once the steps are done; one that somebody gave already is kept."""
    result: list[Budget] = []
    for level in host.levels:
        if not result:
            top = min(level.budget.share, host.throttle.share if host.throttle is not None else Fraction(1))
            result.append(level.budget if top == level.budget.share else _part(top, level.budget.period))
            continue
        free = result[-1].share - sum((one.share for one in level.siblings.values() if one.runtime), Fraction(0))
        result.append(level.budget if level.budget.runtime else _part(max(free, Fraction(0)), level.budget.period))
    return tuple(result)


def budget_steps(host: RealtimeHost) -> Iterator[Step]:
    """The writes from the top down that let the VM's threads become real-time, then the moves into the group that has the budget."""
    for level, budget in list(zip(host.levels, granted(host), strict=True))[1:]:
        if budget.runtime and not level.budget.runtime:
            yield SetValue(path=_file(host, level.group), value=str(budget.runtime))
    if host.levels:
        goal = host.levels[-1].group
        for tid, group in sorted(host.groups.items()):
            if group not in {goal, "/"}:
                yield MoveThread(path=f"{host.cpu_mount}{goal.rstrip('/')}/tasks", group=goal, tid=tid, controller="cpu")


def budget_files(host: RealtimeHost) -> tuple[str, ...]:
    """The budgets below the root that the VM relies on, from the top down."""
    return tuple(_file(host, level.group) for level in host.levels[1:])


def no_budget(host: RealtimeHost) -> str:
    """Who has the whole real-time budget, as a sentence; "" where something is left, or nothing is needed."""
    for level, budget in zip(host.levels, granted(host), strict=True):
        if not budget.runtime:
            holders = ", ".join(f"{group} {one.runtime}" for group, one in sorted(level.siblings.items()) if one.runtime)
            return f"no real-time budget is left for the cgroup {level.group} (cpu.rt_runtime_us of its siblings: {holders or 'none'})"
    return ""


def _part(share: Fraction, period: int) -> Budget:
    return Budget(runtime=int(share * period), period=period)


def _file(host: RealtimeHost, group: str) -> str:
    return f"{host.cpu_mount}{group.rstrip('/')}/cpu.rt_runtime_us"
