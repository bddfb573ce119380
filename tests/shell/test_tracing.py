"""A trace instance of our own on a pretended tracefs, and the kernel's counters, recorded and of this very process."""

from __future__ import annotations

import errno
import os
import shutil
import threading

import pytest

from quietcore.host.accounting import ThreadTimes, thread_times, usage_ns
from quietcore.host.fs import HostFs
from quietcore.host.threads import kernel_tasks
from quietcore.host.tracing import tracefs, tracer
from quietcore.model import CpuSet
from tests.machine_trees import write_tree

MOUNT = "/sys/kernel/tracing"
INSTANCE = f"{MOUNT}/instances/ours"
EVENTS = ("sched_switch", "sched_wakeup", "sched_process_fork")


class Tracefs(HostFs):
    """Fills a new instance as the kernel does, takes it away whole, and notes what is written; `refuse` names a file that takes nothing."""

    refuse = "nothing"

    def __init__(self, root) -> None:
        super().__init__(root)
        self.written: list[tuple[str, str]] = []
        write_tree(root, {"proc/self/mounts": f"tracefs {MOUNT} tracefs rw 0 0\n", f"{MOUNT[1:]}/instances/theirs/trace": ""})

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        files = [
            "trace_clock",
            "buffer_size_kb",
            "tracing_on",
            *(f"events/sched/{name}/{file}" for name in EVENTS for file in ("filter", "enable")),
        ]
        write_tree(self.path(path), dict.fromkeys(files, "") | {"trace": "what was seen\n"})
        for cpu, lost in enumerate((0, 3)):
            write_tree(
                self.path(path), {f"per_cpu/cpu{cpu}/stats": f"entries: 7\noverrun: {lost}\ndropped events: {lost * 2}\nread events: 1\n"}
            )

    def rmdir(self, path: str) -> None:
        shutil.rmtree(self.path(path))

    def write(self, path: str, text: str) -> None:
        if path.endswith(self.refuse):
            raise OSError(errno.EINVAL, "Invalid argument", path)
        super().write(path, text)
        self.written.append((path.removeprefix(f"{INSTANCE}/"), text))

    def taken(self) -> list[tuple[str, str]]:
        """What was written since this was asked last."""
        written, self.written = self.written, []
        return written


@pytest.fixture
def fs(tmp_path):
    return Tracefs(tmp_path)


def test_events_are_switched_on_once_and_nothing_is_left(fs):
    assert tracefs(fs) == MOUNT
    with tracer(fs, MOUNT, "ours", buffer_kb=64) as trace:
        armed = fs.taken()
        trace.record(CpuSet.parse("4-5"), frozenset({101, 100}))
        first = fs.taken()
        trace.stop()
        trace.record(CpuSet.parse("7"), frozenset())
        assert (trace.text(), trace.lost()) == ("", 9)
        second = fs.taken()
    assert armed == [
        ("tracing_on", "0"),
        ("trace_clock", "mono"),
        ("buffer_size_kb", "64"),
        *((f"events/sched/{name}/enable", "1") for name in EVENTS),
    ]
    assert first == [
        ("events/sched/sched_switch/filter", "CPU == 4 || CPU == 5"),
        ("events/sched/sched_wakeup/filter", "pid == 100 || pid == 101"),
        ("tracing_on", "1"),
    ]
    assert second == [
        ("tracing_on", "0"),
        ("events/sched/sched_switch/filter", "CPU == 7"),
        ("events/sched/sched_wakeup/filter", "pid == 0"),
        ("tracing_on", "1"),
    ]
    assert fs.taken() == [(f"events/sched/{name}/enable", "0") for name in reversed(EVENTS)]
    assert fs.listdir(f"{MOUNT}/instances") == ["theirs"]


@pytest.mark.parametrize("refuse", ["trace_clock", "sched_switch/enable", "sched_process_fork/enable"])
def test_a_refusal_on_the_way_leaves_nothing_either(fs, refuse):
    fs.refuse = refuse
    with pytest.raises(OSError, match="Invalid argument"), tracer(fs, MOUNT, "ours"):
        raise AssertionError
    assert fs.listdir(f"{MOUNT}/instances") == ["theirs"]


def test_somebody_elses_instance_is_not_taken_over(fs):
    with pytest.raises(FileExistsError), tracer(fs, MOUNT, "theirs"):
        raise AssertionError
    assert fs.listdir(f"{MOUNT}/instances") == ["theirs"]


def test_no_tracefs_is_an_empty_answer(tmp_path):
    assert tracefs(HostFs(tmp_path)) == ""


def test_a_threads_times_are_its_own(tmp_path):
    write_tree(
        tmp_path,
        {
            "proc/7/task/8/schedstat": "84134719 34082051 763\n",
            "proc/7/task/8/status": "Name:\tCPU 0/TCG\nvoluntary_ctxt_switches:\t700\nnonvoluntary_ctxt_switches:\t63\n",
        },
    )
    assert thread_times(HostFs(tmp_path), 7, 8) == ThreadTimes(ran_ns=84134719, waited_ns=34082051, preempted=63)
    with pytest.raises(FileNotFoundError):
        thread_times(HostFs(tmp_path), 7, 9)


def test_this_threads_time_grows_as_it_runs():
    me, fs = threading.get_native_id(), HostFs()
    before = thread_times(fs, os.getpid(), me)
    sum(range(2_000_000))
    assert thread_times(fs, os.getpid(), me).ran_ns > before.ran_ns


def test_a_groups_time_per_cpu_is_known_where_cpuacct_counts(tmp_path):
    mounts = "cgroup /cg/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
    write_tree(tmp_path, {"proc/self/mounts": mounts, "cg/cpu,cpuacct/machine/vm/cpuacct.usage_percpu": "17 0 5 \n"})
    assert usage_ns(HostFs(tmp_path), "/machine/vm") == {0: 17, 1: 0, 2: 5}
    assert usage_ns(HostFs(tmp_path), "/machine/gone") is None
    write_tree(tmp_path, {"proc/self/mounts": "cgroup2 /cg cgroup2 rw 0 0\n"})
    assert usage_ns(HostFs(tmp_path), "/") is None


def test_the_kernels_own_tasks_are_told_by_their_flag_and_not_by_their_names(tmp_path):
    stat = "{} ({}) S 0 0 0 0 -1 {} 0 0 0\n"
    write_tree(tmp_path, {"proc/2/stat": stat.format(2, "kthreadd", 0x208040), "proc/77/stat": stat.format(77, "kworker/0:1", 0x400040)})
    write_tree(tmp_path, {"proc/9/stat": stat.format(9, "odd) S 0", 0x4208060), "proc/self/stat": ""})
    assert kernel_tasks(HostFs(tmp_path)) == {2, 9}
