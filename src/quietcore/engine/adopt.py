"""The stories of `quietcore adopt` and `release`: a running domain that is not ours gets CPUs of its own, and gives them back.

Before the first write the books hold what stood there: every thread's group, affinity and policy, every file that will be
written, libvirt's pins. An adoption that is cut off is always undone, a release that is cut off is always finished.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Final

from quietcore import images
from quietcore.domain import facts as domain_facts
from quietcore.domain import to_manifest
from quietcore.engine import orphans
from quietcore.engine.apply import Applier
from quietcore.engine.copies import keep_copy
from quietcore.engine.observe import Observation, findings_of, observe
from quietcore.engine.pool import follow_pool, interrupts_away, interrupts_back
from quietcore.engine.realtime import restore_host
from quietcore.engine.settle import choose, isolation_of, settle
from quietcore.engine.start import decide
from quietcore.engine.undo import UndoStack
from quietcore.engine.world import Event, World
from quietcore.errors import InputError, OperationFailed, Problem, QuietcoreError, UndoFailed
from quietcore.host import cgroups
from quietcore.host.cgroups import Groups, Probe
from quietcore.isolation import cpu_groups_back, files_back, partition_back, policies_back, threads_back, touched
from quietcore.manifest import SourceText, load
from quietcore.model import (
    OWN_ROOT,
    Adoption,
    CpuSet,
    DomainFacts,
    Entry,
    Ledger,
    Machine,
    Plan,
    Realtime,
    Refusal,
    SetValue,
    Strategy,
    VcpuPlacement,
    VmName,
    VmSpec,
    union,
)
from quietcore.placement import sandbox_plan, with_running

_STAT_START: Final = 19
"""The start time's place after the name in /proc/PID/stat (field 22 of proc(5))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a person asks of a domain: a name for it, how many of its first vCPUs get a CPU each (None: all), which are real-time.

    `containers` ask for a sandbox: the host CPUs of each, in place of a number.
    """

    domain: str
    vm: VmName | None = None
    vcpus: int | None = None
    realtime: frozenset[int] = frozenset()
    priority: int = 1
    strategy: Strategy | None = None
    containers: Mapping[str, CpuSet] | None = None


def wanted_entry(world: World, ledger: Ledger, wanted: Wanted) -> Entry:
    """The entry of a domain that is to be adopted, without a plan. Raises InputError with everything that speaks against it."""
    view = world.hypervisor.find(wanted.domain)
    if view is None:
        raise _refused("no-domain", f"libvirt runs no domain {wanted.domain}", "virsh list shows those that run")
    known = next((entry for entry in ledger.entries if entry.phase != "stopped" and entry.domain == wanted.domain), None)
    if known is not None:
        raise _refused("known", f"{wanted.domain} is in the books already, as {known.vm}", f"`quietcore describe {known.vm.name}`")
    xml = world.hypervisor.xml(wanted.domain)
    found = domain_facts(xml)
    if found.vm is not None:
        raise _refused("ours", f"{wanted.domain} was made by quietcore, which has forgotten it", "`quietcore ledger rebuild`")
    text = json.dumps(to_manifest(xml)[0], indent=2)
    spec = _spec(load([SourceText(file=wanted.domain, text=text)]).documents[0].spec, found, view.uuid, wanted)
    if ledger.find(spec.vm) is not None:
        raise _refused("name-taken", f"there is a VM {spec.vm} already", "--name gives the domain another name in the books")
    boot, sandbox = world.boot_id, wanted.containers
    return Entry(spec=spec, digest="", manifest=text, phase="creating", boot_id=boot, domain_uuid=view.uuid, sandbox=sandbox)


def place(world: World, machine: Machine, ledger: Ledger, entry: Entry, domain: str) -> Plan | Refusal:
    """Where a domain that is to be adopted would go: the managers' answer, for a sandbox its containers' CPUs. Changes nothing."""
    answer = decide(entry.spec, machine, ledger, world).answer
    if isinstance(answer, Refusal) or entry.sandbox is None:
        return answer
    running = observe(world, entry.vm, domain=domain).census.running_vcpus
    cpus = union(entry.sandbox.values())
    return sandbox_plan(with_running(answer, running), machine, ledger, world.config.options, cpus)


def adopt(world: World, machine: Machine, ledger: Ledger, entry: Entry, domain: str) -> tuple[Ledger, Entry] | Refusal:
    """Give a running domain CPUs of its own; the caller holds the lock and has recovered. Gives the new ledger, also on disk.

    Raises OperationFailed when a step failed and the domain is as it was, UndoFailed when something is left.
    """
    # 1. A place, before anything is touched.
    answer = place(world, machine, ledger, entry, domain)
    if isinstance(answer, Refusal):
        return answer
    plan, before = answer, ledger
    _tell(world, entry, "placed", f"vCPUs on {plan.dedicated}, other threads on {plan.emulator} ({plan.strategy})")
    seen = observe(world, entry.vm, domain=domain)
    entry = replace(entry, plan=plan, adopted=_adoption(world, domain, seen))

    with UndoStack() as undo:
        # 2. The intent, and all that stood there, before the first write to its groups.
        undo.push("the ledger's entry", lambda: world.books.save(before))
        world.books.save(ledger.with_entry(entry))
        undo.push("the interrupts", lambda: interrupts_back(world, before))  # forgets the entry, so it is undone after what needs it
        undo.push("the shrunken shared pool", lambda: follow_pool(world, machine, before))
        undo.push("the domain's threads and groups", lambda: _undo(world, entry.vm, before))
        orphans.clear(world, before, plan)
        follow_pool(world, machine, ledger.with_entry(entry))
        seen = observe(world, entry.vm, domain=domain, probe_cpu=plan.dedicated.lowest)
        entry = choose(world, ledger, entry, plan, seen)
        entry = remembering(world, entry, plan, seen)
        ledger = ledger.with_entry(entry)
        world.books.save(ledger)

        # 3. Each thread to its place, then libvirt's books where they name one.
        writes = settle(world, entry, plan, seen)
        _pin(world, entry, plan)
        _tell(world, entry, "moved", f"{plan.dedicated} by {entry.mechanism}, {writes} writes, each read back")
        if entry.mechanism == "partition":
            ledger = interrupts_away(world, ledger)

        # 4. Read back.
        seen = observe(world, entry.vm, domain=domain)
        errors = [one for one in findings_of(world, entry, plan, seen, ledger) if one.severity == "error"]
        if errors:
            raise OperationFailed("\n".join(f"{one.code}: {one.kind} {one.id}: expected {one.expected}, is {one.actual}" for one in errors))
        entry = replace(entry, phase="running")
        keep_copy(world, entry)
        ledger = ledger.with_entry(entry)
        world.books.save(ledger)
        undo.keep()
    _tell(world, entry, "adopted", f"{len(seen.census.threads)} threads read back from the kernel")
    return ledger, entry


def release(world: World, machine: Machine, ledger: Ledger, entry: Entry) -> Ledger:
    """Give an adopted domain back what it had and forget it. The caller holds the lock. A release that is cut off is finished later."""
    ledger = ledger.with_entry(replace(entry, phase="deleting"))
    world.books.save(ledger)
    try:
        give_back(world, entry, ledger)
        ledger = ledger.without(entry.vm)
        follow_pool(world, machine, ledger)
        world.books.save(ledger)
        ledger = interrupts_away(world, ledger)
    except (OSError, QuietcoreError) as err:
        raise UndoFailed(f"{entry.domain} has not everything back: {err}", hint="the next quietcore command tries it again") from err
    _tell(world, entry, "released", f"{entry.domain} is as it was before")
    return ledger


def recovered(world: World, ledger: Ledger, entry: Entry) -> Ledger:
    """The ledger after a look at an adopted domain: forgotten when it ended or began anew, undone or released when that was cut off."""
    if not is_same_run(world, entry):
        forget(world, entry, ledger)
        _tell(world, entry, "forgotten", f"{entry.domain} ended, or was started anew")
    elif entry.phase in {"creating", "deleting"}:
        give_back(world, entry, ledger)
        _tell(world, entry, "released", "what had been cut off")
    else:
        return ledger
    return ledger.without(entry.vm)


def is_same_run(world: World, entry: Entry) -> bool:
    """Whether the domain still runs in the process that was adopted."""
    adopted = entry.adopted
    if adopted is None or entry.boot_id != world.boot_id or world.hypervisor.find(adopted.domain) is None:
        return False
    return _started(world, adopted.pid) == adopted.started


def forget(world: World, entry: Entry, ledger: Ledger) -> None:
    """Clear up after an adopted domain that is gone: our groups, our claims above its own, the kernel threads. Safe to repeat."""
    others = ledger.without(entry.vm)
    restore_host(world, entry, others)
    images.discard(world.vm_directory(entry.vm))
    if entry.adopted is None or entry.boot_id != world.boot_id:
        return
    _levels_back(world, entry, others)
    _remove_made(world, entry.adopted)


def give_back(world: World, entry: Entry, ledger: Ledger) -> None:
    """Put back everything that stood there before the adoption. Safe to repeat; raises OperationFailed."""
    if entry.adopted is None:
        raise AssertionError(f"{entry.vm} was not adopted")
    if not is_same_run(world, entry):
        forget(world, entry, ledger)
        return
    adopted, others = entry.adopted, ledger.without(entry.vm)
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    seen = observe(world, entry.vm, domain=adopted.domain)
    for policy in policies_back(adopted, seen.census):
        applier.apply(policy)
    standing = cgroups.cpu_groups(world.fs, (one.tid for one in seen.census.threads if one.tid in adopted.cpu_groups or not one.kernel))
    for move in cpu_groups_back(adopted, standing, cgroups.v1_mount(world.fs, "cpu")):
        applier.apply(move)
    _levels_back(world, entry, others)
    _put_back(world, entry, adopted, applier)  # libvirt pins no thread to CPUs that its group lacks
    if _unpin(world, entry, adopted, applier):
        _put_back(world, entry, adopted, applier)  # libvirt has written cpusets and affinities of its own
    _remove_made(world, adopted)
    images.discard(world.vm_directory(entry.vm))
    restore_host(world, entry, others)


def _put_back(world: World, entry: Entry, adopted: Adoption, applier: Applier) -> None:
    """The texts of files, then each thread's group and affinity."""
    seen = observe(world, entry.vm, domain=adopted.domain)
    known = union(thread.allowed for thread in adopted.threads)
    files = [value for value in files_back(adopted, known - world.online) if world.fs.exists(value.path)]
    emptied = [value for value in files if not value.value and seen.facts.version == 1]  # by CPUs that went offline: no task was left there
    for value in files:
        if value not in emptied:
            _file_back(world, applier, seen, value)
    seen = observe(world, entry.vm, domain=adopted.domain)
    room = {group: _room(world, group) for group in {thread.cgroup for thread in adopted.threads}}
    for step in (*threads_back(adopted, seen.census, seen.facts, room), *emptied):
        applier.apply(step)


