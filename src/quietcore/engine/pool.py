"""What all VMs of a host share: the pool that shrinks and grows, and the interrupts that must not land on dedicated CPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from quietcore.engine.apply import Applier
from quietcore.engine.settle import settle
from quietcore.engine.shared import current_plan
from quietcore.engine.world import World
from quietcore.errors import OperationFailed
from quietcore.host import cgroups, irqs, threads
from quietcore.isolation import irq_steps, kernel_task_steps
from quietcore.model import Applied, Entry, Ledger, Machine, Plan, ThreadCensus, union


def follow_pool(world: World, machine: Machine, ledger: Ledger) -> None:
    """Move whatever stands on the shared pool, of every running VM that is not itself on the move, to the pool of this ledger."""
    running = {view.name for view in world.hypervisor.domains()}
    for entry in ledger.entries:
        if entry.plan is None or entry.moving is not None or entry.phase != "running" or entry.domain not in running:
            continue
        settle(world, entry, current_plan(world, machine, ledger, entry.plan))


def interrupts_away(world: World, ledger: Ledger) -> Ledger:
    """Keep movable interrupts off the CPUs of isolated partitions; gives the ledger with where they were first, saved before any write."""
    seen = irqs.irqs(world.fs)
    plans = [plan for entry in ledger.entries if _is_partition(entry) for plan in (entry.plan, entry.moving) if plan is not None]
    owned = union(plan.dedicated for plan in plans)
    known = {irq: text for irq, text in ledger.irqs.items() if any(one.irq == irq for one in seen)}
    touched = {one.irq: str(one.allowed) for one in seen if not one.allowed.isdisjoint(owned) and one.irq not in known}
    ledger = replace(ledger, irqs=MappingProxyType(dict(sorted((known | touched).items()))))
    world.books.save(ledger)
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    unmovable = set()
    for step in irq_steps(seen, ledger.irqs, owned, world.online - ledger.owned):
        try:
            applier.apply(step)
        except OperationFailed:
            unmovable.add(int(step.path.split("/")[3]))  # the kernel keeps it: verify says so
    rest = ledger.irqs if owned else {}
    after = replace(ledger, irqs=MappingProxyType(dict(rest)), unmovable_irqs=frozenset(unmovable))
    if after != ledger:
        world.books.save(after)
    return after


def interrupts_back(world: World, ledger: Ledger) -> None:
    """Undo `interrupts_away` after a start that failed: what the older ledger owns stays clear, the rest returns."""
    current = world.books.load()
    interrupts_away(world, replace(ledger, irqs=current.irqs))


def kernel_tasks_away(
    world: World, entry: Entry, plan: Plan, census: ThreadCensus, tell: Callable[[Applied], None] = lambda _applied: None
) -> int:
    """Keep the kernel's own threads off the CPUs of a VM's partition, but those that work for it; gives the number of writes.

    No undo: when the partition ends, the kernel gives them their CPUs itself, as it does after having taken them.
    """
    owned = plan.dedicated & world.online
    if not _is_partition(entry) or not owned:
        return 0
    applier, writes = Applier(world.fs, world.control, cgroups.hierarchy(world.fs)), 0
    foreign = threads.foreign_tasks(world.fs, owned, {thread.tid for thread in census.threads})
    for step in kernel_task_steps(foreign, owned, plan.shared & world.online):
        try:
            applied = applier.apply(step)
        except OperationFailed:
            continue  # the kernel keeps it: verify says so
        if applied is not None:
            tell(applied)
            writes += 1
    return writes


def _is_partition(entry: Entry) -> bool:
    return entry.mechanism == "partition"
