"""What all VMs of a host share: the pool that shrinks and grows, and the interrupts that must not land on dedicated CPUs."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from quietcore.engine.apply import Applier
from quietcore.engine.settle import settle
from quietcore.engine.shared import current_plan
from quietcore.engine.world import World
from quietcore.errors import OperationFailed
from quietcore.host import cgroups, irqs
from quietcore.isolation import irq_steps
from quietcore.model import Entry, Ledger, Machine, union


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
    ledger = replace(ledger, irqs=MappingProxyType(dict(rest)), unmovable_irqs=frozenset(unmovable))
    world.books.save(ledger)
    return ledger


def interrupts_back(world: World, ledger: Ledger) -> None:
    """Undo `interrupts_away` after a start that failed: what the older ledger owns stays clear, the rest returns."""
    current = world.books.load()
    interrupts_away(world, replace(ledger, irqs=current.irqs))


def _is_partition(entry: Entry) -> bool:
    return entry.mechanism == "partition"
