"""From the text of a trace to who ran on a VM's CPUs and for whom its vCPUs waited, on traces written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quietcore.model import CpuSet
from quietcore.proof import Fork, Switch, Tally, Tasks, Wakeup, attribute, parse_trace

VCPU, OTHER_VCPU, MAIN, WORKER, KSOFTIRQD, STRANGER = 100, 101, 90, 95, 22, 500
TASKS = Tasks(vcpus=frozenset({VCPU, OTHER_VCPU}), own=frozenset({MAIN, WORKER}), kernel=frozenset({KSOFTIRQD}))
NAMES = {0: "swapper/4", VCPU: "CPU 0/TCG", OTHER_VCPU: "CPU 1/TCG", MAIN: "qemu-system-x86", KSOFTIRQD: "ksoftirqd/4"}
START, END = 1_000_000, 2_000_000


def switch(time_us, left, came, *, runnable=False, cpu=4):
    names = [NAMES.get(tid, f"task-{tid}") for tid in (left, came)]
    return Switch(time_ns=time_us * 1000, cpu=cpu, left=left, left_comm=names[0], runnable=runnable, came=came, came_comm=names[1])


def walk(*events, cpus="4", tasks=TASKS):
    return attribute(events, CpuSet.parse(cpus), tasks, START, END)


def times(attribution):
    return {runner: (tally.time_ns // 1000, tally.times) for runner, tally in attribution.ran.items() if tally != Tally()}


def counts(mapping):
    return {runner: value for runner, value in mapping.items() if value}


TRACE = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 6/6   #P:8
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
       CPU 0/TCG-100     [004] d..2.  7021.000250: sched_switch: prev_comm=CPU 0/TCG prev_pid=100 prev_prio=120 prev_state=R+ ==> next_comm=a next_pid=7 prev_pid=1 next_pid=500 next_prio=98
 a next_pid=7 prev_pid=1-500     [004] d..2.  7021.000300: sched_switch: prev_comm=a next_pid=7 prev_pid=1 prev_pid=500 prev_prio=98 prev_state=S ==> next_comm=CPU 0/TCG next_pid=100 next_prio=120
          <idle>-0       [003] dNh3.  7021.000301: sched_wakeup: comm=CPU 0/TCG pid=100 prio=120 target_cpu=004
 qemu-system-x86-90      (     90) [001] .....  7021.000302: sched_process_fork: comm=qemu-system-x86 pid=90 child_comm=qemu-system-x86 child_pid=96
            bash-7       [000] .....  7021.000303: sys_enter: NR 0 (1, 2)
CPU:4 [LOST 12 EVENTS]
"""  # noqa: E501  # lines as the kernel prints them; the stranger has a name that looks like fields


def test_a_trace_becomes_events_whatever_the_tasks_are_called():
    name = "a next_pid=7 prev_pid=1"
    assert parse_trace(TRACE) == (
        Switch(time_ns=7_021_000_250_000, cpu=4, left=100, left_comm="CPU 0/TCG", runnable=True, came=500, came_comm=name),
        Switch(time_ns=7_021_000_300_000, cpu=4, left=500, left_comm=name, runnable=False, came=100, came_comm="CPU 0/TCG"),
        Wakeup(time_ns=7_021_000_301_000, cpu=4, tid=100),
        Fork(time_ns=7_021_000_302_000, parent=90, child=96),
    )


@pytest.mark.parametrize(
    "line",
    [
        "what is this",
        "  a-1  [000] d..2.  1.000001: sched_switch: prev_comm=a prev_pid=x",
        "  a-1  [000] ...  1.000001: sched_wakeup: pid=1",
    ],
)
def test_a_line_that_is_not_understood_is_no_silence(line):
    with pytest.raises(ValueError, match=r"not a line|not as expected"):
        parse_trace(line)


def test_time_is_booked_to_whose_thread_it_was():
    seen = walk(
        switch(1100, VCPU, MAIN, runnable=True),
        switch(1150, MAIN, KSOFTIRQD),
        switch(1170, KSOFTIRQD, STRANGER),
        switch(1200, STRANGER, VCPU),
        switch(1900, VCPU, 0),
    )
    assert times(seen) == {"vcpu": (800, 2), "own": (50, 1), "kernel": (20, 1), "other": (30, 1), "idle": (100, 1)}
    assert counts(seen.waited_ns) == {"own": 50_000, "kernel": 20_000, "other": 30_000}
    assert counts(seen.preempted) == {"own": 1}
    assert seen.names == {("own", "qemu-system-x86"): 50_000, ("other", "task-500"): 30_000, ("kernel", "ksoftirqd/4"): 20_000}
    assert (seen.foreign_ns, seen.foreign_percent, seen.unseen_ns) == (50_000, 5.0, 0)


