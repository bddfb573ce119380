"""An agent on a fake host: real inotify on the host's folder, a clock that the test moves, events that the test makes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from quietcore.agent import Agent, Ears, EventLog
from quietcore.host.fs import HostFs
from quietcore.host.watch import FileEvent, Inotify, ProcessEvent
from quietcore.model import CpuSet, VmName
from quietcore.virt.events import DomainEvent, DomainEvents
from tests.shell.fake_host import FakeHost, Faults


@dataclass
class FakeProcesses:
    """The process connector, told by the test."""

    pids: frozenset[int] = frozenset()
    waiting: list[ProcessEvent] = field(default_factory=list)
    bell: int = field(default_factory=lambda: os.eventfd(0, os.EFD_NONBLOCK))

    def keep(self, pids: Iterable[int]) -> None:
        self.pids = frozenset(pids)

    def fileno(self) -> int:
        return self.bell

    def events(self) -> tuple[ProcessEvent, ...]:
        os.eventfd_read(self.bell)
        found, self.waiting = tuple(self.waiting), []
        return found

    def tell(self, change, tid: int, pid: int, at_s: float) -> None:
        self.waiting.append(ProcessEvent(change=change, tid=tid, pid=pid, at_s=at_s))
        os.eventfd_write(self.bell, 1)


class Deaf:
    """inotify that hears nothing: what begins and ends at once needs no watches, and the kernel takes its time to remove them."""

    def __init__(self, _fs: HostFs) -> None:
        self._bell = os.eventfd(0, os.EFD_NONBLOCK)

    def keep(self, _paths: Iterable[str]) -> frozenset[str]:
        return frozenset()

    def events(self) -> tuple[FileEvent, ...]:
        return ()

    def fileno(self) -> int:
        return self._bell

    def close(self) -> None:
        os.close(self._bell)


class Cared:
    """One host with its agent, begun. A test's fixture closes all that were `opened`."""

    opened: ClassVar[list[Cared]] = []

    def __init__(
        self, host: FakeHost, *, resync_s: float = 30.0, begin: bool = True, deaf: bool = False, faults: Faults | None = None
    ) -> None:
        self.host = host
        self.now_s = 1000.0
        self.engine = host.program(faults)
        self.engine.world = replace(self.engine.world, clock=lambda: self.now_s, sleep=self.pass_time)
        self.log = EventLog(lambda: self.now_s)
        self.domains = DomainEvents()
        self.processes = FakeProcesses()
        self._told = 0
        hearing = Deaf if deaf else Inotify
        files, books = hearing(host.fs), hearing(HostFs())
        self._files, self._books = files, books
        Cared.opened.append(self)
        ears = Ears(files=files, books=books, domains=self.domains, processes=self.processes)
        self.agent = Agent(self.engine.world, ears, self.log, resync_s=resync_s)
        if begin:
            self.agent.begin()
            self.settle()

    def close(self) -> None:
        self.agent.close()
        for one in (self._files, self._books):
            one.close()
        for descriptor in (self.domains.fileno(), self.processes.fileno()):
            os.close(descriptor)

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    def settle(self, after_s: float = 0.0) -> list[str]:
        """Let the agent work until nothing more can be heard; gives the names of the new events."""
        self.pass_time(after_s)
        for _ in range(4):
            self.agent.step(0)
        return [one.event for one in self.news()]

    def news(self):
        found = self.log.since(self._told)
        self._told = found[-1].number if found else self._told
        return found

    def end(self, vm: str, change: str = "stopped") -> None:
        """The domain ends and libvirt says so."""
        self.host.hypervisor.end(f"default_{vm}")
        self.domains.put(DomainEvent(name=f"default_{vm}", change=change))

    def vcpu(self, vm: str, number: int = 0):
        return self.engine.observation(VmName(name=vm)).census.vcpus[number]

    def move(self, vm: str, tid: int, group: str) -> None:
        """Somebody writes a thread into another group, by the kernel's file."""
        name = "tasks" if self.host.version == 1 else "cgroup.threads"
        self.host.fs.set_group(self.host.hypervisor.pids[f"default_{vm}"], tid, group)
        self.host.fs.path(f"{self.host.fs.mount}{group.rstrip('/')}/{name}").write_text(f"{tid}\n")

    def plug(self, vm: str, *, announced: bool = True) -> int:
        """A vCPU is plugged in. Gives its thread."""
        domain = self.engine.view(VmName(name=vm)).entry.domain
        tid = self.host.hypervisor.plug(domain)
        if announced:
            self.processes.tell("fork", tid, self.host.hypervisor.pids[domain], self.now_s)
        return tid

    def unplug(self, vm: str) -> None:
        """The last vCPU is plugged out."""
        domain = self.engine.view(VmName(name=vm)).entry.domain
        tid = self.host.hypervisor.unplug(domain)
        self.processes.tell("exit", tid, self.host.hypervisor.pids[domain], self.now_s)

    def vcpu_home(self, vm: str) -> str:
        """Where a new thread of the main thread is born."""
        return next(one.cgroup for one in self.engine.observation(VmName(name=vm)).census.others)

    def worker(self, vm: str, tid: int, *, cpus: str = "", group: str = "") -> None:
        """QEMU starts a worker: like its other threads, unless the test says otherwise."""
        like = self.engine.observation(VmName(name=vm)).census.others[0]
        pid = self.host.hypervisor.pids[f"default_{vm}"]
        self.host.hypervisor._thread(pid, tid, "worker", group or like.cgroup)
        self.host.threads.affinities[tid] = CpuSet.parse(cpus) if cpus else like.allowed
        self.processes.tell("fork", tid, pid, self.now_s)


def begun(host: FakeHost, faults: Faults | None = None) -> None:
    """An agent starts, and works until nothing is left to do."""
    cared = Cared(host, begin=False, deaf=True, faults=faults)
    try:
        cared.agent.begin()
        for _ in range(2):  # what was refused is tried again, an orphan is looked at twice
            cared.settle(after_s=31)
    finally:
        Cared.opened.remove(cared)
        cared.close()