def _room(world: World, group: str) -> CpuSet:
    """The CPUs that the kernel leaves to the tasks of a group now."""
    return cgroups.room(world.fs, cgroups.hierarchy(world.fs), group) or world.online


def _undo(world: World, vm: VmName, before: Ledger) -> None:
    entry = world.books.load().find(vm)
    if entry is not None and entry.adopted is not None:
        give_back(world, entry, before)


def _spec(spec: VmSpec, found: DomainFacts, uuid: str, wanted: Wanted) -> VmSpec:
    """The domain's spec with dedicated vCPUs. Its memory stays where it is: the kernel's books show the pages that it holds as used."""
    everyone = frozenset(range(found.vcpus))
    count = found.vcpus if wanted.vcpus is None else wanted.vcpus
    if wanted.containers is not None:
        count = 0  # the managers choose none of its CPUs
    strangers = sorted(wanted.realtime - frozenset(range(count)))
    problems = []
    if not (1 <= count <= found.vcpus or wanted.containers is not None):
        problems.append(Problem(message=f"{wanted.domain} has {found.vcpus} vCPUs; {count} of them cannot get a CPU", field="--cpus"))
    elif strangers:
        problems.append(Problem(message=f"vCPUs {strangers} get no CPU of their own, so they cannot be real-time", field="--realtime"))
    if problems:
        raise InputError.of(tuple(problems))
    cpu = replace(
        spec.cpu,
        dedicated=True,
        dedicated_vcpus=None if count == found.vcpus else frozenset(range(count)) & everyone,
        isolate_emulator=False,
        numa_passthrough=False,
        realtime=Realtime(vcpus=wanted.realtime, priority=wanted.priority) if wanted.realtime else None,
    )
    return replace(
        spec,
        vm=wanted.vm or spec.vm,
        cpu=cpu,
        memory=replace(spec.memory, hugepage_bytes=None),
        firmware=replace(spec.firmware, uuid=uuid),
        strategy=wanted.strategy or "dedicated",
    )


