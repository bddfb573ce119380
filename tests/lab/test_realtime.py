"""What the two kernels do to a real-time task that never yields: throttling on the older one, the fair server on the newer one."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.inside import ThreadedProcess, restored, run_time_ns, scratch_group, spinner, write
from lab.looking import eventually, read
from lab.machines import OLDER

pytestmark = [pytest.mark.lab, pytest.mark.kernel_differs]
CPU = 5
THROTTLING = Path("/proc/sys/kernel/sched_rt_runtime_us")
FAIR_SERVER = Path(f"/sys/kernel/debug/sched/fair_server/cpu{CPU}/runtime")
WINDOW_S = 3
THROTTLED = "RT throttling activated"


@pytest.fixture
def older(row):
    return row.endswith(f"-{OLDER}")


@contextmanager
def ordinary_task_below_a_realtime_one():
    """Two tasks that both want CPU 5 for ever, one of them SCHED_FIFO; the id of the ordinary one, after the other had two seconds."""
    with spinner(CPU) as ordinary, spinner(CPU, fifo=1) as realtime:
        began = run_time_ns(realtime)
        eventually(lambda: run_time_ns(realtime) - began > 2_000_000_000, "the real-time task does not run")
        yield ordinary


def gets_time(task):
    before = run_time_ns(task)
    eventually(lambda: run_time_ns(task) > before, "the ordinary task starves")


def starves(task):
    def nothing_in_a_window():
        before = run_time_ns(task)
        time.sleep(WINDOW_S)
        return run_time_ns(task) == before

    eventually(nothing_in_a_window, "the ordinary task still gets time")


def kernel_log():
    return subprocess.run(["dmesg"], check=True, capture_output=True, text=True).stdout


def test_the_fair_server_exists_on_the_newer_kernel_only(older):
    assert FAIR_SERVER.exists() != older
    assert int(read(THROTTLING)) == 950_000


def test_by_default_an_ordinary_task_gets_time_below_a_realtime_one(older):
    with ordinary_task_below_a_realtime_one() as ordinary:
        gets_time(ordinary)
        # The older kernel throttles the real-time class and says so once; the newer one lends time through the fair server.
        if older:
            eventually(lambda: THROTTLED in kernel_log(), "the kernel does not say that it throttles")
        assert (THROTTLED in kernel_log()) == older


def test_minus_one_ends_throttling_but_not_the_fair_server(older):
    with restored(THROTTLING) as throttling:
        write(throttling, "-1")
        with ordinary_task_below_a_realtime_one() as ordinary:
            if older:
                starves(ordinary)
            else:
                gets_time(ordinary)


def test_only_a_fair_server_of_no_runtime_leaves_the_cpu_to_the_realtime_task(older):
    if older:
        assert not FAIR_SERVER.parent.parent.exists()
        return
    # With throttling on, the write is refused with EBUSY once throttling has been off and on again in this boot (6.12.117).
    with restored(THROTTLING) as throttling, restored(FAIR_SERVER) as runtime, ordinary_task_below_a_realtime_one() as ordinary:
        write(throttling, "-1")
        write(runtime, "0")
        starves(ordinary)


def test_a_thread_in_a_child_group_may_be_realtime_without_a_budget():
    with scratch_group("realtime") as group, ThreadedProcess("vcpu0") as qemu:
        compute = group.child("compute")
        compute.set("cgroup.procs", qemu.pid)
        os.sched_setscheduler(qemu.tids["vcpu0"], os.SCHED_FIFO, os.sched_param(1))
        assert os.sched_getscheduler(qemu.tids["vcpu0"]) == os.SCHED_FIFO
        assert not compute.has("cpu.rt_runtime_us")
