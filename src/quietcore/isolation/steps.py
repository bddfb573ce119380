"""The steps that put every thread of a VM where it belongs, for each of the four mechanisms.

    partition   cgroup v2, remote isolated partitions work: one per vCPU; the scheduler keeps every other task of the host away
    threaded    cgroup v2 without them: a threaded group per vCPU, a group for the rest
    cpuset-v1   sibling cpusets
    affinity    no cgroup can be written: affinities alone

Every step is idempotent, so the same list also repairs. A partition's levels are grown from the top down, because a
child's exclusive list outside its parent's makes the partition invalid (cgroup v2, Linux 6.11 and newer).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from quietcore.isolation.targets import HOUSEKEEPING, Target, has_own_cpu, partition_cpus, targets, vcpu_cpus, vcpu_group
from quietcore.model import (
    CgroupFacts,
    CpuSet,
    HostThread,
    MakeGroup,
    Mechanism,
    MoveProcess,
    MoveThread,
    Plan,
    SetAffinity,
    SetScheduler,
    SetValue,
    Step,
    ThreadCensus,
    VcpuPlacement,
    union,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What will be done for one VM: the mechanism, the steps in order, and in sentences what this host cannot do."""

    mechanism: Mechanism
    steps: tuple[Step, ...]
    limits: tuple[str, ...] = ()


def mechanism_of(plan: Plan, facts: CgroupFacts) -> Mechanism:
    """The strongest mechanism that works here. A VM without CPUs of its own needs no partition."""
    if facts.layout == "none":
        return "affinity"
    if facts.version == 1:
        return "cpuset-v1"
    return "partition" if facts.partitions and plan.dedicated else "threaded"


def refreshed(plan: Plan, shared: CpuSet) -> Plan:
    """The same plan after the shared pool changed: whatever stood on the pool follows it."""
    return replace(plan, shared=shared, emulator=shared if plan.emulator == plan.shared else plan.emulator)


def waiting(plan: Plan, online: CpuSet) -> Plan:
    """The same plan while CPUs of it are offline: whatever stood on these alone waits where the others are, and is not real-time there."""
    emulator = plan.emulator & online or plan.shared
    return replace(
        plan,
        vcpus=tuple(_waiting(vcpu) if vcpu.pcpu is not None and vcpu.pcpu not in online else vcpu for vcpu in plan.vcpus),
        emulator=emulator,
        io={number: cpus & online or emulator for number, cpus in plan.io.items()},
    )


def _waiting(vcpu: VcpuPlacement) -> VcpuPlacement:
    return replace(vcpu, pcpu=None, node=None, core=None, realtime=False)


def isolate(
    plan: Plan,
    census: ThreadCensus,
    facts: CgroupFacts,
    mechanism: Mechanism,
    *,
    priority: int = 1,
) -> Isolation:
    """The steps for one VM, by the mechanism that was chosen when it started (`mechanism_of`).

    `priority` is the SCHED_FIFO priority of real-time vCPUs. The kernel threads of their CPUs must be above it before the first of
    these steps (`raising_steps`): a polling guest would otherwise hang the host.
    """
    places = targets(plan, census, facts, mechanism, priority)
    groups: tuple[Step, ...]
    match mechanism:
        case "partition":
            groups = tuple(_partition(plan, census, facts))
        case "threaded":
            groups = tuple(_threaded(plan, census, facts))
        case "cpuset-v1":
            groups = tuple(_cpuset_v1(plan, census, facts))
        case "affinity":
            groups = ()
    return Isolation(
        mechanism=mechanism,
        steps=(*groups, *_thread_steps(places, facts), *_scheduling(places)),
        limits=tuple(_limits(plan, facts, mechanism)),
    )


def released(facts: CgroupFacts, gone: CpuSet) -> tuple[Step, ...]:
    """The steps that take `gone` out of the exclusive lists above a VM that ended, from the bottom up; other claims stay."""
    return tuple(
        SetValue(path=facts.file(level, "cpuset.cpus.exclusive"), value=str(facts.exclusive[level] - gone), readback="cpus")
        for level in reversed(facts.levels)
        if level in facts.exclusive and not facts.exclusive[level].isdisjoint(gone)
    )


