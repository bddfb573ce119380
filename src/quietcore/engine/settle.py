"""Putting the threads of a running VM where its plan says, until a fresh look finds nothing more to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from quietcore.engine.apply import Applier
from quietcore.engine.observe import Observation, observe
from quietcore.engine.realtime import after_fifo, before_fifo, host_of, priority_of, raise_kernel_threads, remember
from quietcore.engine.world import Event, World
from quietcore.host import cgroups
from quietcore.isolation import Isolation, isolate, mechanism_of, waiting
from quietcore.model import Applied, Entry, Ledger, Plan, SetScheduler, Step

_ROUNDS: Final = 4
"""QEMU's workers come and go: the census is repeated until it finds nothing to do, at most this often."""


def choose(world: World, ledger: Ledger, entry: Entry, plan: Plan, seen: Observation) -> Entry:
    """Decide on the mechanism, and what the books must know before the first write: its groups, what kernel threads had."""
    mechanism = mechanism_of(plan, seen.facts)
    entry = replace(entry, mechanism=mechanism, cgroup_home=seen.facts.home if seen.facts.layout != "none" else "")
    isolation = isolation_of(entry, plan, seen)
    return replace(remember(world, ledger, entry, plan, _realtime(isolation)), limits=isolation.limits)


def before_move(world: World, ledger: Ledger, entry: Entry, there: Plan, seen: Observation) -> Entry:
    """What the books must know besides, before a VM moves to another placement."""
    return remember(world, ledger, entry, there, _realtime(isolation_of(entry, there, seen)))


def settle(
    world: World,
    entry: Entry,
    plan: Plan,
    seen: Observation | None = None,
    *,
    tell: Callable[[Applied], None] = lambda _applied: None,
) -> int:
    """Apply the steps of `entry.mechanism`: at start, after the shared pool changed, or as a repair. Gives the number of writes.

    `tell` hears every write. None needs an undo of its own: what is not the VM's alone is in the books before, and given back when the
    VM is taken down; the rest ends with its domain. Threads whose CPUs are offline wait elsewhere, which `verify` says.
    """
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    online = world.online
    offline = plan.exclusive - online
    if offline:
        plan = waiting(plan, online)
        world.report(Event(vm=entry.vm, step="waiting", detail=f"its CPUs {offline} are offline: what stood there shares", seconds=0.0))
    total = raise_kernel_threads(world, entry, plan, tell)  # before any vCPU may become SCHED_FIFO
    for _ in range(_ROUNDS):
        done = 0
        for step in _steps(world, entry, plan, seen or observe(world, entry.vm, domain=entry.domain)):
            applied = applier.apply(step)
            if applied is not None:
                done += 1
                tell(applied)
        total += done
        if not done:
            break
        seen = None
    return total


def _steps(world: World, entry: Entry, plan: Plan, seen: Observation) -> tuple[Step, ...]:
    isolation = isolation_of(entry, plan, seen)
    host = host_of(world, plan, _realtime(isolation))
    return (*_calmed(entry, plan, seen), *before_fifo(entry, host), *isolation.steps, *after_fifo(world, entry, plan, host))


def _calmed(entry: Entry, plan: Plan, seen: Observation) -> tuple[Step, ...]:
    """A real-time vCPU that waits on CPUs of others must not poll there: nobody raised the kernel threads of these."""
    meant = {vcpu.vcpu for vcpu in entry.plan.vcpus if vcpu.realtime} if entry.plan is not None else set()
    here = meant - {vcpu.vcpu for vcpu in plan.vcpus if vcpu.realtime}
    return tuple(SetScheduler(tid=thread.tid, policy="other", priority=0) for thread in seen.census.vcpus if thread.vcpu in here)


def _realtime(isolation: Isolation) -> tuple[int, ...]:
    """The threads that become real-time."""
    return tuple(step.tid for step in isolation.steps if isinstance(step, SetScheduler))


def isolation_of(entry: Entry, plan: Plan, seen: Observation) -> Isolation:
    """What one pass would do for a VM that is seen like this, by the mechanism that its entry names."""
    return isolate(plan, seen.census, seen.facts, entry.mechanism, priority=priority_of(entry))