def _adoption(world: World, domain: str, seen: Observation) -> Adoption:
    found = domain_facts(world.hypervisor.xml(domain))
    return Adoption(
        domain=domain,
        pid=seen.census.pid,
        started=_started(world, seen.census.pid),
        threads=seen.census.threads,
        cpu_groups=cgroups.cpu_groups(world.fs, (thread.tid for thread in seen.census.threads)),
        vcpu_pins=found.vcpu_pins,
        io_pins=found.iothread_pins,
        emulator_pin=found.emulator_pin,
    )


def remembering(world: World, entry: Entry, plan: Plan, seen: Observation) -> Entry:
    """The entry with the text of every file that this plan is the first to write, and the groups that it will make.

    Only an adopted domain needs it: what belongs to one of ours ends with it. A sandbox's vCPUs may all be on the pool one day.
    """
    if entry.adopted is None:
        return entry
    steps = isolation_of(entry, plan, seen).steps
    if entry.sandbox is not None:
        pooled = replace(plan, vcpus=tuple(VcpuPlacement(vcpu=one.vcpu) for one in plan.vcpus))
        steps = (*steps, *isolation_of(entry, pooled, seen).steps)
    paths, groups = touched(steps)
    known, ours = entry.adopted.files, entry.adopted.made
    first = (path for path in paths if path not in known and path.rpartition("/")[0] not in ours)
    files = {path: world.fs.read(path).strip() for path in first if world.fs.exists(path)}
    made = tuple(group for group in groups if not world.fs.is_dir(group))
    return replace(entry, adopted=replace(entry.adopted, files=MappingProxyType({**known, **files}), made=(*ours, *made)))


