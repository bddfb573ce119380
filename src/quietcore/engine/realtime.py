"""The host's part in real time: kernel threads above real-time vCPUs, budgets, throttling; changed before, given back after.

What there was is in the books before the first write. Several VMs may need the same thread or file (one rcub serves many CPUs): the
first one's record counts for all, and the last one gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from quietcore.engine.apply import Applier
from quietcore.engine.world import World
from quietcore.errors import OperationFailed
from quietcore.host import cgroups, realtime, threads
from quietcore.isolation import (
    FAIR_SERVERS,
    THROTTLE,
    budget_files,
    budget_steps,
    fair_server_file,
    is_below,
    no_budget,
    polling_cpus,
    raising_steps,
    realtime_cpus,
    taken,
    unthrottling_steps,
)
from quietcore.model import Applied, Entry, HostThread, Ledger, Plan, RealtimeHost, SetScheduler, SetValue, Step, ThreadCensus

_PATIENCE_S: Final = 30.0
_PAUSE_S: Final = 0.05
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


def host_of(world: World, plan: Plan, tids: Iterable[int] = ()) -> RealtimeHost | None:
    """What the host takes from the VM's real-time threads `tids`; None for a VM without real-time vCPUs."""
    cpus = polling_cpus(plan)
    return realtime.realtime_host(world.fs, cpus, tids) if cpus else None


def before_fifo(entry: Entry, host: RealtimeHost | None) -> tuple[Step, ...]:
    """What has to be done before threads of the VM become SCHED_FIFO. Raises OperationFailed where no budget is left for them."""
    if host is None:
        return ()
    missing = no_budget(host)
    if missing:
        raise OperationFailed(f"{entry.vm}: {missing}", hint="lower their budgets, or move the VM's group below another parent")
    return tuple(budget_steps(host))


def after_fifo(world: World, entry: Entry, plan: Plan, host: RealtimeHost | None) -> tuple[Step, ...]:
    """The settings of the host that leave the CPUs to polling vCPUs; none while a kernel thread could starve for it."""
    return unthrottling_steps(host) if host is not None and may_unthrottle(world, entry, plan) else ()


def may_unthrottle(world: World, entry: Entry, plan: Plan) -> bool:
    """Whether the host's configuration allows it, and every kernel thread stands above the VM."""
    above = priority_of(entry)
    return world.config.allow_host_settings and not any(is_below(thread, above) for thread in kernel_threads(world, plan))


def has_drifted(world: World, entry: Entry, plan: Plan) -> bool:
    """Whether somebody lowered a kernel thread or switched throttling on again below a real-time VM. No event tells of either."""
    host = host_of(world, plan)
    if host is None:
        return False
    return bool(raising_steps(kernel_threads(world, plan), priority_of(entry)) or after_fifo(world, entry, plan, host))


def remember(world: World, ledger: Ledger, entry: Entry, plan: Plan, tids: Iterable[int]) -> Entry:
    """The entry with everything of the host that real time will change, as it was before the first VM: to be on disk before a write."""
    others = ledger.without(entry.vm)
    restore = {step.tid: step for step in _originals(world, others, entry, plan)} | {step.tid: step for step in entry.restore}
    known = {step.path: step for step in entry.settings}
    coming = [step for step in _settings(world, others, plan, tids) if step.path not in known]
    return replace(entry, restore=tuple(step for _, step in sorted(restore.items())), settings=(*entry.settings, *coming))


def _originals(world: World, others: Ledger, entry: Entry, plan: Plan) -> Iterator[SetScheduler]:
    seen = kernel_threads(world, plan)
    coming = {step.tid for step in raising_steps(seen, priority_of(entry))}
    first = _raised_by(world, others)
    for thread in seen:
        if thread.tid in coming or thread.tid in first:
            yield first.get(thread.tid, SetScheduler(tid=thread.tid, policy=thread.policy, priority=thread.priority))


def _settings(world: World, others: Ledger, plan: Plan, tids: Iterable[int]) -> Iterator[SetValue]:
    """Every file that the VM relies on: what it will write, and what another VM wrote already."""
    host = host_of(world, plan, tids)
    if host is None:
        return
    first = {step.path: step for entry in others.entries if entry.boot_id == world.boot_id for step in entry.settings}
    steps = [step for step in budget_steps(host) if isinstance(step, SetValue)]
    steps += unthrottling_steps(host) if world.config.allow_host_settings else ()
    writes = {step.path for step in steps}
    for path in (*budget_files(host), THROTTLE, *map(fair_server_file, sorted(host.fair_servers))):
        if path in first:
            yield first[path]
        elif path in writes:
            yield SetValue(path=path, value=world.fs.read(path).strip())


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


def restore_host(world: World, entry: Entry, others: Ledger) -> None:
    """Give the host back what it had before the first real-time VM, or what the VMs that stay still need of it: settings, then threads.

    After a reboot there is nothing to give back. Raises OperationFailed.
    """
    if entry.boot_id != world.boot_id:
        return
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    kept = {step.path for other in others.entries if other.boot_id == world.boot_id for step in other.settings}
    for value in reversed(entry.settings):
        if value.path not in kept and world.fs.exists(value.path):
            _patiently(world, applier, value)
    needed = _needed_by(world, others)
    for step in entry.restore:
        applier.apply(_higher(step, needed.get(step.tid, 0)))


def restore_unused(world: World, ledger: Ledger, entry: Entry) -> Entry:
    """Give back what the VM's plan no longer needs, after a move; the entry that is left knows what is still to be given back."""
    if entry.plan is None:
        return entry
    threads_kept = {thread.tid for thread in kernel_threads(world, entry.plan)}
    servers_kept = {fair_server_file(cpu) for cpu in polling_cpus(entry.plan)}
    kept = replace(
        entry,
        restore=tuple(step for step in entry.restore if step.tid in threads_kept),
        settings=tuple(step for step in entry.settings if not step.path.startswith(FAIR_SERVERS) or step.path in servers_kept),
    )
    gone = replace(
        entry,
        restore=tuple(step for step in entry.restore if step not in kept.restore),
        settings=tuple(step for step in entry.settings if step not in kept.settings),
    )
    restore_host(world, gone, ledger.without(entry.vm))
    return kept


def _patiently(world: World, applier: Applier, step: SetValue) -> None:
    """A budget is busy until the last real-time thread of its group is reaped."""
    deadline = world.clock() + _PATIENCE_S
    while True:
        try:
            applier.apply(step)
        except OperationFailed:
            if world.clock() > deadline:
                raise
            world.sleep(_PAUSE_S)
        else:
            return


def limits_of(world: World, entry: Entry, plan: Plan, census: ThreadCensus) -> tuple[str, ...]:
    """In sentences, what this host still takes from a polling real-time vCPU, or what such a vCPU can do to the host."""
    masked = {vcpu.vcpu for vcpu in plan.vcpus if vcpu.realtime}
    host = host_of(world, plan, [thread.tid for thread in census.vcpus if thread.vcpu in masked])
    if host is None:
        return ()
    lost = tuple(taken(host))
    starved = sorted(thread.comm for thread in kernel_threads(world, plan) if is_below(thread, priority_of(entry)))
    if not starved:
        return lost
    verb = "which is" if len(starved) == 1 else "which are"
    return (*lost, f"a polling vCPU starves {', '.join(starved)}, {verb} not above it, and can hang this host")


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


def _raised_by(world: World, others: Ledger) -> Mapping[int, SetScheduler]:
    return {step.tid: step for entry in others.entries if entry.boot_id == world.boot_id for step in entry.restore}
