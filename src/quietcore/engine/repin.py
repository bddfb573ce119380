"""The story of `quietcore repin`: the vCPUs of running VMs go to other CPUs, without a stop, or all stay where they were.

`grow` is the same for vCPUs that were plugged in or out, which nobody can undo.

While it goes on the books give the VM both placements. `plan` is the one that holds if the command is cut off: the old one until
every thread was read back on its new CPU, the new one from then on. `finish` brings a VM to it from anywhere in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from quietcore import pod
from quietcore.engine import orphans
from quietcore.engine.adopt import remembering
from quietcore.engine.apply import Applier
from quietcore.engine.copies import keep_copy
from quietcore.engine.identity import strategy_of
from quietcore.engine.memory import MemoryMove
from quietcore.engine.observe import Observation, findings_of, observe
from quietcore.engine.pool import follow_pool, interrupts_away
from quietcore.engine.realtime import raise_kernel_threads, restore_unused
from quietcore.engine.settle import before_move, settle
from quietcore.engine.shared import current_plan, shared_pool
from quietcore.engine.teardown import remove_tree
from quietcore.engine.undo import UndoStack
from quietcore.engine.world import Event, World
from quietcore.errors import InputError, OperationFailed, Problem, QuietcoreError, UndoFailed
from quietcore.host import cgroups
from quietcore.host.cgroups import Groups, Probe
from quietcore.isolation import awaiting_steps, move_order, moved_vcpus, moving_steps, narrowed, released
from quietcore.model import OWN_ROOT, CpuSet, Entry, LauncherPod, Ledger, Machine, Plan, Refusal, union
from quietcore.placement import fit_of, move

_MOVES: Final = {"partition"}
"""The mechanisms under which two vCPUs cannot be on one CPU even for a moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What a re-placement would do: the placement now, the one to come (the same where nothing has to move), the vCPUs in order.

    `memory` is what of the VM's memory goes with them, where that was asked for.
    `containers` are those that a sandbox has from then on.
    """

    entry: Entry
    here: Plan
    there: Plan
    order: tuple[int, ...]
    memory: MemoryMove | None = None
    containers: Mapping[str, CpuSet] | None = None

    def arrived(self, entry: Entry) -> Entry:
        """The entry when the new placement holds."""
        containers = entry.sandbox if self.containers is None else self.containers
        return replace(entry, plan=self.there, moving=self.here, sandbox=containers)


def plan_move(
    world: World, machine: Machine, ledger: Ledger, entry: Entry, *, cpus: CpuSet | None = None, memory: bool = False
) -> Move | Refusal:
    """Decide where a running VM would go: to `cpus`, or to a place that is better than its own. Changes nothing.

    With `memory` its memory goes to the nodes of that place as well, also where the vCPUs stay.
    Raises InputError for a VM that has no CPUs of its own to move.
    """
    here = entry.plan
    if here is None or entry.phase != "running":
        raise _cannot(entry, "it does not run", "not-running", f"`quietcore get vms {entry.vm.name}` shows its phase")
    if entry.sandbox is not None:
        raise _cannot(entry, "it is a sandbox, whose CPUs are its containers'", "sandbox", f"`quietcore sandbox update {entry.vm.name}`")
    launcher = pod_of(world, entry, here)
    if not launcher.guest.dedicated_vcpus:
        raise _cannot(entry, "it has no CPUs of its own, all of its threads share the pool", "not-dedicated", "")
    there = move(launcher, machine, ledger, world.config.options, here, cpus=cpus, memory=memory)
    if isinstance(there, Refusal):
        return there
    threads = entry.spec.cpu.topology.threads
    better = fit_of(there, machine, ledger, threads) < fit_of(here, machine, ledger, threads)
    if cpus is None and here.dedicated and not better:
        there = here
        if memory:
            there = move(launcher, machine, ledger, world.config.options, here, cpus=here.exclusive, memory=True)
            if isinstance(there, Refusal):
                return there
    if not memory:
        return move_to(entry, here, there)
    from quietcore.engine.memory import plan_memory  # noqa: PLC0415  # brings lxml, which no other move needs

    answer = plan_memory(world, entry, there)
    return answer if isinstance(answer, Refusal) else replace(move_to(entry, here, there), memory=answer)


def pod_of(world: World, entry: Entry, here: Plan) -> LauncherPod:
    """The launcher pod of a running VM, as it was when it got its plan."""
    strategy = here.strategy if here.dedicated else strategy_of(entry.spec, world.config.strategy)
    return pod.launcher_pod(entry.spec, strategy=strategy, uid=here.uid, cluster=pod.Cluster.of(entry.cluster))


def move_to(entry: Entry, here: Plan, there: Plan) -> Move:
    """The move between two placements."""
    return Move(entry=entry, here=here, there=there, order=move_order(here, there))


def repin(world: World, machine: Machine, ledger: Ledger, steps: Sequence[Move]) -> Ledger:
    """Carry out planned moves, all or none; the caller holds the lock and has recovered. Gives the new ledger, which is also on disk.

    Each VM goes to CPUs that nobody owns yet. Raises OperationFailed when a step failed and all vCPUs are back, UndoFailed when
    something is left for the next command.
    """
    steps = [one for one in steps if one.there != one.here]
    if not steps:
        return ledger
    told = {one.entry.vm: _Told(world, one.entry) for one in steps}
    before, entries = ledger, list[Entry]()
    needy = [one for one in steps if one.entry.mechanism in _MOVES and one.there.strategy == "dedicated"]
    if needy and not shared_pool(world, machine, ledger) - union(one.there.exclusive for one in steps):
        raise OperationFailed(f"{needy[0].entry.vm}: while it moves no CPU would be left for the shared pool")
    with UndoStack(hint="the next quietcore command tries it again") as undo:
        # 1. The intent: both placements are their own, the old ones hold.
        undo.push("the vCPUs' old places", lambda: _back(world, machine, before, entries))
        for step in steps:
            seen = observe(world, step.entry.vm, domain=step.entry.domain)
            known = remembering(world, step.entry, step.there, seen)
            entries.append(replace(before_move(world, ledger, known, step.there, seen), moving=step.there))
            ledger = ledger.with_entry(entries[-1])
        world.books.save(ledger)

        # 2. Everybody else leaves the new CPUs, then the vCPUs go there one by one.
        orphans.clear(world, before, *(step.there for step in steps))
        if any(entry.mechanism == "partition" for entry in entries):
            ledger = interrupts_away(world, ledger)
        if len(steps) > 1:  # else its own move makes its helper threads leave
            for step, entry in zip(steps, entries, strict=True):
                settle(world, entry, current_plan(world, machine, ledger, step.here))
        flipped = [step.arrived(entry) for step, entry in zip(steps, entries, strict=True)]
        arriving = ledger
        for entry in flipped:
            arriving = arriving.with_entry(entry)
        for step, entry in zip(steps, flipped, strict=True):
            bring(world, machine, arriving, entry)
            places = f"from {step.here.dedicated or 'the pool'} to {step.there.dedicated or 'the pool'}"
            told[entry.vm].tell("moved", f"vCPUs {', '.join(map(str, step.order))} {places}")

        # 3. Read back, then the new placements hold.
        for step, entry in zip(steps, flipped, strict=True):
            seen = observe(world, entry.vm, domain=entry.domain)
            _check(world, entry, current_plan(world, machine, arriving, step.there), seen, ledger)
            told[entry.vm].tell("checked", f"{len(seen.census.threads)} threads read back from the kernel")
        ledger = arriving
        world.books.save(ledger)
        undo.keep()
    for step, entry in zip(steps, flipped, strict=True):
        try:
            ledger = finish(world, machine, ledger, entry)
        except (OSError, QuietcoreError) as err:
            left = step.here.dedicated - step.there.dedicated
            message = f"{entry.vm} moved to {step.there.dedicated}, but {left} could not be given back: {err}"
            raise UndoFailed(message, hint="the next quietcore command tries it again") from err
        told[entry.vm].tell("given back", f"{step.here.exclusive - step.there.exclusive or 'no CPU'}")
    return ledger


def grow(world: World, machine: Machine, ledger: Ledger, entry: Entry, *, there: Plan, seen: Observation) -> Ledger:
    """Bring a VM whose vCPUs were plugged in or out to the plan that follows. One that is cut off is finished by the next command."""
    growing = replace(before_move(world, ledger, remembering(world, entry, there, seen), there, seen), plan=there, moving=entry.plan)
    ledger = ledger.with_entry(growing)
    world.books.save(ledger)  # the intent, before the first write to the host
    return finish(world, machine, ledger, growing)


def finish(world: World, machine: Machine, ledger: Ledger, entry: Entry) -> Ledger:
    """Bring a VM that is on the move to the plan that its entry holds, and give the other one's CPUs back. Safe to repeat."""
    bring(world, machine, ledger, entry)
    _narrow(world, ledger, entry)
    settled = replace(restore_unused(world, ledger, entry), moving=None)
    ledger = ledger.with_entry(settled)
    follow_pool(world, machine, ledger)
    keep_copy(world, settled)
    world.books.save(ledger)
    return interrupts_away(world, ledger) if entry.mechanism == "partition" else ledger


