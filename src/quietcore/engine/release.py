"""`quietcore release --all`: every CPU goes back to everybody, whatever the books say, and the VMs go on running.

It does not depend on libvirt or on a ledger that can be read: what is found in the cgroup tree is freed first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from quietcore.engine.adopt import release
from quietcore.engine.apply import Applier
from quietcore.engine.observe import Observation, observe
from quietcore.engine.pool import follow_pool, interrupts_away
from quietcore.engine.realtime import restore_host
from quietcore.engine.reconcile import recover
from quietcore.engine.settle import settle
from quietcore.engine.shared import shared_pool
from quietcore.engine.world import World
from quietcore.errors import OperationFailed, QuietcoreError
from quietcore.host import cgroups
from quietcore.host.cgroups import Hierarchy
from quietcore.host.topology import read_machine
from quietcore.isolation import HOUSEKEEPING
from quietcore.model import OWN_ROOT, Assignment, CpuSet, Entry, Ledger, Plan, SetScheduler, SetValue, Step, VcpuPlacement, VmName

_CLAIM = "cpuset.cpus.exclusive"
_PARTITION = "cpuset.cpus.partition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What was given back: partitions and claims that were ended, VMs that now share the pool, and what did not work."""

    groups: tuple[str, ...] = ()
    vms: tuple[VmName, ...] = ()
    problems: tuple[str, ...] = ()


def release_all(world: World) -> Released:
    """Free everything. The caller holds the lock. Never stops at a problem: each is told in the result."""
    groups, problems = _sweep(world)
    try:
        ledger = world.books.load()
        ledger = recover(world, read_machine(world.fs, owned=ledger.owned), ledger)
    except (OSError, QuietcoreError) as err:
        return Released(groups=groups, problems=(*problems, f"{err}; the VMs of the books were not looked at"))
    vms = []
    for entry in ledger.entries:
        if entry.plan is None or entry.phase != "running" or not entry.owned:
            continue
        try:
            ledger = _freed(world, ledger, entry)
            vms.append(entry.vm)
        except (OSError, QuietcoreError) as err:
            problems = (*problems, f"{entry.vm}: {err}")
    try:
        follow_pool(world, read_machine(world.fs, owned=ledger.owned), ledger)
        interrupts_away(world, ledger)
    except (OSError, QuietcoreError) as err:
        problems = (*problems, str(err))
    return Released(groups=groups, vms=tuple(vms), problems=problems)


def without_cpus(plan: Plan, pool: CpuSet) -> Plan:
    """The same VM with nothing of its own: all of its threads share the pool."""
    return replace(
        plan,
        strategy="dedicated",
        vcpus=tuple(VcpuPlacement(vcpu=vcpu.vcpu, rule="its CPU was released") for vcpu in plan.vcpus),
        shared=pool,
        emulator=pool,
        io={},
        unpinned=CpuSet(),
        assignments=tuple(Assignment(container=one.container, memory=one.memory) for one in plan.assignments),
    )


def _sweep(world: World) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """End every partition and claim below the root, the innermost first. On this tree nobody but quietcore makes them for VMs."""
    tree = cgroups.hierarchy(world.fs)
    freed, problems = [], []
    if tree.mount and tree.version == 2 and tree.writable:
        applier = Applier(world.fs, world.control, tree)
        for step in _endings(world, tree):
            try:
                applier.apply(step)
                freed.append(step.path.removeprefix(tree.mount).rpartition("/")[0])
            except OperationFailed as err:
                problems.append(str(err))
    return tuple(dict.fromkeys(freed)), tuple(problems)


def _endings(world: World, tree: Hierarchy) -> Iterator[SetValue]:
    groups = [group for parent in (OWN_ROOT, "/machine", "/machine.slice") for group in _below(world, f"{tree.mount}{parent}")]
    for group in groups:
        if world.fs.read_or(f"{group}/{_PARTITION}", "member").strip() != "member":
            yield SetValue(path=f"{group}/{_PARTITION}", value="member")
    for group in groups:
        if world.fs.read_or(f"{group}/{_CLAIM}", "").strip():
            yield SetValue(path=f"{group}/{_CLAIM}", value="", readback="cpus")


def _below(world: World, group: str) -> Iterator[str]:
    """A group and all below it, the innermost first."""
    if world.fs.is_dir(group):
        for name in world.fs.listdir(group):
            if world.fs.is_dir(f"{group}/{name}"):
                yield from _below(world, f"{group}/{name}")
        yield group


def _freed(world: World, ledger: Ledger, entry: Entry) -> Ledger:
    """The ledger in which one running VM owns nothing, and its threads on the pool that this leaves."""
    machine = read_machine(world.fs, owned=ledger.owned)
    if entry.adopted is not None:
        return release(world, machine, ledger, entry)
    if entry.plan is None:
        raise AssertionError(f"{entry.vm} has no plan")
    others = ledger.without(entry.vm)
    seen = observe(world, entry.vm, domain=entry.domain)
    for step in _loosening(world, entry.plan, seen):
        Applier(world.fs, world.control, cgroups.hierarchy(world.fs)).apply(step)
    restore_host(world, entry, others)
    plan = without_cpus(entry.plan, shared_pool(world, machine, others))
    freed = replace(entry, plan=plan, moving=None, restore=(), settings=(), limits=("its CPUs were released in an emergency",))
    settle(world, freed, plan)
    ledger = ledger.with_entry(freed)
    world.books.save(ledger)
    return ledger


def _loosening(world: World, plan: Plan, seen: Observation) -> Iterator[Step]:
    """What settling on the pool does not undo: a polling vCPU must not roam, and `whole` had narrowed groups that hold all others."""
    for thread in seen.census.threads:
        if thread.policy in {"fifo", "rr"}:
            yield SetScheduler(tid=thread.tid, policy="other", priority=0)
    if plan.strategy == "whole" and seen.facts.version == 2:
        for group in (seen.facts.home, f"{seen.facts.home}/{HOUSEKEEPING}"):
            path = seen.facts.file(group, "cpuset.cpus")
            if world.fs.exists(path):
                yield SetValue(path=path, value=str(seen.facts.root_cpus), readback="cpus")
