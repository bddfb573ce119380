"""The fake host with what real time needs: per-CPU kernel threads, throttling, a fair server, and on cgroup v1 real-time budgets."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quietcore.engine import Engine
from quietcore.model import CpuSet, Policy, Realtime, VmSpec
from quietcore.virt.hypervisor import DomainView
from tests.shell.fake_host import FakeFs, FakeHost, FakeHypervisor, FakeThreads, Faults
from tests.shell.test_engine import spec

CPU = "/sys/fs/cgroup/cpu"
THROTTLE = "/proc/sys/kernel/sched_rt_runtime_us"
SECOND_US = 1_000_000


class RealtimeFs(FakeFs):
    """On cgroup v1 a cpu hierarchy of its own with RT_GROUP_SCHED, which takes and gives back budgets as the kernel does."""

    threads: RealtimeThreads

    def set_group(self, pid: int, tid: int, group: str) -> None:
        files = [self.path(place) for place in (f"/proc/{pid}/task/{tid}/cgroup", f"/proc/{tid}/cgroup")]
        cpu = self.cpu_group(tid) if files[1].exists() else group
        super().set_group(pid, tid, group)
        if self.version == 1:
            for file in files:
                file.write_text(f"4:cpu:{cpu}\n{file.read_text()}")

    def cpu_group(self, tid: int) -> str:
        lines = self.read_or(f"/proc/{tid}/cgroup", "").splitlines()
        return next((line.partition(":cpu:")[2] for line in lines if ":cpu:" in line), "/")

    def budget(self, group: str) -> int:
        return int(self.read(f"{CPU}{group.rstrip('/')}/cpu.rt_runtime_us"))

    def write(self, path: str, text: str) -> None:
        if not path.startswith(f"{CPU}/"):
            super().write(path, text)
            return
        with self.faults.change(f"write {path}", lambda: OSError(errno.EIO, "injected")):
            group, _, name = path.removeprefix(CPU).rpartition("/")
            if name == "tasks":
                self._join(int(text), group or "/")
                return
            children = [one.name for one in self.path(f"{CPU}{group}").iterdir() if one.is_dir()]
            if int(text) < sum(self.budget(f"{group}/{child}") for child in children) or self._left_for(group) < int(text):
                raise OSError(errno.EINVAL, "Invalid argument", path)
            if int(text) == 0 and any(self.cpu_group(tid) == group and self.threads.is_realtime(tid) for tid in self._tids()):
                raise OSError(errno.EBUSY, "Device or resource busy", path)
            self.path(path).write_text(f"{text}\n")

    def _join(self, tid: int, group: str) -> None:
        if not self.is_dir(f"{CPU}{group}"):
            raise FileNotFoundError(errno.ENOENT, "no such group", group)
        if self.threads.is_realtime(tid) and group != "/" and not self.budget(group):
            raise OSError(errno.EINVAL, "Invalid argument")
        pid = self._process_of(tid)
        for file in (self.path(f"/proc/{pid}/task/{tid}/cgroup"), self.path(f"/proc/{tid}/cgroup")):
            file.write_text(re.sub("(?m)^4:cpu:.*$", f"4:cpu:{group}", file.read_text()))

    def _left_for(self, group: str) -> int:
        parent, _, name = group.rpartition("/")
        others = [one.name for one in self.path(f"{CPU}{parent}").iterdir() if one.is_dir() and one.name != name]
        return self.budget(parent or "/") - sum(self.budget(f"{parent}/{other}") for other in others)


class RealtimeThreads(FakeThreads):
    """A scheduler that knows no priority above 99, asks for a budget, and does not let the `stubborn` threads be changed."""

    stubborn: frozenset[int] = frozenset()

    def __init__(self, faults: Faults, everyone: CpuSet, fs: RealtimeFs) -> None:
        super().__init__(faults, everyone, fs)
        fs.threads = self

    def is_realtime(self, tid: int) -> bool:
        return self.scheduler(tid)[0] in {"fifo", "rr"}

    def set_scheduler(self, tid: int, policy: Policy, priority: int) -> None:
        with self.faults.change(f"scheduler {tid}", lambda: OSError(errno.EPERM, "injected")):
            group = self.fs.cpu_group(tid) if self.fs.version == 1 else "/"
            if tid in self.stubborn or (policy == "fifo" and group != "/" and not self.fs.budget(group)):
                raise PermissionError(errno.EPERM, "Operation not permitted")
            if priority > 99:
                raise OSError(errno.EINVAL, "Invalid argument")
            self.policies[tid] = (policy, priority)


class RealtimeHypervisor(FakeHypervisor):
    """libvirt makes its groups in every hierarchy of cgroup v1, and QEMU locks its memory where it is told to."""

    lockable_kb = 1 << 20

    def create_paused(self, xml: str) -> DomainView:
        view = super().create_paused(xml)
        status = self.fs.path(f"/proc/{self.pids[view.name]}/status")
        status.write_text(f"{status.read_text()}VmLck:\t{self.lockable_kb if '<locked/>' in xml else 0} kB\n")
        if self.fs.version == 1 and not self.bare:
            made = self.fs.path(f"{self.fs.mount}/machine")
            for folder in (made, *(path for path in sorted(made.rglob("*")) if path.is_dir())):
                furnish(self.fs.path(f"{CPU}/machine") / folder.relative_to(made))
        return view

    def end(self, name: str) -> None:
        super().end(name)
        for folder in sorted(self.fs.path(f"{CPU}/machine").glob(f"qemu-{self.pids[name]}-*/**"), reverse=True):
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def furnish(group: Path, runtime_us: int = 0) -> None:
    """Make a group of the cpu hierarchy, or leave it as it is."""
    if not group.is_dir():
        group.mkdir(parents=True)
        for name, text in {"cpu.rt_runtime_us": runtime_us, "cpu.rt_period_us": SECOND_US, "tasks": ""}.items():
            (group / name).write_text(f"{text}\n")


@dataclass
class RealtimeHost(FakeHost):
    """Every CPU N has ksoftirqd/N (thread 300 + N, ordinary) and rcuc/N (400 + N, FIFO 1); rcub/0 (500) serves them all.

    On cgroup v2 it has a fair server, on v1 RT_GROUP_SCHED. `allowed` is the configuration's allow_host_settings.
    """

    allowed: bool = False
    parts = RealtimeFs, RealtimeThreads, RealtimeHypervisor

    def __post_init__(self) -> None:
        super().__post_init__()
        for cpu in range(self.cpus):
            self.kernel_thread(300 + cpu, f"ksoftirqd/{cpu}", ("other", 0))
            self.kernel_thread(400 + cpu, f"rcuc/{cpu}", ("fifo", 1))
        self.kernel_thread(500, "rcub/0", ("fifo", 1))
        files = {THROTTLE: "950000", "/proc/sys/kernel/sched_rt_period_us": "1000000"}
        if self.version == 1:
            furnish(self.fs.path(CPU), 950_000)
            mounts = self.fs.path("/proc/self/mounts")
            mounts.write_text(f"{mounts.read_text()}cgroup {CPU} cgroup rw,cpu 0 0\n")
        else:
            for cpu in range(self.cpus):
                files |= {fair_server(cpu): "50000000", fair_server(cpu).replace("runtime", "period"): "1000000000"}
        for path, text in files.items():
            self.fs.path(path).parent.mkdir(parents=True, exist_ok=True)
            self.fs.path(path).write_text(f"{text}\n")

    def kernel_thread(self, tid: int, comm: str, policy: tuple[Policy, int]) -> None:
        folder = self.fs.path(f"/proc/{tid}")
        folder.mkdir(parents=True)
        (folder / "comm").write_text(comm + "\n")
        (folder / "cgroup").write_text("4:cpu:/\n5:cpuset:/\n" if self.version == 1 else "0::/\n")
        self.threads.policies[tid] = policy

    def program(self, faults: Faults | None = None) -> Engine:
        """A quietcore whose configuration allows host settings or not."""
        world = super().program(faults).world
        return Engine(replace(world, config=replace(world.config, allow_host_settings=self.allowed)))

    def priorities(self) -> dict[str, tuple[Policy, int]]:
        """Policy and priority of every kernel thread, by name."""
        tids = [*(base + cpu for cpu in range(self.cpus) for base in (300, 400)), 500]
        return {self.fs.read(f"/proc/{tid}/comm").strip(): self.threads.scheduler(tid) for tid in tids}

    def settings(self) -> dict[str, str]:
        """Every kernel file that bounds real-time tasks, with its text; groups without a budget are left out."""
        files = [self.fs.path(THROTTLE), *self.fs.path("/sys/kernel").rglob("runtime"), *self.fs.path(CPU).rglob("cpu.rt_runtime_us")]
        texts = {f"/{file.relative_to(self.root)}": file.read_text().strip() for file in sorted(files)}
        return {path: text for path, text in texts.items() if text != "0" or "fair_server" in path}

    def state(self) -> dict[str, object]:
        """As of any fake host, with the kernel threads and the files."""
        return super().state() | {"kernel threads": self.priorities(), "settings": self.settings()}


def fair_server(cpu: int) -> str:
    return f"/sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime"


def realtime(name: str = "a", vcpus: int = 2, mask: str = "1", **realtime: Any) -> VmSpec:  # fields of Realtime, of any type
    """A VM whose masked vCPUs are real-time."""
    plain = spec(name, vcpus)
    return replace(plain, cpu=replace(plain.cpu, realtime=Realtime(mask=mask, vcpus=frozenset(CpuSet.parse(mask)), **realtime)))
