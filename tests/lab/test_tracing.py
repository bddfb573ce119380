"""A trace of the scheduler on a real kernel: a task that is made to wait is found, with whom it waited for."""

import time

import pytest

from lab.inside import spinner
from quietcore.host.accounting import thread_times
from quietcore.host.fs import HostFs
from quietcore.host.threads import kernel_tasks
from quietcore.model import CpuSet
from quietcore.proof import Tasks, attribute, parse_trace

pytestmark = pytest.mark.lab
CPU = 5


@pytest.mark.kernel_differs
def test_a_task_that_shares_its_cpu_is_seen_to_wait_for_the_other(trace):
    fs, cpus = HostFs(), CpuSet.of(CPU)
    with spinner(CPU) as vcpu, spinner(CPU) as stranger:
        trace.record(cpus, frozenset({vcpu}))
        before, start_ns = thread_times(fs, vcpu, vcpu), time.monotonic_ns()
        time.sleep(3)
        end_ns, after = time.monotonic_ns(), thread_times(fs, vcpu, vcpu)
        trace.stop()
    tasks = Tasks(vcpus=frozenset({vcpu}), own=frozenset({stranger}), kernel=kernel_tasks(fs))
    seen = attribute(parse_trace(trace.text()), cpus, tasks, start_ns, end_ns)
    assert trace.lost() == 0
    assert seen.ran["own"].time_ns > 0
    assert seen.preempted["own"] > 0
    assert sum(tally.time_ns for tally in seen.ran.values()) == seen.window_ns
    assert abs(sum(seen.preempted.values()) - (after.preempted - before.preempted)) <= 2  # the kernel counts a little before and after us
    assert abs(sum(seen.waited_ns.values()) - (after.waited_ns - before.waited_ns)) < seen.window_ns / 5
