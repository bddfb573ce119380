"""The host's part in real time: kernel threads that must stand above real-time vCPUs, raised before and given back after.

What they had is in the books before the first write. Several VMs may need the same thread (one rcub serves many CPUs): the first
one's record counts for all, and the last one gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from quietcore.engine.apply import Applier
from quietcore.engine.world import World
from quietcore.errors import OperationFailed
from quietcore.host import cgroups, threads
from quietcore.isolation import is_below, raising_steps, realtime_cpus
from quietcore.model import Applied, Entry, HostThread, Ledger, Plan, SetScheduler

OVERRIDE: Final = "quietcore.io/allow-priority-inversion"


def priority_of(entry: Entry) -> int:
    """The SCHED_FIFO priority of a VM's real-time vCPUs."""
    return entry.spec.cpu.realtime.priority if entry.spec.cpu.realtime else 1


def may_invert(entry: Entry) -> bool:
    """Whether somebody allowed this VM by name to outrank kernel threads that cannot be raised."""
    return entry.spec.cpu.realtime is not None and entry.spec.cpu.realtime.allow_inversion


def kernel_threads(world: World, plan: Plan) -> tuple[HostThread, ...]:
    """The kernel threads that the VM's real-time vCPUs must not outrank, as they are now."""
    cpus = realtime_cpus(plan)
    return threads.cpu_kthreads(world.fs, world.control, cpus) if cpus else ()


def originals(world: World, ledger: Ledger, entry: Entry, plan: Plan) -> tuple[SetScheduler, ...]:
    """What has to be in the books before the kernel threads are raised: how each of them was before the first real-time VM."""
    seen = kernel_threads(world, plan)
    coming = {step.tid for step in raising_steps(seen, priority_of(entry))}
    first = _raised_by_others(world, ledger.without(entry.vm))
    return tuple(
        first.get(thread.tid, SetScheduler(tid=thread.tid, policy=thread.policy, priority=thread.priority))
        for thread in seen
        if thread.tid in coming or thread.tid in first
    )


def raise_kernel_threads(world: World, entry: Entry, plan: Plan, wrote: Callable[[Applied], None] = lambda _applied: None) -> int:
    """Put the kernel threads above the VM's real-time priority; gives the number of writes. `originals` must be on disk.

    `wrote` hears every write. Raises OperationFailed for a thread that cannot be raised, unless the VM was allowed it by name.
    """
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    seen = kernel_threads(world, plan)
    names = {thread.tid: thread.comm for thread in seen}
    done = 0
    for step in raising_steps(seen, priority_of(entry)):
        try:
            applied = applier.apply(step)
        except OperationFailed as err:
            if may_invert(entry):
                continue
            raise OperationFailed(
                f"{entry.vm}: the kernel thread {names[step.tid]} cannot be raised above real-time priority {step.priority - 1}, and a "
                f"polling vCPU would then hang this host: {err}",
                hint=f"lower quietcore.io/realtime-priority, or take the risk by name with the annotation {OVERRIDE}: 'true'",
            ) from err
        if applied is not None:
            done += 1
            wrote(applied)
    return done


def restore_kernel_threads(world: World, entry: Entry, others: Ledger) -> None:
    """Give the kernel threads back what they had before the first real-time VM, or what the VMs that stay still need of them.

    After a reboot there is nothing to give back.
    """
    if entry.boot_id == world.boot_id:
        needed = _needed_by(world, others)
        applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
        for step in entry.restore:
            applier.apply(_higher(step, needed.get(step.tid, 0)))


def lower_kernel_threads(world: World, ledger: Ledger, entry: Entry) -> tuple[SetScheduler, ...]:
    """Give back what they had to kernel threads that the VM's plan no longer needs raised; gives what stays to be given back later."""
    kept = {thread.tid for thread in kernel_threads(world, entry.plan)} if entry.plan is not None else set()
    gone = replace(entry, restore=tuple(step for step in entry.restore if step.tid not in kept))
    restore_kernel_threads(world, gone, ledger.without(entry.vm))
    return tuple(step for step in entry.restore if step.tid in kept)


def limits_of(world: World, entry: Entry, plan: Plan) -> tuple[str, ...]:
    """In sentences, what this host still takes from a polling real-time vCPU, or what such a vCPU can do to the host."""
    starved = sorted(thread.comm for thread in kernel_threads(world, plan) if is_below(thread, priority_of(entry)))
    if not starved:
        return ()
    verb = "which is" if len(starved) == 1 else "which are"
    return (f"a polling vCPU starves {', '.join(starved)}, {verb} not above it, and can hang this host",)


def _needed_by(world: World, others: Ledger) -> Mapping[int, int]:
    """Thread -> the priority that VMs still need of it."""
    needed: dict[int, int] = {}
    for entry in others.entries:
        if entry.boot_id == world.boot_id:
            needed |= {step.tid: max(priority_of(entry) + 1, needed.get(step.tid, 0)) for step in entry.restore}
    return needed


def _higher(original: SetScheduler, needed: int) -> SetScheduler:
    below = needed > 0 and is_below(original, needed - 1)
    return SetScheduler(tid=original.tid, policy="fifo", priority=needed) if below else original


def _raised_by_others(world: World, others: Ledger) -> Mapping[int, SetScheduler]:
    return {step.tid: step for entry in others.entries if entry.boot_id == world.boot_id for step in entry.restore}
