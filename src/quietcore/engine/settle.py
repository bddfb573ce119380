"""Putting the threads of a running VM where its plan says, until a fresh look finds nothing more to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from quietcore.engine.apply import Applier
from quietcore.engine.observe import Observation, observe
from quietcore.engine.undo import UndoStack
from quietcore.engine.world import World
from quietcore.host import cgroups, threads
from quietcore.isolation import Isolation, isolate, mechanism_of
from quietcore.model import Applied, Entry, HostThread, Ledger, Plan, SetScheduler

_ROUNDS: Final = 4
"""QEMU's workers come and go: the census is repeated until it finds nothing to do, at most this often."""


def choose(world: World, ledger: Ledger, entry: Entry, plan: Plan, seen: Observation) -> Entry:
    """Decide on the mechanism, and what the books must know before the first write: its groups, what kernel threads had."""
    mechanism = mechanism_of(plan, seen.facts)
    entry = replace(entry, mechanism=mechanism, cgroup_home=seen.facts.home if seen.facts.layout != "none" else "")
    isolation = _isolation(world, entry, plan, seen)
    raised = {step.tid for step in isolation.steps if isinstance(step, SetScheduler)}
    first = _raised_by_others(world, ledger.without(entry.vm))
    restore = tuple(
        first.get(thread.tid, SetScheduler(tid=thread.tid, policy=thread.policy, priority=thread.priority))
        for thread in _kthreads(world, plan)
        if thread.tid in raised or thread.tid in first
    )
    return replace(entry, restore=restore, limits=isolation.limits)


def settle(
    world: World,
    entry: Entry,
    plan: Plan,
    seen: Observation | None = None,
    undo: UndoStack | None = None,
    *,
    tell: Callable[[Applied], None] | None = None,
) -> int:
    """Apply the steps of `entry.mechanism`: at start, after the shared pool changed, or as a repair. Gives the number of writes.

    Every write is pushed on `undo` and told to `tell` where they are given.
    """
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    total = 0
    for _ in range(_ROUNDS):
        done = 0
        for step in _isolation(world, entry, plan, seen or observe(world, entry.vm, domain=entry.domain)).steps:
            applied = applier.apply(step)
            if applied is not None:
                done += 1
                if undo is not None:
                    undo.push("a write", partial(applier.undo, applied))
                if tell is not None:
                    tell(applied)
        total += done
        if not done:
            break
        seen = None
    return total


def restore_kernel_threads(world: World, entry: Entry, others: Ledger) -> None:
    """Give the kernel threads back what they had before the first real-time VM, those that no other VM still needs raised.

    After a reboot there is nothing to give back.
    """
    if entry.boot_id == world.boot_id:
        needed = _raised_by_others(world, others)
        applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
        for step in entry.restore:
            if step.tid not in needed:
                applier.apply(step)


def kernel_threads_of(world: World, entry: Entry, plan: Plan) -> tuple[SetScheduler, ...]:
    """The steps that put the kernel threads of the CPUs of real-time vCPUs above them; what they had must be in the books before."""
    above = (entry.spec.cpu.realtime.priority if entry.spec.cpu.realtime else 1) + 1
    low = [thread for thread in _kthreads(world, plan) if thread.policy != "fifo" or thread.priority < above]
    return tuple(SetScheduler(tid=thread.tid, policy="fifo", priority=above) for thread in low)


def kernel_threads_raised(world: World, ledger: Ledger, entry: Entry, plan: Plan, seen: Observation) -> tuple[SetScheduler, ...]:
    """What kernel threads had before this VM raised them, those of `plan` as well, which is where it goes."""
    coming = {step.tid: step for step in choose(world, ledger, entry, plan, seen).restore}
    known = {step.tid: step for step in entry.restore}
    return tuple(step for _, step in sorted((coming | known).items()))


def lower_kernel_threads(world: World, ledger: Ledger, entry: Entry) -> tuple[SetScheduler, ...]:
    """Give back what they had to kernel threads that the VM's plan no longer needs raised; gives what stays to be given back later."""
    kept = {thread.tid for thread in _kthreads(world, entry.plan)} if entry.plan is not None else set()
    gone = replace(entry, restore=tuple(step for step in entry.restore if step.tid not in kept))
    restore_kernel_threads(world, gone, ledger.without(entry.vm))
    return tuple(step for step in entry.restore if step.tid in kept)


def _raised_by_others(world: World, others: Ledger) -> Mapping[int, SetScheduler]:
    """What kernel threads had before other VMs raised them: rcub threads serve many CPUs, so several VMs may need the same one."""
    return {step.tid: step for entry in others.entries if entry.boot_id == world.boot_id for step in entry.restore}


def _kthreads(world: World, plan: Plan) -> tuple[HostThread, ...]:
    if not any(vcpu.realtime for vcpu in plan.vcpus):
        return ()
    return threads.cpu_kthreads(world.fs, world.control, plan.dedicated)


def _isolation(world: World, entry: Entry, plan: Plan, seen: Observation) -> Isolation:
    realtime = entry.spec.cpu.realtime
    return isolate(
        plan,
        seen.census,
        seen.facts,
        entry.mechanism,
        priority=realtime.priority if realtime else 1,
        cpu_kthreads=_kthreads(world, plan),
    )
