"""A trace of the scheduler in an instance of its own: nobody else's tracing is touched, and nothing of it is left.

Only switching an event on patches the kernel's text (an interruption of every CPU); it is done before a window and undone after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from quietcore.host.fs import HostFs
from quietcore.model import CpuSet

_SWITCH, _WAKEUP, _FORK = "sched_switch", "sched_wakeup", "sched_process_fork"


def tracefs(fs: HostFs) -> str:
    """Where tracefs is mounted; "" where it is not."""
    mounts = [line.split() for line in fs.read_or("/proc/self/mounts", "").splitlines()]
    return next((fields[1] for fields in mounts if len(fields) > 2 and fields[2] == "tracefs"), "")


class Recording:
    """An armed trace. Its stamps are CLOCK_MONOTONIC, as `time.monotonic_ns` has it."""

    def __init__(self, fs: HostFs, instance: str) -> None:
        self._fs = fs
        self._instance = instance

    def stop(self) -> None:
        """Record nothing more; what was recorded stays."""
        self._fs.write(f"{self._instance}/tracing_on", "0")

    def text(self) -> str:
        """What was recorded, in the order of time."""
        return self._fs.read(f"{self._instance}/trace")

    def lost(self) -> int:
        """How many events did not fit into the buffers: above 0 the trace proves nothing."""
        found = 0
        for name in self._fs.listdir(f"{self._instance}/per_cpu"):
            for line in self._fs.read(f"{self._instance}/per_cpu/{name}/stats").splitlines():
                field, _, value = line.partition(":")
                if field in {"overrun", "dropped events"}:
                    found += int(value)
        return found


@contextmanager
def recording(fs: HostFs, mount: str, name: str, *, cpus: CpuSet, vcpus: frozenset[int], buffer_kb: int = 8192) -> Iterator[Recording]:
    """Record every switch on `cpus`, every wake-up of the threads `vcpus` and every fork, in the instance `name` of the tracefs at `mount`.

    `buffer_kb` is per CPU. Raises OSError as the kernel refuses (FileExistsError: somebody has an instance of this name).
    """
    instance = f"{mount}/instances/{name}"
    filters = {
        _SWITCH: " || ".join(f"CPU == {cpu}" for cpu in cpus),
        _WAKEUP: " || ".join(f"pid == {tid}" for tid in sorted(vcpus)),
        _FORK: "",
    }
    with ExitStack() as undo:
        fs.mkdir(instance)
        undo.callback(fs.rmdir, instance)
        fs.write(f"{instance}/trace_clock", "mono")
        fs.write(f"{instance}/buffer_size_kb", str(buffer_kb))
        for event, condition in filters.items():
            if event == _WAKEUP and not condition:
                continue
            if condition:
                fs.write(f"{instance}/events/sched/{event}/filter", condition)
            fs.write(f"{instance}/events/sched/{event}/enable", "1")
            undo.callback(fs.write, f"{instance}/events/sched/{event}/enable", "0")
        yield Recording(fs, instance)
