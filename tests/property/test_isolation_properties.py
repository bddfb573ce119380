"""What holds for the steps of every VM, on every kind of host."""

from dataclasses import replace
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.isolation_cases import EVERYONE, LAYOUTS, around, census, plan

from quietcore.isolation import ForeignTask, IrqFact, irq_steps, isolate, kernel_task_steps, partition_cpus, refreshed, released, verify
from quietcore.model import CgroupFacts, CpuSet, Mechanism, MoveProcess, MoveThread, Plan, SetAffinity, SetValue, ThreadCensus

FEW = settings(max_examples=60, deadline=None)
POOL = ("2", "3", "4", "5", "6")


@st.composite
def vms(draw: st.DrawFn) -> Plan:
    strategy = draw(st.sampled_from(("dedicated", "housekeeping", "whole")))
    cpus = draw(st.permutations(POOL))
    vcpus = draw(st.integers(1, 3))
    pcpus = list(cpus[:vcpus])
    if strategy == "dedicated" and draw(st.booleans()):
        pcpus[draw(st.integers(0, vcpus - 1))] = "-"
    emulator = cpus[3] if strategy == "housekeeping" else ""
    return plan(",".join(pcpus), strategy=strategy, emulator=emulator, io=draw(st.sampled_from(("", cpus[4]))))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Plan, ThreadCensus, CgroupFacts, Mechanism]:
    vm = draw(vms())
    mechanism, layout = LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))]
    claims = {level: CpuSet.from_iterable(draw(st.sets(st.sampled_from((0, 1, 7))))) for level in layout.levels}
    if mechanism != "partition":
        claims = {}
    return vm, census(layout, len(vm.vcpus)), around(layout, len(vm.vcpus), exclusive=MappingProxyType(claims)), mechanism


def written(steps, name: str) -> dict[str, list[str]]:
    """The values that were written to files of one name, by group."""
    found: dict[str, list[str]] = {}
    for step in steps:
        if isinstance(step, SetValue) and step.path.endswith(f"/{name}"):
            found.setdefault(step.path.removeprefix("/cg").removesuffix(f"/{name}"), []).append(step.value)
    return found


@FEW
@given(situations())
def test_no_helper_thread_may_run_on_a_dedicated_cpu(situation):
    vm, threads, facts, mechanism = situation
    if vm.strategy == "whole":
        return
    vcpus = {thread.tid for thread in threads.threads if thread.vcpu is not None or thread.role == "pit"}
    steps = isolate(vm, threads, facts, mechanism).steps
    assert all(step.cpus.isdisjoint(vm.dedicated) for step in steps if isinstance(step, SetAffinity) and step.tid not in vcpus)
    homes = {step.group for step in steps if isinstance(step, MoveThread) and step.tid not in vcpus}
    for group, values in written(steps, "cpuset.cpus").items():
        if group in homes or group in {facts.emulator_group, *facts.io_groups.values()}:
            assert all(CpuSet.parse(value).isdisjoint(vm.dedicated) for value in values)


@FEW
@given(situations())
def test_every_thread_is_given_a_place_and_vcpus_just_theirs(situation):
    vm, threads, facts, mechanism = situation
    steps = isolate(vm, threads, facts, mechanism).steps
    allowed = {step.tid: step.cpus for step in steps if isinstance(step, SetAffinity)}
    assert allowed.keys() == {thread.tid for thread in threads.threads}
    for placement, thread in zip(vm.vcpus, threads.vcpus, strict=True):
        assert allowed[thread.tid] == (CpuSet.of(placement.pcpu) if placement.pcpu is not None else vm.shared)
    assert all(cpus for cpus in allowed.values())