def test_a_stay_too_short_for_the_clock_is_counted_though_it_has_no_time():
    seen = walk(switch(1100, VCPU, WORKER, runnable=True), switch(1100, WORKER, VCPU))
    assert seen.ran["own"] == Tally(time_ns=0, times=1)


def test_a_wait_begins_with_the_wake_up_and_a_vcpu_that_sleeps_does_not_wait():
    seen = walk(switch(1100, VCPU, STRANGER), Wakeup(time_ns=1_400_000, cpu=4, tid=VCPU), switch(1500, STRANGER, VCPU))
    assert counts(seen.waited_ns) == {"other": 100_000}
    assert counts(seen.preempted) == {}


def test_the_time_that_an_idle_cpu_needs_to_wake_up_is_nobodys():
    seen = walk(switch(1100, VCPU, 0), Wakeup(time_ns=1_300_000, cpu=4, tid=VCPU), switch(1307, 0, VCPU))
    assert counts(seen.waited_ns) == {"idle": 7000}


def test_a_wait_that_has_not_ended_counts_up_to_the_end_of_the_window():
    seen = walk(switch(1600, VCPU, STRANGER, runnable=True))
    assert counts(seen.waited_ns) == {"other": 400_000}


def test_what_was_before_the_window_says_who_is_there_and_who_waits_but_is_not_counted():
    seen = walk(switch(500, VCPU, STRANGER, runnable=True), switch(1200, STRANGER, VCPU), switch(2100, VCPU, MAIN, runnable=True))
    assert times(seen) == {"vcpu": (800, 1), "other": (200, 1)}
    assert counts(seen.waited_ns) == {"other": 200_000}
    assert counts(seen.preempted) == {}


def test_a_thread_that_was_born_and_gone_within_the_trace_belongs_to_its_parents_owner():
    forks = [Fork(time_ns=900_000, parent=MAIN, child=300), Fork(time_ns=900_001, parent=300, child=301)]
    forks += [Fork(time_ns=900_002, parent=2, child=302), Fork(time_ns=900_003, parent=STRANGER, child=303)]
    tids = (301, 302, 303)
    seen = walk(*forks, *(event for at, tid in enumerate(tids) for event in (switch(1100 + at, VCPU, tid), switch(1100 + at, tid, VCPU))))
    assert {runner: tally.times for runner, tally in seen.ran.items() if runner != "vcpu"} == {"own": 1, "kernel": 1, "other": 1, "idle": 0}


def test_two_vcpus_on_one_cpu_keep_each_other_waiting():
    seen = walk(switch(1100, VCPU, OTHER_VCPU, runnable=True), switch(1200, OTHER_VCPU, VCPU, runnable=True))
    assert counts(seen.waited_ns) == {"vcpu": 100_000 + 800_000}
    assert counts(seen.preempted) == {"vcpu": 2}


def test_other_cpus_are_left_out_and_a_cpu_without_a_switch_is_called_unseen():
    seen = walk(switch(1100, VCPU, STRANGER, cpu=7), switch(1500, MAIN, 0, cpu=5), cpus="4-5")
    assert times(seen) == {"own": (500, 1), "idle": (500, 1)}
    assert seen.unseen_ns == 1_000_000


def test_a_window_without_length_or_cpus_is_refused():
    with pytest.raises(ValueError, match="window"):
        attribute((), CpuSet.parse("4"), TASKS, END, END)
    with pytest.raises(ValueError, match="window"):
        attribute((), CpuSet(), TASKS, START, END)


@st.composite
def schedules(draw):
    """Switches on two CPUs, each leaving whom the one before brought."""
    events = []
    for cpu in (4, 5):
        current = draw(st.sampled_from([VCPU, MAIN, STRANGER, 0]))
        for at in sorted(draw(st.lists(st.integers(500, 2500), max_size=12))):
            came = draw(st.sampled_from([VCPU, OTHER_VCPU, MAIN, KSOFTIRQD, STRANGER, 0]))
            events.append(switch(at, current, came, runnable=draw(st.booleans()), cpu=cpu))
            current = came
    return sorted(events, key=lambda event: event.time_ns)


@given(schedules())
def test_the_times_always_add_up_to_the_window(events):
    seen = walk(*events, cpus="4-5")
    assert sum(tally.time_ns for tally in seen.ran.values()) + seen.unseen_ns == 2 * (END - START)
    assert all(value >= 0 for value in (*seen.waited_ns.values(), *seen.preempted.values()))
