"""Taking a VM off the host: its domain, its cgroups, its claims on the levels above them, its files."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from quietcore import images
from quietcore.engine.apply import Applier, is_gone
from quietcore.engine.realtime import restore_host
from quietcore.engine.world import World
from quietcore.errors import OperationFailed, TimedOut
from quietcore.host import cgroups
from quietcore.host.cgroups import Groups, Probe
from quietcore.isolation import partition_cpus, released
from quietcore.model import OWN_ROOT, Entry, Ledger, VmName, union

_PATIENCE_S: Final = 30.0
_PAUSE_S: Final = 0.05


def end_domain(world: World, vm: VmName) -> None:
    """End a domain now and wait until libvirt no longer knows it. Raises TimedOut."""
    if world.hypervisor.find(vm.domain) is None:
        return
    world.hypervisor.destroy(vm.domain)
    deadline = world.clock() + _PATIENCE_S
    while world.hypervisor.find(vm.domain) is not None:
        if world.clock() > deadline:
            raise TimedOut(f"{vm}: libvirt still knows the domain {vm.domain} {_PATIENCE_S:.0f} s after it was ended")
        world.sleep(_PAUSE_S)


def ask_to_end(world: World, vm: VmName, grace_s: int) -> None:
    """Ask the guest to power off and wait for up to `grace_s` seconds; what does not obey is ended."""
    view = world.hypervisor.find(vm.domain)
    if view is not None and view.state == "running" and grace_s > 0:
        world.hypervisor.shutdown(vm.domain)
        deadline = world.clock() + grace_s
        while world.hypervisor.find(vm.domain) is not None and world.clock() < deadline:
            world.sleep(_PAUSE_S)
    end_domain(world, vm)


def remove_groups(world: World, entry: Entry, others: Ledger) -> None:
    """Remove the groups that we made for a VM that is gone and shrink the exclusive lists above it to what `others` own."""
    others = others.without(entry.vm)
    restore_host(world, entry, others)
    tree = cgroups.hierarchy(world.fs)
    if not entry.cgroup_home or not tree.mount or entry.boot_id != world.boot_id or entry.plan is None:
        return
    if entry.cgroup_home.startswith(OWN_ROOT + "/"):
        remove_tree(world, f"{tree.mount}{entry.cgroup_home}")
    above = Groups(layout="bare", home=entry.cgroup_home)
    facts = cgroups.facts(world.fs, tree, above, Probe(works=False))
    applier = Applier(world.fs, world.control, tree)
    for step in released(facts, union(partition_cpus(plan) for plan in (entry.plan, entry.moving) if plan is not None) - others.owned):
        try:
            applier.apply(step)
        except OperationFailed as err:
            if not is_gone(err.__cause__):  # systemd removes a slice when its last scope has ended
                raise
    if entry.cgroup_home.startswith(OWN_ROOT + "/"):
        with suppress(OSError):  # other VMs still live below it
            world.fs.rmdir(f"{tree.mount}{OWN_ROOT}")


def tear_down(world: World, vm: VmName, others: Ledger) -> None:
    """Remove everything of a VM from the host, by what the books on disk say of it; the ledger itself is the caller's.

    `others` says which CPUs stay owned. Raises OperationFailed or TimedOut; safe to repeat.
    """
    end_domain(world, vm)
    entry = world.books.load().find(vm)
    if entry is not None:
        remove_groups(world, entry, others)
    images.discard(world.vm_directory(vm))


def remove_tree(world: World, path: str) -> None:
    """Remove a group and its children; a group is busy until its last task is reaped."""
    if not world.fs.is_dir(path):
        return
    children = [f"{path}/{name}" for name in world.fs.listdir(path) if world.fs.is_dir(f"{path}/{name}")]
    for group in (*children, path):
        deadline = world.clock() + _PATIENCE_S
        while True:
            try:
                world.fs.rmdir(group)
                break
            except FileNotFoundError:
                break
            except OSError as err:
                if world.clock() > deadline:
                    raise OperationFailed(f"{group} cannot be removed: {err.strerror or err}") from err
                world.sleep(_PAUSE_S)
