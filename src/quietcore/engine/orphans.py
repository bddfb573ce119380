"""Groups and partitions of ours that no VM of the books has: they would keep CPUs that the books call free.

A partition that is left over fails silently for the next VM: the write to its cpuset succeeds and it runs on everything else.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from quietcore.engine.apply import Applier
from quietcore.engine.world import Event, World
from quietcore.errors import OperationFailed
from quietcore.host import cgroups
from quietcore.host.cgroups import Hierarchy
from quietcore.model import OWN_ROOT, CpuSet, Ledger, Plan, SetValue, union

_LONGEST_NAME: Final = 64
_PARENTS: Final = (OWN_ROOT, "/machine", "/machine.slice")
"""Where groups of our VMs are: our own, libvirt's without systemd, libvirt's with machined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """One group that claims CPUs for nobody. `whole` ones are to be removed; of a level above VMs only its claim is too large."""

    group: str
    cpus: CpuSet
    whole: bool


def find(world: World, ledger: Ledger) -> tuple[Orphan, ...]:
    """Groups of VMs that neither the books nor libvirt know as active, the innermost first: ours, and libvirt's with claims.

    And the levels above them where these claim more CPUs than the books give to anybody and than any partition below has.
    """
    active = frozenset(entry.domain for entry in ledger.entries if entry.phase != "stopped")
    found = _candidates(world, ledger, active)
    if not found:
        return found
    alive = frozenset(view.name for view in world.hypervisor.domains())  # asked last: a domain that just began is among them
    return _candidates(world, ledger, active | alive)


def _candidates(world: World, ledger: Ledger, active: frozenset[str]) -> tuple[Orphan, ...]:
    tree = cgroups.hierarchy(world.fs)
    if not tree.mount or not tree.writable:
        return ()
    found: list[Orphan] = []
    homes = {entry.cgroup_home for entry in ledger.entries if entry.phase != "stopped"}
    for parent in _PARENTS:
        if not world.fs.is_dir(f"{tree.mount}{parent}"):
            continue
        for name in _children(world, f"{tree.mount}{parent}"):
            group, own = f"{parent}/{name}", parent == OWN_ROOT
            if group in homes or (name in active if own else not name.startswith("qemu-")):
                continue  # with machined the groups are scopes, and systemd removes those
            if own or not any(_is_libvirts(name, domain) for domain in active):
                dead = _below(world, tree, group)
                found += dead if (own or any(one.cpus for one in dead)) and _is_empty(world, tree, dead) else []
        claim = _cpus(world, tree, parent) - ledger.owned
        held = claim & _partitioned(world, tree, parent, [one.group for one in found])
        if claim - held:
            found.append(Orphan(group=parent, cpus=claim - held, whole=False))
    return tuple(found)


def free(world: World, orphans: tuple[Orphan, ...]) -> tuple[Orphan, ...]:
    """Remove what is empty and give its CPUs back; gives those that were freed. The caller holds the lock."""
    tree = cgroups.hierarchy(world.fs)
    applier = Applier(world.fs, world.control, tree)
    return tuple(orphan for orphan in orphans if _freed(world, tree, applier, orphan))


def clear(world: World, ledger: Ledger, *plans: Plan) -> None:
    """Free the CPUs of plans that are about to be carried out. The caller holds the lock; `ledger` does not know of these plans yet."""
    if cgroups.hierarchy(world.fs).version == 1:
        return  # nothing is claimed there
    wanted = union(plan.exclusive for plan in plans)
    for orphan in free(world, tuple(one for one in find(world, ledger) if not one.cpus.isdisjoint(wanted))):
        world.report(Event(vm=plans[0].vm, step="orphan freed", detail=f"{orphan.group} held CPUs {orphan.cpus} for nobody", seconds=0.0))


def _freed(world: World, tree: Hierarchy, applier: Applier, orphan: Orphan) -> bool:
    folder = f"{tree.mount}{orphan.group}"
    if orphan.whole:
        with suppress(OSError):  # busy for a moment longer: its claim is taken back all the same
            world.fs.rmdir(folder)
            return True
    rest = _cpus(world, tree, orphan.group) - orphan.cpus
    steps = [SetValue(path=f"{folder}/cpuset.cpus.exclusive", value=str(rest), readback="cpus")] if orphan.cpus else []
    if orphan.whole and orphan.cpus:
        steps.insert(0, SetValue(path=f"{folder}/cpuset.cpus.partition", value="member"))
    try:
        done = [applier.apply(step) for step in steps]
    except OperationFailed:
        return False
    return any(one is not None for one in done)


def _below(world: World, tree: Hierarchy, group: str) -> list[Orphan]:
    inner = [one for name in _children(world, f"{tree.mount}{group}") for one in _below(world, tree, f"{group}/{name}")]
    return [*inner, Orphan(group=group, cpus=_cpus(world, tree, group), whole=True)]


def _is_empty(world: World, tree: Hierarchy, groups: list[Orphan]) -> bool:
    name = "cgroup.threads" if tree.version == 2 else "tasks"
    return not any(world.fs.read_or(f"{tree.mount}{one.group}/{name}", "").strip() for one in groups)


def _children(world: World, folder: str) -> list[str]:
    """The groups in a group; none where it vanished, since nobody holds the lock while it is looked at."""
    try:
        return [name for name in world.fs.listdir(folder) if world.fs.is_dir(f"{folder}/{name}")]
    except FileNotFoundError:
        return []


def _cpus(world: World, tree: Hierarchy, group: str) -> CpuSet:
    return CpuSet.parse(world.fs.read_or(f"{tree.mount}{group}/cpuset.cpus.exclusive", ""))


def _partitioned(world: World, tree: Hierarchy, group: str, orphans: list[str]) -> CpuSet:
    """The CPUs of every partition below a group that is no orphan: somebody uses them."""
    held = CpuSet()
    for name in _children(world, f"{tree.mount}{group}"):
        child = f"{group}/{name}"
        if child not in orphans:
            state = world.fs.read_or(f"{tree.mount}{child}/cpuset.cpus.partition", "member").strip()
            held |= _cpus(world, tree, child) if state != "member" else _partitioned(world, tree, child, orphans)
    return held


def _is_libvirts(name: str, domain: str) -> bool:
    """Whether libvirt made this group for this domain: it names it qemu-ID-DOMAIN.libvirt-qemu, without the letters that a host
    name cannot have, and cut at 64 (virSystemdMakeMachineName).
    """
    machine = name.removesuffix(".libvirt-qemu")
    _number, _, part = _plain(machine.removeprefix("qemu-")).partition("-")
    return part == _plain(domain) or (len(machine) >= _LONGEST_NAME and _plain(domain).startswith(part))


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in "-.")
