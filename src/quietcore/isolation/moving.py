"""Moving the vCPUs of a running VM from one placement to another: each thread migrates once, and no CPU has two of them.

The steps are those that must come before `isolate` may settle the rest: levels are widened from the top down, then each vCPU's
group and affinity change together, in an order in which the CPU that a vCPU goes to is already free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from quietcore.isolation.steps import entering, everything, rest_steps
from quietcore.isolation.targets import has_own_cpu, partition_cpus, targets, vcpu_cpus, vcpu_group
from quietcore.model import CgroupFacts, CpuSet, HostThread, Mechanism, Plan, SetAffinity, SetValue, Step, ThreadCensus

_WEIGHT = "100"
"""What the kernel gives a new group (cgroup v2)."""


def moved_vcpus(here: Plan, there: Plan) -> tuple[int, ...]:
    """The vCPUs whose CPU differs, ascending."""
    before = {vcpu.vcpu: vcpu.pcpu for vcpu in here.vcpus}
    return tuple(vcpu.vcpu for vcpu in there.vcpus if before.get(vcpu.vcpu) != vcpu.pcpu)


def move_order(here: Plan, there: Plan) -> tuple[int, ...]:
    """The moved vCPUs in an order in which each one's new CPU was left before; those that swap among each other come last."""
    order, ring = _order(here, there)
    return order + ring


def _order(here: Plan, there: Plan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The vCPUs that can go one after the other, and those that stand in rings, each on the CPU of which another one waits."""
    holder: dict[int | None, int] = {vcpu.pcpu: vcpu.vcpu for vcpu in here.vcpus if vcpu.pcpu is not None}
    goal = {vcpu.vcpu: vcpu.pcpu for vcpu in there.vcpus}
    waiting, order = set(moved_vcpus(here, there)), list[int]()
    while waiting:
        free = sorted(vcpu for vcpu in waiting if holder.get(goal[vcpu], vcpu) == vcpu or holder[goal[vcpu]] not in waiting)
        if not free:
            break
        order += free
        waiting -= set(free)
    return tuple(order), tuple(sorted(waiting))


def moving_steps(here: Plan, there: Plan, census: ThreadCensus, facts: CgroupFacts, mechanism: Mechanism) -> tuple[Step, ...]:
    """The steps from anywhere between two placements to the second one. Other threads that stand on CPUs which vCPUs go to leave first."""
    order, ring = _order(here, there)
    before = {vcpu.vcpu for vcpu in here.vcpus}
    threads = {thread.vcpu: thread for thread in census.vcpus if thread.vcpu in before}  # one that was plugged in has no group of ours yet
    moved, crossing = ([threads[vcpu] for vcpu in some if vcpu in threads] for some in (order, ring))
    return (
        *_wider(here, there, facts, mechanism),
        *_helpers_away(here, there, census, facts, mechanism),
        *(step for thread in moved if not has_own_cpu(here, thread.vcpu) for step in _landing(thread, there, facts, mechanism)),
        *(step for thread in moved for step in _vcpu(thread, there, facts, mechanism)),
        *_crossing(crossing, here, there, facts, mechanism),
        *(step for thread in crossing for step in _vcpu(thread, there, facts, mechanism)),
    )


def awaiting_steps(there: Plan, facts: CgroupFacts, online: CpuSet) -> tuple[Step, ...]:
    """Partitions whose CPU is offline claim that one again, and no longer the one where the vCPU had gone.

    Until it returns they are invalid, and the kernel lets the vCPU use the CPUs above; `isolate` leaves them alone.
    """
    places = {vcpu_group(facts, vcpu.vcpu): vcpu.pcpu for vcpu in there.vcpus}
    claims = {group: CpuSet.of(cpu) for group, cpu in places.items() if cpu is not None and cpu not in online}
    if there.strategy == "whole":
        claims = {facts.home: partition_cpus(there)}
    return tuple(
        SetValue(path=facts.file(group, name), value=str(cpus), readback="cpus")
        for group, cpus in claims.items()
        if facts.partition_states.get(group, "member") != "member"
        for name in ("cpuset.cpus.exclusive", "cpuset.cpus")
    )


def narrowed(here: Plan, there: Plan) -> CpuSet:
    """What the levels above a VM that went from `here` to `there` no longer have to claim."""
    return partition_cpus(here) - partition_cpus(there)


def _wider(here: Plan, there: Plan, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[Step]:
    if mechanism == "partition":
        both = partition_cpus(here) | partition_cpus(there)
        for level in facts.levels:
            wanted = facts.exclusive.get(level, CpuSet()) | both
            yield SetValue(path=facts.file(level, "cpuset.cpus.exclusive"), value=str(wanted), readback="cpus")
        if there.strategy == "whole":
            yield SetValue(path=facts.file(facts.home, "cpuset.cpus"), value=str(both | everything(there)), readback="cpus")
    elif mechanism == "threaded" and facts.layout == "bare":
        wanted = everything(here) | everything(there)
        yield SetValue(path=facts.file(facts.home, "cpuset.cpus"), value=str(wanted), readback="cpus")


def _helpers_away(here: Plan, there: Plan, census: ThreadCensus, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[Step]:
    """Other threads, shared vCPUs among them, wait on CPUs that no dedicated vCPU has in either placement."""
    if there.strategy == "whole":
        return
    vcpus = here.dedicated | there.dedicated
    rest = next((cpus for cpus in (there.emulator - vcpus, here.emulator - vcpus) if cpus), there.shared or here.emulator)
    unwanted = {number: cpus for number, cpus in here.io.items() if cpus.isdisjoint(there.dedicated)}
    waiting = replace(there, emulator=rest, shared=rest, io={number: unwanted.get(number, rest) for number in there.io})
    grouped = {vcpu.vcpu for vcpu in here.vcpus if vcpu.pcpu is None}  # one that was plugged in has no group of ours yet
    floating = [thread for thread in census.vcpus if thread.vcpu in grouped and not has_own_cpu(there, thread.vcpu)]
    if mechanism != "affinity":
        yield from rest_steps(waiting, facts, mechanism)
        for thread in floating:
            yield SetValue(path=facts.file(vcpu_group(facts, thread.vcpu or 0), "cpuset.cpus"), value=str(rest), readback="cpus")
    for place in targets(waiting, census, facts, mechanism, 1):
        if place.thread in floating or (place.thread.vcpu is None and not place.thread.kernel):
            yield from entering(place.thread, place.group, facts)  # it may have been moved away by somebody
            yield SetAffinity(tid=place.thread.tid, cpus=place.cpus)


def _landing(thread: HostThread, there: Plan, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[Step]:
    """A vCPU that comes from the pool leaves it before any partition is made, which its group's CPUs would make invalid."""
    if mechanism == "partition" and has_own_cpu(there, thread.vcpu) and there.strategy != "whole":
        cpus = vcpu_cpus(there, thread.vcpu or 0)
        yield SetValue(path=facts.file(vcpu_group(facts, thread.vcpu or 0), "cpuset.cpus"), value=str(cpus), readback="cpus")


def _crossing(ring: Sequence[HostThread], here: Plan, there: Plan, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[Step]:
    """vCPUs that swap CPUs give up their partitions first, of which no two can hold one CPU; `_vcpu` makes them again.

    In between, a few writes long, other tasks of the host may come to these CPUs. Each thread still goes straight to its new one.
    """
    if mechanism != "partition" or there.strategy == "whole" or all(_has_arrived(thread, there, facts) for thread in ring):
        return
    groups = [(vcpu_group(facts, thread.vcpu or 0), thread) for thread in ring]
    swapped = CpuSet.from_iterable(cpu for thread in ring for cpu in vcpu_cpus(there, thread.vcpu or 0))
    if facts.layout == "bare":
        yield SetValue(path=facts.file(facts.home, "cpuset.cpus"), value=str(everything(there)), readback="cpus")
    for group, thread in groups:
        place = thread.allowed if thread.allowed <= swapped else vcpu_cpus(here, thread.vcpu or 0)
        yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(place), readback="cpus")
    for group, _ in groups:
        yield SetValue(path=facts.file(group, "cpuset.cpus.partition"), value="member")
    for group, _ in groups:
        yield SetValue(path=facts.file(group, "cpuset.cpus.exclusive"), value="", readback="cpus")
    for group, thread in groups:
        yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(vcpu_cpus(there, thread.vcpu or 0)), readback="cpus")


