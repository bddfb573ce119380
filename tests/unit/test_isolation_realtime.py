"""What real-time vCPUs need of a host: budgets of cgroup v1, throttling, the fair server, and the kernel's own threads."""

from fractions import Fraction
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.isolation_cases import plan

from quietcore.isolation import (
    MemoryLock,
    budget_files,
    budget_steps,
    no_budget,
    polling_cpus,
    realtime_cpus,
    taken,
    throttled,
    unlocked,
    unthrottling_steps,
)
from quietcore.model import Budget, BudgetLevel, CpuSet, MemorySpec, MoveThread, RealtimeHost, SetValue

SECOND = 1_000_000


def level(group: str, runtime: int, **siblings: int) -> BudgetLevel:
    beside = {f"{group.rpartition('/')[0]}/{name}": Budget(runtime=number, period=SECOND) for name, number in siblings.items()}
    return BudgetLevel(group=group, budget=Budget(runtime=runtime, period=SECOND), siblings=MappingProxyType(beside))


def host(*levels: BudgetLevel, **more: object) -> RealtimeHost:
    return RealtimeHost(cpu_mount="/cpu", levels=levels, **more)


def writes(of: RealtimeHost) -> list[tuple[str, str]]:
    return [(step.path, step.value) for step in budget_steps(of) if isinstance(step, SetValue)]


def test_budgets_are_written_from_the_top_down_then_the_threads_move():
    groups = MappingProxyType({7: "/machine/vm/vcpu1", 8: "/machine", 9: "/"})
    steps = tuple(budget_steps(host(level("/", 950_000), level("/machine", 0), groups=groups)))
    assert steps == (
        SetValue(path="/cpu/machine/cpu.rt_runtime_us", value="950000"),
        MoveThread(path="/cpu/machine/tasks", group="/machine", tid=7, controller="cpu"),
    )


def test_siblings_keep_what_they_have():
    of = host(level("/", 950_000), level("/system.slice", 0, audio=150_000, other=0), level("/system.slice/libvirtd.service", 0))
    assert writes(of) == [
        ("/cpu/system.slice/cpu.rt_runtime_us", "800000"),
        ("/cpu/system.slice/libvirtd.service/cpu.rt_runtime_us", "800000"),
    ]


def test_a_budget_that_was_given_already_is_kept_and_bounds_what_is_below():
    of = host(level("/", 950_000), level("/machine", 100_000), level("/machine/ours", 0, other=40_000))
    assert writes(of) == [("/cpu/machine/ours/cpu.rt_runtime_us", "60000")]


def test_no_budget_is_more_than_the_whole_kernel_allows_and_none_is_needed_at_the_root():
    throttle = Budget(runtime=500_000, period=SECOND)
    assert writes(host(level("/", -1), level("/machine", 0), throttle=throttle)) == [("/cpu/machine/cpu.rt_runtime_us", "500000")]
    assert writes(host(level("/", 950_000))) == writes(host()) == []


def test_a_host_whose_budget_is_spent_is_named():
    of = host(level("/", 950_000), level("/machine", 0, audio=950_000))
    assert no_budget(of) == "no real-time budget is left for the cgroup /machine (cpu.rt_runtime_us of its siblings: /audio 950000)"
    assert no_budget(host(level("/", 950_000), level("/machine", 0))) == ""


NUMBERS = st.integers(0, SECOND)