def _pin(world: World, entry: Entry, plan: Plan) -> None:
    """libvirt's books follow only where they hold a pin: one that they did not hold could not be taken back."""
    adopted = entry.adopted
    if adopted is None:
        return
    for vcpu in plan.vcpus:
        if vcpu.vcpu in adopted.vcpu_pins:
            world.hypervisor.pin_vcpu(adopted.domain, vcpu.vcpu, plan.shared if vcpu.pcpu is None else CpuSet.of(vcpu.pcpu))
    if adopted.emulator_pin is not None:
        world.hypervisor.pin_emulator(adopted.domain, plan.emulator)


def _unpin(world: World, entry: Entry, adopted: Adoption, applier: Applier) -> bool:
    """libvirt's books; whether it had to pin anything. A pin to CPUs that others have by now is refused, and becomes what is left."""
    seen, changed = observe(world, entry.vm, domain=adopted.domain), False
    for pin in _pins(world, adopted):
        if pin.standing == pin.cpus:
            continue
        group = pin.group.rpartition("/")[0] if seen.facts.layout == "libvirt" else pin.group  # its own group libvirt changes first
        room = _room(world, group)
        goal = room if pin.cpus.isdisjoint(room) else pin.cpus
        if goal != pin.cpus:
            _tell(world, entry, "note", f"libvirt's pin of {pin.what} is {goal}: others have {pin.cpus} now")
        if pin.standing != goal:
            pin.set(goal)
            changed = True
        if goal != pin.cpus and seen.facts.layout == "libvirt" and seen.facts.version == 2:  # so it gets them back when they are free
            applier.apply(SetValue(path=seen.facts.file(pin.group, "cpuset.cpus"), value=str(pin.cpus), readback="cpus"))
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pin:
    """A pin in libvirt's books: the CPUs that it had, those that it has, and the group of its thread."""

    what: str
    cpus: CpuSet
    standing: CpuSet | None
    group: str
    set: Callable[[CpuSet], None]


