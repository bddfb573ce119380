"""A trace of the scheduler in an instance of its own: nobody else's tracing is touched, and nothing of it is left.

Switching an event on or off patches the kernel's text, which interrupts every CPU: it is done once before the first window and undone
after the last. What happens in between (filters, the switch of the buffer) disturbs nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from quietcore.host.fs import HostFs
from quietcore.model import CpuSet

_SWITCH, _WAKEUP, _FORK = "sched_switch", "sched_wakeup", "sched_process_fork"
_NOBODY: Final = "pid == 0"  # the idle task is never woken


def tracefs(fs: HostFs) -> str:
    """Where tracefs is mounted; "" where it is not."""
    mounts = [line.split() for line in fs.read_or("/proc/self/mounts", "").splitlines()]
    return next((fields[1] for fields in mounts if len(fields) > 2 and fields[2] == "tracefs"), "")


class Tracer:
    """An armed instance that records nothing yet. Its stamps are CLOCK_MONOTONIC, as `time.monotonic_ns` has it."""

    def __init__(self, fs: HostFs, instance: str) -> None:
        self._fs = fs
        self._instance = instance

    def record(self, cpus: CpuSet, vcpus: frozenset[int]) -> None:
        """Forget what was, and record every switch on `cpus`, every wake-up of the threads `vcpus` and every fork from now on."""
        self._filter(_SWITCH, " || ".join(f"CPU == {cpu}" for cpu in cpus))
        self._filter(_WAKEUP, " || ".join(f"pid == {tid}" for tid in sorted(vcpus)) or _NOBODY)
        self._fs.empty(f"{self._instance}/trace")
        self._fs.write(f"{self._instance}/tracing_on", "1")

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

    def _filter(self, event: str, condition: str) -> None:
        self._fs.write(f"{self._instance}/events/sched/{event}/filter", condition)


@contextmanager
def tracer(fs: HostFs, mount: str, name: str, *, buffer_kb: int = 16384) -> Iterator[Tracer]:
    """Arm the instance `name` of the tracefs at `mount`, with `buffer_kb` for each CPU, and remove it at the end.

    Raises OSError as the kernel refuses (FileExistsError: somebody has an instance of this name).
    """
    instance = f"{mount}/instances/{name}"
    with ExitStack() as undo:
        fs.mkdir(instance)
        undo.callback(fs.rmdir, instance)
        for file, value in (("tracing_on", "0"), ("trace_clock", "mono"), ("buffer_size_kb", str(buffer_kb))):
            fs.write(f"{instance}/{file}", value)
        for event in (_SWITCH, _WAKEUP, _FORK):
            fs.write(f"{instance}/events/sched/{event}/enable", "1")
            undo.callback(fs.write, f"{instance}/events/sched/{event}/enable", "0")
        yield Tracer(fs, instance)
