"""Small tools for tests that run inside a lab: writes, cgroups, processes with known threads. Never used outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from lab.looking import eventually, groups_below, read
from quietcore.model import CpuSet

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
CPUS: Final = Path("/sys/devices/system/cpu")

THREADS: Final = """
import ctypes, sys, threading, time
prctl = ctypes.CDLL(None).prctl
def idle(name):
    prctl(15, name.encode()); print(name, threading.get_native_id(), flush=True); time.sleep(100000)
def busy(name):
    prctl(15, name.encode()); print(name, threading.get_native_id(), flush=True)
    while True: pass
for word in sys.argv[1:]:
    name, _, kind = word.partition(":")
    threading.Thread(target=busy if kind == "busy" else idle, args=(name,), daemon=True).start()
time.sleep(100000)
"""


def write(path: Path | str, text: str) -> None:
    """One unbuffered write: the kernel's refusal is raised here and nowhere else."""
    handle = os.open(path, os.O_WRONLY)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup by its path."""

    path: Path

    def child(self, name: str, *, threaded: bool = False) -> Cgroup:
        """Make a child group."""
        child = Cgroup(self.path / name)
        child.path.mkdir()
        if threaded:
            child.set("cgroup.type", "threaded")
        return child

    def set(self, file: str, text: object) -> None:
        """Write one of its files. Raises OSError as the kernel answers."""
        write(self.path / file, str(text))

    def get(self, file: str) -> str:
        """Read one of its files."""
        return read(self.path / file)

    def cpus(self, file: str) -> CpuSet:
        """Read one of its CPU lists."""
        return CpuSet.parse(self.get(file))

    def number(self, file: str, key: str) -> int:
        """One number of a file of lines "key number"."""
        return int(dict(line.split() for line in self.get(file).splitlines())[key])

    def has(self, file: str) -> bool:
        """Whether the group has this file."""
        return (self.path / file).exists()


@contextmanager
def scratch_group(name: str, *, parent: Path = CGROUP_ROOT) -> Iterator[Cgroup]:
    """A group with the cpuset and cpu controllers for its children; whatever is below it at the end is killed and removed."""
    group = Cgroup(parent / name)
    group.path.mkdir()
    try:
        group.set("cgroup.subtree_control", "+cpuset +cpu")
        yield group
    finally:
        group.set("cgroup.kill", 1)
        eventually(lambda: "populated 0" in group.get("cgroup.events"), f"{group.path} does not become empty")
        for folder in (*groups_below(group.path), group.path):
            folder.rmdir()


class ThreadedProcess:
    """A process whose threads have names and known ids; a thread "name:busy" computes without end, the others sleep."""

    def __init__(self, *threads: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-S", "-c", THREADS, *threads], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        lines = [self.process.stdout.readline().split() for _ in threads]
        self.tids = {name: int(tid) for name, tid in lines}

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def spinner(cpu: int, *, fifo: int = 0) -> Iterator[int]:
    """A process that computes without end on one CPU, SCHED_FIFO where a priority is given; its process id."""
    policy = ["chrt", "-f", str(fifo)] if fifo else []
    process = subprocess.Popen([*policy, "taskset", "-c", str(cpu), "busybox", "sh", "-c", "while :; do :; done"])
    try:
        eventually(lambda: read(f"/proc/{process.pid}/comm") == "busybox", "the spinner does not start")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def allowed(task: int | str) -> CpuSet:
    """The CPUs that a task may use, as the kernel sees it."""
    for line in read(f"/proc/{task}/status").splitlines():
        if line.startswith("Cpus_allowed_list:"):
            return CpuSet.parse(line.split(":")[1])
    raise AssertionError(f"task {task} has no list of allowed CPUs")


def run_time_ns(task: int) -> int:
    """How long a task has been on a CPU."""
    return int(read(f"/proc/{task}/schedstat").split()[0])


def cgroup_of(task: int) -> Path:
    """The cgroup v2 group of a task, as a path below the mount."""
    line = next(line for line in read(f"/proc/{task}/cgroup").splitlines() if line.startswith("0::"))
    return CGROUP_ROOT / line.removeprefix("0::/")


@contextmanager
def restored(path: Path | str) -> Iterator[Path]:
    """A kernel file that is written back at the end."""
    file = Path(path)
    before = read(file)
    try:
        yield file
    finally:
        write(file, before)