def _has_arrived(thread: HostThread, there: Plan, facts: CgroupFacts) -> bool:
    state = facts.partition_states.get(vcpu_group(facts, thread.vcpu or 0))
    return state == "isolated" and thread.allowed == vcpu_cpus(there, thread.vcpu or 0)


def _vcpu(thread: HostThread, there: Plan, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[Step]:
    vcpu = thread.vcpu or 0
    group, cpus = vcpu_group(facts, vcpu), vcpu_cpus(there, vcpu)
    if mechanism == "partition" and there.strategy != "whole":
        if has_own_cpu(there, vcpu):
            yield SetValue(path=facts.file(group, "cpuset.cpus.exclusive"), value=str(cpus), readback="cpus")
            yield SetValue(path=facts.file(group, "cpuset.cpus.partition"), value="isolated")
        else:
            yield SetValue(path=facts.file(group, "cpuset.cpus.partition"), value="member")
            yield SetValue(path=facts.file(group, "cpuset.cpus.exclusive"), value="", readback="cpus")
            yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(cpus), readback="cpus")
    elif mechanism != "affinity":
        yield SetValue(path=facts.file(group, "cpuset.cpus"), value=str(cpus), readback="cpus")
    if facts.weights and there.strategy != "whole" and not has_own_cpu(there, vcpu):
        yield SetValue(path=facts.file(group, "cpu.weight"), value=_WEIGHT)  # on the pool it competes again
    if mechanism != "affinity":
        yield from entering(thread, group, facts)
    yield SetAffinity(tid=thread.tid, cpus=cpus)
