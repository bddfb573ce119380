"""The shared pool as it is now: every CPU that no VM owns."""

from __future__ import annotations

from quietcore.engine.world import World
from quietcore.isolation import refreshed
from quietcore.model import CpuSet, Ledger, Machine, Plan, union
from quietcore.placement import reserved_cpus


def shared_pool(world: World, machine: Machine, ledger: Ledger) -> CpuSet:
    """Every usable CPU that no VM owns; without the reserved ones under the kubelet's strict-cpu-reservation.

    Where a VM that is on the move owns all that is left, the pool is already what it will be when the VM has arrived.
    """
    options = world.config.options
    usable = machine.usable
    if options.cpu.strict_cpu_reservation:
        usable -= reserved_cpus(machine, options)
    return usable - ledger.owned or usable - union(plan.exclusive for plan in ledger.plans)


def current_plan(world: World, machine: Machine, ledger: Ledger, plan: Plan) -> Plan:
    """A VM's plan with the shared pool as it is now."""
    return refreshed(plan, shared_pool(world, machine, ledger))