@FEW
@given(situations())
def test_exclusive_lists_grow_from_the_top_down_and_keep_what_others_claim(situation):
    vm, threads, facts, mechanism = situation
    lists = dict(facts.exclusive)
    for step in isolate(vm, threads, facts, mechanism).steps:
        if isinstance(step, SetValue) and step.path.endswith("/cpuset.cpus.exclusive"):
            group = step.path.removeprefix("/cg").removesuffix("/cpuset.cpus.exclusive")
            lists[group] = CpuSet.parse(step.value)
            parent = group.rpartition("/")[0]
            if parent:
                assert lists[group] - facts.exclusive.get(group, CpuSet()) <= lists[parent]
        if isinstance(step, SetValue) and step.path.endswith("/cpuset.cpus.partition"):
            assert lists[step.path.removeprefix("/cg").removesuffix("/cpuset.cpus.partition")] & partition_cpus(vm)
    assert all(facts.exclusive[level] <= lists[level] for level in facts.exclusive)
    ended = replace(facts, exclusive=MappingProxyType({level: lists[level] for level in facts.exclusive}))
    for step in released(ended, partition_cpus(vm)):
        lists[step.path.removeprefix("/cg").removesuffix("/cpuset.cpus.exclusive")] = CpuSet.parse(step.value)
    assert {level: lists[level] for level in facts.exclusive} == {
        level: cpus - partition_cpus(vm) for level, cpus in facts.exclusive.items()
    }


@FEW
@given(situations())
def test_a_vm_that_stands_as_its_steps_say_has_no_findings(situation):
    vm, threads, facts, mechanism = situation
    steps = isolate(vm, threads, facts, mechanism).steps
    allowed = {step.tid: step.cpus for step in steps if isinstance(step, SetAffinity)}
    moved = {step.tid: step.group for step in steps if isinstance(step, MoveThread)}
    moved |= {step.pid: step.group for step in steps if isinstance(step, MoveProcess) and step.pid != threads.pid}
    placed = tuple(replace(one, allowed=allowed[one.tid], cgroup=moved.get(one.tid, one.cgroup)) for one in threads.threads)
    states = {group: values[-1] for group, values in written(steps, "cpuset.cpus.partition").items()}
    seen = replace(facts, partition_states=MappingProxyType(states))
    assert verify(vm, replace(threads, threads=placed), seen, mechanism) == ()


@FEW
@given(vms(), st.sets(st.integers(0, 7)))
def test_what_stands_on_the_pool_follows_it_and_nothing_else_moves(vm, cpus):
    pool = CpuSet.from_iterable(cpus) - vm.exclusive
    after = refreshed(vm, pool)
    assert after.shared == pool
    assert after.emulator == (pool if vm.strategy == "dedicated" else vm.emulator)
    assert replace(after, shared=vm.shared, emulator=vm.emulator) == vm


@FEW
@given(st.lists(st.tuples(st.sets(st.integers(0, 7), min_size=1), st.booleans()), max_size=4), st.sets(st.integers(0, 6)))
def test_interrupts_leave_dedicated_cpus_whatever_they_were_allowed_first(lines, cpus):
    owned = CpuSet.from_iterable(cpus)
    irqs = tuple(IrqFact(irq=n, name="dev", allowed=CpuSet.from_iterable(allowed), managed=m) for n, (allowed, m) in enumerate(lines))
    originals = {irq.irq: str(irq.allowed) for irq in irqs}
    after = {irq.irq: irq.allowed for irq in irqs}
    for step in irq_steps(irqs, originals, owned, EVERYONE - owned):
        after[int(step.path.split("/")[3])] = CpuSet.parse(step.value)
    for irq in irqs:
        expected = irq.allowed if irq.managed else (irq.allowed - owned) or (EVERYONE - owned)
        assert after[irq.irq] == expected
    moved = tuple(replace(irq, allowed=after[irq.irq]) for irq in irqs)
    back = irq_steps(moved, originals, CpuSet(), EVERYONE)
    assert {int(step.path.split("/")[3]): CpuSet.parse(step.value) for step in back} == {
        irq.irq: irq.allowed for irq in irqs if after[irq.irq] != irq.allowed
    }


@FEW
@given(st.lists(st.tuples(st.sets(st.integers(0, 7), min_size=1), st.booleans()), max_size=4), st.sets(st.integers(0, 6)))
def test_kernel_threads_leave_dedicated_cpus_and_nobody_else_is_touched(lines, cpus):
    owned = CpuSet.from_iterable(cpus)
    tasks = tuple(ForeignTask(tid=n, comm="k", allowed=CpuSet.from_iterable(allowed), kernel=k) for n, (allowed, k) in enumerate(lines))
    after = {task.tid: task.allowed for task in tasks} | {s.tid: s.cpus for s in kernel_task_steps(tasks, owned, EVERYONE - owned)}
    for task in tasks:
        expected = (task.allowed - owned) or (EVERYONE - owned) if task.kernel else task.allowed
        assert after[task.tid] == expected