def bring(world: World, machine: Machine, ledger: Ledger, entry: Entry) -> None:
    """Move the threads of one VM, and its memory where the two plans differ in it, to `entry.plan` from wherever they are.

    That is anywhere between it and `entry.moving`; `ledger` owns both.
    """
    plan, other = entry.plan, entry.moving
    if plan is None or other is None:
        raise AssertionError(f"{entry.vm} is not on the move")
    there, here = (current_plan(world, machine, ledger, one) for one in (plan, other))
    follow_pool(world, machine, ledger)
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    raise_kernel_threads(world, entry, there)
    seen, online = observe(world, entry.vm, domain=entry.domain), world.online
    if plan.exclusive <= online:
        steps = moving_steps(here, there, seen.census, seen.facts, entry.mechanism)
    else:  # what cannot go there waits on the pool, where `settle` puts it
        steps = awaiting_steps(there, seen.facts, online)
    for step in steps:
        applier.apply(step)
    settle(world, entry, there)
    _tell_libvirt(world, entry, here, there, online)
    if plan.memory != other.memory:
        from quietcore.engine.memory import bring_memory  # noqa: PLC0415  # as above

        bring_memory(world, entry, other, plan)


def recovered(world: World, machine: Machine, ledger: Ledger) -> Ledger:
    """Finish every move that was cut off. One that cannot be finished keeps both placements, and is told."""
    for entry in ledger.entries:
        if entry.moving is None or entry.phase != "running" or world.hypervisor.find(entry.domain) is None:
            continue
        try:
            ledger = finish(world, machine, ledger, entry)
            detail = "a move of its vCPUs that had been cut off"
        except (OSError, QuietcoreError) as err:
            detail = f"a move of its vCPUs cannot be finished: {err}"
        world.report(Event(vm=entry.vm, step="recovered", detail=detail, seconds=0.0))
    return ledger