@settings(max_examples=60, deadline=None)
@given(top=st.integers(-1, SECOND), beside=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=3))
def test_what_a_level_gets_and_what_its_siblings_have_is_never_more_than_its_parent_has(top, beside):
    levels, path = [level("/", top)], ""
    for one, other in beside:
        path += "/g"
        levels.append(level(path, 0, one=one // 4, other=other // 4))
    of = host(*levels)
    given_now = {group.removesuffix("/cpu.rt_runtime_us"): Fraction(int(value), SECOND) for group, value in writes(of)}
    above = levels[0].budget.share
    for one in levels[1:]:
        share = given_now.get(f"/cpu{one.group}", Fraction(0))
        others = sum((sibling.share for sibling in one.siblings.values()), Fraction(0))
        assert share == 0 or share + others <= above
        above = share
    assert bool(no_budget(of)) == (len(given_now) < len(beside) or top == 0)
    assert len(budget_files(of)) == len(beside)


FAIR = MappingProxyType({4: Budget(runtime=50_000_000, period=10**9), 5: Budget(runtime=50_000_000, period=10**9)})
THROTTLED = Budget(runtime=950_000, period=SECOND)


def test_throttling_goes_before_the_fair_servers():
    files = [(step.path, step.value) for step in unthrottling_steps(host(throttle=THROTTLED, fair_servers=FAIR))]
    assert files == [
        ("/proc/sys/kernel/sched_rt_runtime_us", "-1"),
        ("/sys/kernel/debug/sched/fair_server/cpu4/runtime", "0"),
        ("/sys/kernel/debug/sched/fair_server/cpu5/runtime", "0"),
    ]
    off = host(throttle=Budget(runtime=-1, period=SECOND), fair_servers=MappingProxyType({4: Budget(runtime=0, period=10**9)}))
    assert unthrottling_steps(off) == unthrottling_steps(host()) == ()


def test_what_a_polling_vcpu_loses_is_said():
    fair = (
        "the kernel's fair server lends ordinary tasks 50 of every 1000 ms on CPUs 4-5, "
        "which a polling real-time vCPU loses while such a task waits there"
    )
    group = "RT_GROUP_SCHED: a polling real-time vCPU gets 950000 of every 1000000 us on its CPU"
    throttle = "the kernel takes a polling real-time vCPU off its CPU for 50000 of every 1000000 us (sched_rt_runtime_us)"
    assert list(taken(host(throttle=THROTTLED, fair_servers=FAIR))) == [fair]
    assert list(taken(host(throttle=THROTTLED))) == [throttle]
    assert list(taken(host(level("/", 950_000), level("/machine", 0), throttle=THROTTLED))) == [group]
    assert list(taken(host(throttle=Budget(runtime=-1, period=SECOND)))) == []


def test_what_throttles_again_is_found():
    found = [(one.severity, one.code, one.id, one.expected, one.actual) for one in throttled(host(throttle=THROTTLED, fair_servers=FAIR))]
    assert found == [
        ("warning", "realtime-throttled", "/proc/sys/kernel/sched_rt_runtime_us", "-1", "950000"),
        ("warning", "realtime-throttled", "/sys/kernel/debug/sched/fair_server/cpu4/runtime", "0", "50000000"),
        ("warning", "realtime-throttled", "/sys/kernel/debug/sched/fair_server/cpu5/runtime", "0", "50000000"),
    ]


def test_the_cpus_with_real_time_threads_are_those_of_real_time_vcpus_of_the_timer_and_of_the_vms_own_helpers():
    vm = plan("4,5,2", strategy="housekeeping", emulator="6", realtime=frozenset({1}))
    assert (polling_cpus(vm), realtime_cpus(vm)) == (CpuSet.of(5), CpuSet.of(4, 5, 6))
    assert realtime_cpus(plan(realtime=frozenset({1}))) == CpuSet.of(4, 5)
    assert realtime_cpus(plan()) == CpuSet()


@pytest.mark.parametrize(
    ("memory", "locked", "possible", "expected"),
    [
        (MemorySpec(guest_bytes=64, locked=True), 64, True, []),
        (MemorySpec(guest_bytes=64, locked=True), 63, True, [("error", "at least 64 bytes locked", "63 bytes (VmLck)")]),
        (MemorySpec(guest_bytes=64, locked=True), 0, False, [("warning", "at least 64 bytes locked", "0 bytes (VmLck)")]),
        (MemorySpec(guest_bytes=64, locked=True, hugepage_bytes=2), 1, True, []),
        (MemorySpec(guest_bytes=64, locked=True, hugepage_bytes=2), 0, True, [("error", "some locked memory", "0 bytes (VmLck)")]),
        (MemorySpec(guest_bytes=64), 0, True, []),
    ],
)
def test_memory_that_should_be_locked_and_is_not_is_found(memory, locked, possible, expected):
    found = unlocked(memory, MemoryLock(pid=7, locked_bytes=locked, possible=possible))
    assert [(one.severity, one.expected, one.actual) for one in found] == expected
