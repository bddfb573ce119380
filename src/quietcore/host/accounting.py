"""The kernel's own counters of who ran, for how long, and who waited: read, never reset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quietcore.host.cgroups import v1_mount
from quietcore.host.fs import HostFs
from quietcore.host.threads import status_field

_USAGE: Final = "cpuacct.usage_percpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadTimes:
    """One thread since its birth: on a CPU, runnable without one, and how often it was taken off although it wanted to go on."""

    ran_ns: int
    waited_ns: int
    preempted: int


def thread_times(fs: HostFs, pid: int, tid: int) -> ThreadTimes:
    """Read /proc/PID/task/TID/schedstat (CONFIG_SCHED_INFO is enough) and status. Raises OSError when the thread is gone."""
    ran, waited, _ = fs.read(f"/proc/{pid}/task/{tid}/schedstat").split()
    preempted = status_field(fs.read(f"/proc/{pid}/task/{tid}/status"), "nonvoluntary_ctxt_switches")
    return ThreadTimes(ran_ns=int(ran), waited_ns=int(waited), preempted=int(preempted or 0))


def usage_ns(fs: HostFs, group: str) -> dict[int, int] | None:
    """CPU -> nanoseconds that threads have run there while they were in this group of cgroup v1.

    None where the kernel does not count so: without the cpuacct controller, and on cgroup v2, which has no times per CPU.
    """
    mount = v1_mount(fs, "cpuacct")
    text = fs.read_or(f"{mount}{group.rstrip('/')}/{_USAGE}", "") if mount else ""
    return dict(enumerate(map(int, text.split()))) or None