def _pins(world: World, adopted: Adoption) -> Iterator[_Pin]:
    now, host, name = domain_facts(world.hypervisor.xml(adopted.domain)), world.hypervisor, adopted.domain
    home = next(one.cgroup for one in adopted.threads if one.tid == adopted.pid)
    vcpus = {one.vcpu: one.cgroup for one in adopted.threads}
    iothreads = {one.iothread: one.cgroup for one in adopted.threads}
    for vcpu, cpus in adopted.vcpu_pins.items():
        group, pin = vcpus.get(vcpu, home), partial(host.pin_vcpu, name, vcpu)
        yield _Pin(what=f"vCPU {vcpu}", cpus=cpus, standing=now.vcpu_pins.get(vcpu), group=group, set=pin)
    if adopted.emulator_pin is not None:
        pin = partial(host.pin_emulator, name)
        yield _Pin(what="the emulator", cpus=adopted.emulator_pin, standing=now.emulator_pin, group=home, set=pin)
    for thread, cpus in adopted.io_pins.items():
        group, pin = iothreads.get(thread, home), partial(host.pin_iothread, name, thread)
        yield _Pin(what=f"I/O thread {thread}", cpus=cpus, standing=now.iothread_pins.get(thread), group=group, set=pin)


def _levels_back(world: World, entry: Entry, others: Ledger) -> None:
    """End the partitions and give back the claims above them."""
    tree = cgroups.hierarchy(world.fs)
    if entry.adopted is None or not entry.cgroup_home or not tree.mount:
        return
    facts = cgroups.facts(world.fs, tree, Groups(layout="bare", home=entry.cgroup_home), Probe(works=False))
    applier = Applier(world.fs, world.control, tree)
    plans = tuple(plan for plan in (entry.plan, entry.moving) if plan is not None)
    for step in partition_back(entry.adopted, facts, plans, others.owned):
        if isinstance(step, SetValue) and world.fs.exists(step.path):
            applier.apply(step)


def _file_back(world: World, applier: Applier, seen: Observation, value: SetValue) -> None:
    """Write one file's old text. The kernel does not empty the CPUs of a group with tasks: they wait in the group above meanwhile."""
    if value.value or not world.fs.read(value.path).strip():
        applier.apply(value)
        return
    group = value.path.rpartition("/")[0]
    above = group.rpartition("/")[0]
    inside = [thread.tid for thread in seen.census.threads if f"{seen.facts.mount}{thread.cgroup}" == group]
    if group == f"{seen.facts.mount}{seen.facts.home}":  # the whole VM is in it: its parent's CPUs mean the same
        applier.apply(replace(value, value=str(_room(world, seen.facts.home.rpartition("/")[0]))))
        return
    for tid in inside:
        world.fs.write(f"{above}/cgroup.threads", str(tid))
    try:
        applier.apply(value)
    finally:
        for tid in inside:
            world.fs.write(f"{group}/cgroup.threads", str(tid))


def _remove_made(world: World, adopted: Adoption) -> None:
    shared = f"{cgroups.hierarchy(world.fs).mount}{OWN_ROOT}"
    own = [group for group in adopted.made if group != shared]
    for group in reversed(own):
        try:
            if world.fs.is_dir(group):
                world.fs.rmdir(group)
        except OSError as err:
            raise OperationFailed(f"{group} cannot be removed: {err.strerror or err}") from err
    if own and world.fs.is_dir(shared):
        with suppress(OSError):  # other VMs still live below it
            world.fs.rmdir(shared)


def _started(world: World, pid: int) -> str:
    stat = world.fs.read_or(f"/proc/{pid}/stat", "")
    fields = stat[stat.rfind(")") + 2 :].split()
    with suppress(IndexError):
        return fields[_STAT_START]
    return "running" if fields else ""


def _tell(world: World, entry: Entry, step: str, detail: str) -> None:
    world.report(Event(vm=entry.vm, step=step, detail=detail, seconds=0.0))


def _refused(code: str, message: str, hint: str) -> InputError:
    return InputError.of((Problem(message=message, code=code, hint=hint),))