def _partition(plan: Plan, census: ThreadCensus, facts: CgroupFacts) -> Iterator[Step]:
    yield from _no_quota(facts)
    if facts.layout == "bare":
        yield from _own_home(census, facts)
    whole = plan.strategy == "whole"
    for level in facts.levels:
        wanted = facts.exclusive.get(level, CpuSet()) | partition_cpus(plan)
        yield SetValue(path=facts.file(level, "cpuset.cpus.exclusive"), value=str(wanted), readback="cpus")
    if whole and partition_cpus(plan):  # else its CPUs are offline, and the kernel lets it use those above
        yield SetValue(path=facts.file(facts.home, "cpuset.cpus"), value=str(partition_cpus(plan)), readback="cpus")
        yield SetValue(path=facts.file(facts.home, "cpuset.cpus.partition"), value="isolated")
    if not whole:
        yield from _widened_home(everything(plan) - partition_cpus(plan), facts)
    # First, because a sibling whose cpuset.cpus still holds a CPU makes its partition invalid ("not exclusive", seen on 6.12).
    yield from _rest(plan, facts, whole=whole)
    for thread in sorted(census.vcpus, key=lambda one: has_own_cpu(plan, one.vcpu)):  # shared vCPUs first, for the same reason
        group, cpus = vcpu_group(facts, thread.vcpu or 0), str(vcpu_cpus(plan, thread.vcpu or 0))
        if facts.layout == "bare":
            yield from _threaded_group(facts, group)
        if not has_own_cpu(plan, thread.vcpu) and facts.partition_states.get(group, "member") != "member":
            continue  # its CPU is offline: the kernel lets it use the CPUs above, and makes the partition valid again when it returns
        if has_own_cpu(plan, thread.vcpu) and not whole:
            yield SetValue(path=facts.file(group, "cpuset.cpus.exclusive"), value=cpus, readback="cpus")
            yield SetValue(path=facts.file(group, "cpuset.cpus.partition"), value="isolated")
        else:
            yield SetValue(path=facts.file(group, "cpuset.cpus"), value=cpus, readback="cpus")
    yield from _weights(plan, census, facts)


def _rest(plan: Plan, facts: CgroupFacts, *, whole: bool) -> Iterator[Step]:
    """The groups of everything that is no vCPU, under partitions."""
    if facts.layout == "libvirt":
        yield SetValue(path=facts.file(facts.emulator_group, "cpuset.cpus"), value=str(_non_vcpu(plan, facts)), readback="cpus")
        for number, group in sorted(facts.io_groups.items()):
            yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(plan.io.get(number, plan.emulator)), readback="cpus")
    elif whole:
        yield from _threaded_group(facts, f"{facts.home}/{HOUSEKEEPING}")
        yield SetValue(path=facts.file(f"{facts.home}/{HOUSEKEEPING}", "cpuset.cpus"), value=str(plan.emulator), readback="cpus")
    else:
        yield SetValue(path=facts.file(facts.home, "cpuset.cpus"), value=str(_non_vcpu(plan, facts)), readback="cpus")


def _threaded(plan: Plan, census: ThreadCensus, facts: CgroupFacts) -> Iterator[Step]:
    yield from _no_quota(facts)
    if facts.layout == "bare":
        yield from _own_home(census, facts)
        yield SetValue(path=facts.file(facts.home, "cpuset.cpus"), value=str(everything(plan)), readback="cpus")
        yield from _threaded_group(facts, f"{facts.home}/{HOUSEKEEPING}")
        for thread in census.vcpus:
            yield from _threaded_group(facts, vcpu_group(facts, thread.vcpu or 0))
    yield from _widened_home(everything(plan) | facts.root_cpus, facts)
    yield from _cpusets(plan, census, facts)
    yield from _weights(plan, census, facts)


def _widened_home(cpus: CpuSet, facts: CgroupFacts) -> Iterator[Step]:
    """libvirt names no CPUs for the group of the whole VM; where somebody else did, they must be all that its threads need."""
    if facts.layout == "libvirt" and facts.home_cpus:
        yield SetValue(path=facts.file(facts.home, "cpuset.cpus"), value=str(cpus), readback="cpus")


def _weights(plan: Plan, census: ThreadCensus, facts: CgroupFacts) -> Iterator[Step]:
    """Busy vCPUs eat the share that their emulator has on the pool, unless theirs is small; where they compete with it, it is not."""
    if facts.weights and plan.strategy != "whole":
        for thread in census.vcpus:
            if has_own_cpu(plan, thread.vcpu):
                yield SetValue(path=facts.file(vcpu_group(facts, thread.vcpu or 0), "cpu.weight"), value="1")


def _cpuset_v1(plan: Plan, census: ThreadCensus, facts: CgroupFacts) -> Iterator[Step]:
    if facts.layout == "bare":
        children = [f"{facts.home}/{HOUSEKEEPING}", *(vcpu_group(facts, thread.vcpu or 0) for thread in census.vcpus)]
        for level in facts.levels:
            yield from _v1_group(facts, level, facts.root_cpus)  # a parent narrower than a child is EBUSY: only leaves are narrow
        for group in children:
            yield MakeGroup(path=f"{facts.mount}{group}")
            yield SetValue(path=facts.file(group, "cpuset.mems"), value=facts.root_mems, readback="cpus")
    yield from _cpusets(plan, census, facts)
    yield from _no_quota(facts)


