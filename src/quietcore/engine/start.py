"""The story of `quietcore run`: from a plan to a running VM whose vCPU threads own their CPUs, or back to where it began."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quietcore import images, pod
from quietcore.engine import orphans
from quietcore.engine.copies import keep_copy
from quietcore.engine.domain_xml import real, unsuited
from quietcore.engine.identity import strategy_of, uuid_of
from quietcore.engine.observe import findings_of, observe
from quietcore.engine.pool import follow_pool, interrupts_away, interrupts_back
from quietcore.engine.realtime import limits_of
from quietcore.engine.settle import choose, settle
from quietcore.engine.teardown import tear_down
from quietcore.engine.undo import UndoStack
from quietcore.engine.world import Event, World
from quietcore.errors import InputError, OperationFailed
from quietcore.model import KUBEVIRT_DEFAULTS, ClusterConfig, Entry, LauncherPod, Ledger, Machine, Plan, Refusal, VmName, VmSpec
from quietcore.placement import admit


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The pod of a VM and what the managers said to it."""

    pod: LauncherPod
    answer: Plan | Refusal


def decide(spec: VmSpec, machine: Machine, ledger: Ledger, world: World, cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Decision:
    """Ask the managers for a place. `cluster` is KubeVirt's configuration, on which the pod's requests depend. Changes nothing."""
    strategy = strategy_of(spec, world.config.strategy)
    launcher = pod.launcher_pod(spec, strategy=strategy, uid=uuid_of(spec), cluster=pod.Cluster.of(cluster))
    return Decision(pod=launcher, answer=admit(launcher, machine, ledger, world.config.options))


def start(world: World, machine: Machine, ledger: Ledger, wanted: Entry) -> tuple[Ledger, Entry] | Refusal:
    """Start one VM that does not run; the caller holds the lock. Gives the new ledger, which is also on disk.

    Raises InputError for images that are missing and for a host that is not the guest's kind, OperationFailed when a step
    failed and all was undone, UndoFailed when something is left.
    """
    story = _Story(world, wanted.vm)

    # 1. A place, before anything is touched.
    absent = (*images.missing(wanted.spec, world.store), *unsuited(world, machine, wanted.spec))
    if absent:
        raise InputError.of(absent)
    decision = decide(wanted.spec, machine, ledger, world, wanted.cluster)
    if isinstance(decision.answer, Refusal):
        return decision.answer
    plan = decision.answer
    story.tell("placed", _placed(plan))

    with UndoStack() as undo:
        # 2. The intent, before the first write to the host.
        directory = world.vm_directory(wanted.vm)
        entry = replace(
            wanted, phase="creating", plan=plan, boot_id=world.boot_id, domain_uuid=uuid_of(wanted.spec), directory=str(directory)
        )
        before = ledger
        undo.push("the start", lambda: _undo(world, machine, wanted.vm, before))
        ledger = ledger.with_entry(entry)
        world.books.save(ledger)

        # 3. Its files and its paused domain, on CPUs that nobody holds.
        orphans.clear(world, before, plan)
        prepared = images.prepare(wanted.spec, world.store, directory, world.runner)
        follow_pool(world, machine, ledger)
        rendered = real(world, machine, wanted.spec, plan, prepared)
        for note in rendered.notes:
            story.tell("note", note)
        world.hypervisor.create_paused(rendered.xml)
        story.tell("created", f"domain {wanted.vm.domain}")
        story.tell("paused", "no vCPU has run yet")

        # 4. Its threads, found by QEMU's own answer.
        probe = plan.dedicated.lowest if plan.dedicated else None
        seen = observe(world, wanted.vm, probe_cpu=probe)
        story.tell(
            "threads found", f"{len(seen.census.vcpus)} vCPU and {len(seen.census.others)} other threads in process {seen.census.pid}"
        )

        # 5. Each to its place.
        entry = choose(world, ledger, entry, plan, seen)
        ledger = ledger.with_entry(entry)
        world.books.save(ledger)
        moved = settle(world, entry, plan, seen)
        entry = replace(entry, limits=(*entry.limits, *limits_of(world, entry, plan, seen.census)))
        story.tell("moved", _moved(plan, entry, moved))
        if entry.mechanism == "partition":
            ledger = interrupts_away(world, ledger)

        # 6. Read back, then let it run.
        seen = observe(world, wanted.vm)
        errors = [finding for finding in findings_of(world, entry, plan, seen, ledger) if finding.severity == "error"]
        if errors:
            raise OperationFailed("\n".join(f"{one.code}: {one.kind} {one.id}: expected {one.expected}, is {one.actual}" for one in errors))
        story.tell("checked", f"{len(seen.census.threads)} threads read back from the kernel")
        if not wanted.spec.start_paused:
            world.hypervisor.resume(wanted.vm.domain)
        entry = replace(entry, phase="running", earlier=None)
        keep_copy(world, entry)
        ledger = ledger.with_entry(entry)
        world.books.save(ledger)
        undo.keep()
    story.tell("running", "paused, as its start strategy says" if wanted.spec.start_paused else f"`quietcore console {wanted.vm.name}`")
    return ledger, entry


def _undo(world: World, machine: Machine, vm: VmName, before: Ledger) -> None:
    """Take the VM away, then give the others back what it took. The books forget it last: a command that finds it there goes on."""
    tear_down(world, vm, before)
    follow_pool(world, machine, before)
    interrupts_back(world, before)
    world.books.save(before)


class _Story:
    """Tells each step with the time since the one before."""

    def __init__(self, world: World, vm: VmName) -> None:
        self._world = world
        self._vm = vm
        self._last = world.clock()

    def tell(self, step: str, detail: str) -> None:
        now = self._world.clock()
        self._world.report(Event(vm=self._vm, step=step, detail=detail, seconds=now - self._last))
        self._last = now


def _placed(plan: Plan) -> str:
    if not plan.dedicated:
        return f"shared pool {plan.shared}"
    return f"vCPUs on {plan.dedicated}, other threads on {plan.emulator} ({plan.strategy})"


def _moved(plan: Plan, entry: Entry, writes: int) -> str:
    where = f"vCPUs on {plan.dedicated}" if plan.dedicated else "all threads on the shared pool"
    how = f"{writes} writes, each read back" if writes else "libvirt had put every thread there; nothing to write"
    return f"{where} by {entry.mechanism}: {how}"
