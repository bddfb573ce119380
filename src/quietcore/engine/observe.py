"""One VM as the kernel and libvirt show it now: its threads, its cgroups, and everybody else on its CPUs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quietcore.engine.realtime import host_of, kernel_threads, may_invert, may_unthrottle, priority_of
from quietcore.engine.world import World
from quietcore.errors import OperationFailed
from quietcore.host import cgroups, irqs, threads
from quietcore.isolation import IrqFact, MemoryLock, by_severity, unlocked, verify
from quietcore.model import CgroupFacts, Entry, Finding, Ledger, Plan, ThreadCensus, VmName


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The threads of a running VM and the cgroups around them."""

    census: ThreadCensus
    facts: CgroupFacts


def observe(world: World, vm: VmName, *, domain: str = "", probe_cpu: int | None = None) -> Observation:
    """Look at a running VM; `domain` is an adopted VM's, which has a name of its own.

    `probe_cpu` asks for the probe of isolated partitions, on a CPU that is about to be dedicated.
    Raises OperationFailed when the VM ends while we look.
    """
    domain = domain or vm.domain
    answer = world.hypervisor.threads(domain)
    tree = cgroups.hierarchy(world.fs)
    try:
        pid = threads.process_of(world.fs, next(iter(answer.vcpus)))
        census = threads.census(world.fs, world.control, pid, vcpus=answer.vcpus, iothreads=answer.iothreads, version=tree.version)
    except (OSError, StopIteration) as err:
        raise OperationFailed(f"{vm}: QEMU ended while its threads were counted", hint=f"see /var/log/libvirt/qemu/{domain}.log") from err
    groups = cgroups.groups_of(world.fs, tree, census, domain)
    probe = cgroups.Probe(works=False)
    if probe_cpu is not None and groups.layout != "none":
        probe = cgroups.probe_partitions(world.fs, tree, probe_cpu)
    return Observation(census=census, facts=cgroups.facts(world.fs, tree, groups, probe))


def findings_of(world: World, entry: Entry, plan: Plan, seen: Observation, ledger: Ledger) -> tuple[Finding, ...]:
    """Check a VM against its plan, with everybody else who may run on its CPUs."""
    cpus = plan.dedicated
    locked = threads.locked_bytes(world.fs, seen.census.pid) if entry.spec.memory.locked else None
    lock = MemoryLock(pid=seen.census.pid, locked_bytes=locked, possible=threads.may_lock(world.fs)) if locked is not None else None
    found = verify(
        plan,
        seen.census,
        seen.facts,
        entry.mechanism,
        priority=priority_of(entry),
        foreign=threads.foreign_tasks(world.fs, cpus, {thread.tid for thread in seen.census.threads}) if cpus else (),
        irqs=_irqs(world, ledger) if cpus else (),
        cpu_kthreads=kernel_threads(world, plan),
        may_invert=may_invert(entry),
        unthrottled=host_of(world, plan) if may_unthrottle(world, entry, plan) else None,
        online=world.online,
    )
    return by_severity((*found, *(unlocked(entry.spec.memory, lock) if lock is not None else ())))


def _irqs(world: World, ledger: Ledger) -> tuple[IrqFact, ...]:
    """The interrupts; one that the kernel would not let us move counts as the kernel's own."""
    return tuple(replace(irq, managed=irq.managed or irq.irq in ledger.unmovable_irqs) for irq in irqs.irqs(world.fs))