def _v1_group(facts: CgroupFacts, group: str, cpus: CpuSet) -> Iterator[Step]:
    yield MakeGroup(path=f"{facts.mount}{group}")
    yield SetValue(path=facts.file(group, "cpuset.mems"), value=facts.root_mems, readback="cpus")
    yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(cpus), readback="cpus")


def _cpusets(plan: Plan, census: ThreadCensus, facts: CgroupFacts) -> Iterator[Step]:
    for thread in census.vcpus:
        group = vcpu_group(facts, thread.vcpu or 0)
        yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(vcpu_cpus(plan, thread.vcpu or 0)), readback="cpus")
    yield from _other_cpusets(plan, facts)


def rest_steps(plan: Plan, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[Step]:
    """The groups of everything that is no vCPU, where groups are ours to set."""
    return _rest(plan, facts, whole=plan.strategy == "whole") if mechanism == "partition" else _other_cpusets(plan, facts)


def _other_cpusets(plan: Plan, facts: CgroupFacts) -> Iterator[Step]:
    rest = facts.emulator_group if facts.layout == "libvirt" else f"{facts.home}/{HOUSEKEEPING}"
    yield SetValue(path=facts.file(rest, "cpuset.cpus"), value=str(_non_vcpu(plan, facts)), readback="cpus")
    for number, group in sorted(facts.io_groups.items()):
        yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(plan.io.get(number, plan.emulator)), readback="cpus")


def _own_home(census: ThreadCensus, facts: CgroupFacts) -> Iterator[Step]:
    """cgroup v2, bare layout: all threads of a process stay in one subtree, so the whole process gets a group of its own first."""
    yield _controllers(facts, "")
    for level in facts.levels[:-1]:
        yield MakeGroup(path=f"{facts.mount}{level}")
        yield _controllers(facts, level)
    yield MakeGroup(path=f"{facts.mount}{facts.home}")
    if not any(thread.cgroup == facts.home or thread.cgroup.startswith(f"{facts.home}/") for thread in census.threads):
        yield MoveProcess(path=facts.file(facts.home, "cgroup.procs"), group=facts.home, pid=census.pid)
    yield _controllers(facts, facts.home)


def _threaded_group(facts: CgroupFacts, group: str) -> Iterator[Step]:
    yield MakeGroup(path=f"{facts.mount}{group}")
    yield SetValue(path=facts.file(group, "cgroup.type"), value="threaded", readback="words")  # for good: nothing turns it back


def _controllers(facts: CgroupFacts, group: str) -> Step:
    value = "+cpuset +cpu" if facts.weights else "+cpuset"
    return SetValue(path=facts.file(group, "cgroup.subtree_control"), value=value, readback="words")


def _no_quota(facts: CgroupFacts) -> Iterator[Step]:
    """A finite quota on the VM's own groups would throttle its vCPUs; one further up is the administrator's and an error of verify."""
    for group in sorted(facts.quotas):
        if group == facts.home or group.startswith(f"{facts.home}/"):
            yield SetValue(path=facts.quota_file(group), value="max" if facts.version == 2 else "-1", readback="prefix")


def _non_vcpu(plan: Plan, facts: CgroupFacts) -> CpuSet:
    """The CPUs of the group that holds all threads without a group of their own."""
    return union((plan.emulator, *(cpus for number, cpus in sorted(plan.io.items()) if number not in facts.io_groups)))


def everything(plan: Plan) -> CpuSet:
    """All CPUs that any thread of the VM may use."""
    return union((plan.emulator, plan.dedicated, *plan.io.values(), *(vcpu_cpus(plan, one.vcpu) for one in plan.vcpus)))


def entering(thread: HostThread, group: str, facts: CgroupFacts) -> Iterator[Step]:
    """The step that puts a thread into a group, where it is not in it."""
    if group and thread.cgroup != group:
        name = "cgroup.threads" if facts.version == 2 else "tasks"
        yield MoveThread(path=facts.file(group, name), group=group, tid=thread.tid)


def _thread_steps(places: tuple[Target, ...], facts: CgroupFacts) -> Iterator[Step]:
    for place in places:
        if place.group and place.thread.kernel:  # across resource domains a task only moves as a process (EOPNOTSUPP else)
            yield MoveProcess(path=facts.file(place.group, "cgroup.procs"), group=place.group, pid=place.thread.tid)
        else:
            yield from entering(place.thread, place.group, facts)
        yield SetAffinity(tid=place.thread.tid, cpus=place.cpus)


def _scheduling(places: tuple[Target, ...]) -> Iterator[Step]:
    for place in places:
        if place.policy is not None:
            yield SetScheduler(tid=place.thread.tid, policy=place.policy, priority=place.priority)


def _limits(plan: Plan, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[str]:
    if not plan.dedicated:
        return
    if mechanism != "partition":
        yield "other tasks of the host are still allowed on these CPUs" + (f": {facts.why_not}" if facts.why_not else "")
    if mechanism == "affinity":
        yield "without a writable cpuset any thread of the same user can change these affinities"