def _check(world: World, entry: Entry, there: Plan, seen: Observation, ledger: Ledger) -> None:
    errors = [one for one in findings_of(world, entry, there, seen, ledger) if one.severity == "error"]
    if errors:
        raise OperationFailed("\n".join(f"{one.code}: {one.kind} {one.id}: expected {one.expected}, is {one.actual}" for one in errors))


def _back(world: World, machine: Machine, before: Ledger, entries: Sequence[Entry]) -> None:
    """Bring VMs that are on the move, or were about to be, to where they were. One that resists does not keep the others away."""
    ledger = replace(before, irqs=world.books.load().irqs)  # where interrupts were first, also those that these moves sent away
    for entry in entries:
        ledger = ledger.with_entry(entry)
    left = []
    for entry in reversed(entries):
        try:
            ledger = finish(world, machine, ledger, entry)
        except (OSError, QuietcoreError) as err:
            left.append(f"{entry.vm}: {err}")
    if left:
        raise OperationFailed("; ".join(left))


def _narrow(world: World, ledger: Ledger, entry: Entry) -> None:
    """Take what was left off the exclusive lists above the VM."""
    if entry.mechanism != "partition" or entry.plan is None or entry.moving is None:
        return
    tree = cgroups.hierarchy(world.fs)
    for vcpu in sorted({one.vcpu for one in entry.moving.vcpus} - {one.vcpu for one in entry.plan.vcpus}):  # it was plugged out
        if entry.cgroup_home.startswith(OWN_ROOT + "/"):
            remove_tree(world, f"{tree.mount}{entry.cgroup_home}/vcpu{vcpu}")
    facts = cgroups.facts(world.fs, tree, Groups(layout="bare", home=entry.cgroup_home), Probe(works=False))
    applier = Applier(world.fs, world.control, tree)
    for step in released(facts, narrowed(entry.moving, entry.plan) - ledger.without(entry.vm).owned):
        applier.apply(step)


def _tell_libvirt(world: World, entry: Entry, here: Plan, there: Plan, online: CpuSet) -> None:
    """libvirt's own books, last: it sets the same cpusets and affinities again, and refuses CPUs that are offline or not in a cpuset."""
    pinned = entry.adopted.vcpu_pins if entry.adopted is not None else None
    goal = {vcpu.vcpu: vcpu.pcpu for vcpu in there.vcpus}
    for vcpu in moved_vcpus(here, there):
        cpu = goal[vcpu]
        if cpu is not None and cpu not in online:
            continue
        if pinned is None or vcpu in pinned:  # a pin that an adopted domain did not have could not be taken back
            world.hypervisor.pin_vcpu(entry.domain, vcpu, there.shared if cpu is None else CpuSet.of(cpu))
    if here.emulator != there.emulator and there.emulator <= online and (entry.adopted is None or entry.adopted.emulator_pin is not None):
        world.hypervisor.pin_emulator(entry.domain, there.emulator)


def _cannot(entry: Entry, why: str, code: str, hint: str) -> InputError:
    return InputError.of((Problem(message=f"the vCPUs of {entry.vm} cannot be moved: {why}", code=code, hint=hint),))


class _Told:
    """Tells each step with the time since the one before."""

    def __init__(self, world: World, entry: Entry) -> None:
        self._tell: Callable[[Event], None] = world.report
        self._clock, self._vm, self._last = world.clock, entry.vm, world.clock()

    def tell(self, step: str, detail: str) -> None:
        now = self._clock()
        self._tell(Event(vm=self._vm, step=step, detail=detail, seconds=now - self._last))
        self._last = now
