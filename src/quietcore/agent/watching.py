"""Which files and processes are watched for the VMs that run, and what an event about one of them is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from quietcore.agent.cpus import switches
from quietcore.agent.known import Known
from quietcore.host import cgroups
from quietcore.host.fs import HostFs
from quietcore.host.watch import FileEvent, ProcessEvent
from quietcore.model import VmName

_TELLING: Final = frozenset(
    {
        "cpuset.cpus",
        "cpuset.cpus.exclusive",
        "cpuset.cpus.partition",
        "cgroup.threads",
        "cgroup.procs",
        "cgroup.events",
        "tasks",
        "cpu.max",
        "cpu.cfs_quota_us",
    }
)
"""The files of a group whose change may concern a VM. On cgroup v1 a thread that leaves a group writes only to the one it enters."""


class FileWatches(Protocol):
    """What is asked of inotify; see `host.watch.Inotify`."""

    def keep(self, paths: Iterable[str]) -> frozenset[str]:
        """Watch exactly these paths."""
        ...

    def events(self) -> tuple[FileEvent, ...]:
        """What happened since the last call."""
        ...

    def fileno(self) -> int:
        """For a selector."""
        ...


class ProcessWatches(Protocol):
    """What is asked of the process connector; see `host.watch.ProcessEvents`."""

    def keep(self, pids: Iterable[int]) -> None:
        """Hear of exactly these processes."""
        ...

    def events(self) -> tuple[ProcessEvent, ...]:
        """What happened since the last call."""
        ...

    def fileno(self) -> int:
        """For a selector."""
        ...


@dataclass(slots=True)
class Concern:
    """Whom some events are about: single VMs, all of them, the host's CPUs; `lost` events mean everything.

    `newborn` are kernel threads that were just made: their names, which tell whom they work for, come a moment later.
    """

    vms: dict[VmName, float] = field(default_factory=dict)
    everyone: bool = False
    cpus: bool = False
    lost: bool = False
    newborn: list[int] = field(default_factory=list)


class Watching:
    """The watches of all VMs; set anew whenever what is known of them changed."""

    def __init__(self, fs: HostFs, files: FileWatches, processes: ProcessWatches | None) -> None:
        self._fs = fs
        self._files = files
        self._processes = processes
        self._owners: dict[str, VmName | None] = {}
        self._switches: frozenset[str] = frozenset()
        self._pids: dict[int, VmName] = {}
        self._vcpus: frozenset[int] = frozenset()

    def follow(self, vms: Iterable[Known]) -> frozenset[str]:
        """Watch for these VMs; gives the paths that could not be watched and that only the resync sees."""
        tree = cgroups.hierarchy(self._fs)
        self._switches = frozenset(switches(self._fs))
        owners: dict[str, VmName | None] = {tree.mount: None} if tree.mount else {}
        pids: dict[int, VmName] = {}
        vcpus: set[int] = set()
        for known in vms:
            if known.right is None:
                continue
            pids[known.right.pid] = known.vm
            vcpus |= known.right.vcpus
            for path, own in _paths(known):
                owners[path] = known.vm if own else None
        self._owners, self._pids, self._vcpus = owners, pids, frozenset(vcpus)
        if self._processes is not None:
            self._processes.keep(pids)
        return self._files.keep((*owners, *self._switches))

    def hear_files(self, now_s: float) -> Concern:
        """Read inotify."""
        concern = Concern()
        for event in self._files.events():
            if event.change == "lost":
                concern.lost = True
            elif event.path in self._switches:
                concern.cpus = True
            elif event.path in self._owners:
                owner = self._owners[event.path]
                if owner is not None and (event.name in _TELLING or event.change != "written"):
                    concern.vms.setdefault(owner, now_s)
                elif owner is None and event.name in _TELLING and event.change == "written":
                    concern.everyone = True
        return concern

    def hear_processes(self) -> Concern:
        """Read the process connector."""
        concern = Concern()
        for event in self._processes.events() if self._processes is not None else ():
            owner = self._pids.get(event.pid)
            if event.change == "lost":
                concern.lost = True
            elif owner is None:
                concern.newborn += [event.tid] if event.change == "fork" else []
            elif event.change == "fork" or event.tid in self._vcpus:
                concern.vms.setdefault(owner, event.at_s)
        return concern

    def helper_of(self, tid: int) -> VmName | None:
        """The VM for which a kernel thread works, by its name; None for any other."""
        kind, dash, pid = self._fs.read_or(f"/proc/{tid}/comm", "").strip().replace("/", "-").rpartition("-")
        return self._pids.get(int(pid)) if dash and kind in {"vhost", "kvm-pit"} and pid.isdigit() else None


def _paths(known: Known) -> Iterator[tuple[str, bool]]:
    """The directories to watch for one VM, and whether they are its own."""
    right = known.right
    assert right is not None  # the caller asked
    facts = right.facts
    if facts.layout == "none":
        return
    for level in facts.levels[:-1]:
        yield f"{facts.mount}{level}", False
    for group in right.groups:
        yield f"{facts.mount}{group}", True
    if facts.quota_mount not in {"", facts.mount}:
        for group in facts.quota_groups:
            yield f"{facts.quota_mount}{group}", group in right.groups
