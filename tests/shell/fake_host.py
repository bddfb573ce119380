"""A host for the engine's tests: a temporary folder that behaves like the kernel where the engine could notice.

Groups come with their files, a thread written to a group's list moves there, a group with tasks cannot be removed. The
hypervisor makes processes in the same folder. Every change passes through `Faults`, which can refuse any one of them or
"kill" the program there: from then on nothing it does reaches the host.
"""

from __future__ import annotations

import copy
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lxml import etree

from quietcore.config import Config
from quietcore.engine import Engine, Event, LedgerFile, World
from quietcore.engine.codec import encode
from quietcore.errors import OperationFailed
from quietcore.host.fs import HostFs
from quietcore.host.kvm import Acceleration
from quietcore.images import ImageStore, SubprocessRunner
from quietcore.model import CpuSet, Ledger, Policy, union
from quietcore.virt import HypervisorError
from quietcore.virt.hypervisor import DomainView, QemuThreads

V1, V2 = "/sys/fs/cgroup/cpuset", "/sys/fs/cgroup"


class Killed(BaseException):
    """The program ended here, as by kill -9: no undo of its own may run."""


@dataclass
class Faults:
    """Counts every change of the host; `at` (from 0) is refused or killed, before or after it took effect."""

    at: int | None = None
    kind: str = "error"
    moment: str = "before"
    names: list[str] = field(default_factory=list)
    dead: bool = False
    inside: bool = False

    @contextmanager
    def change(self, name: str, error: Callable[[], Exception]) -> Iterator[None]:
        number = self._count(name, error)
        try:
            self.inside = True  # how the fake carries it out is no change of its own
            yield
        finally:  # also after a write that the kernel itself refused
            self.inside = False
            if number == self.at and self.moment == "after":
                self._strike(error)

    def file(self, name: str) -> None:
        """A file is about to change that no part of the fake stands for: the ledger's lock, a VM's own files."""
        if not self.inside:
            self._count(name, refused)

    def _count(self, name: str, error: Callable[[], Exception]) -> int:
        if self.dead:
            raise Killed
        number = len(self.names)
        self.names.append(name)
        if number == self.at and self.moment == "before":
            self._strike(error)
        return number

    def _strike(self, error: Callable[[], Exception]) -> None:
        if self.kind == "kill":
            self.dead = True
            raise Killed
        raise error()


def refused() -> OSError:
    return OSError(errno.EIO, "injected")


class FakeFs(HostFs):
    """The folder with a kernel's manners. `partitions` is how the kernel answers to "isolated"."""

    def __init__(self, root: Path, faults: Faults, *, version: int, partitions: bool) -> None:
        super().__init__(root)
        self.faults = faults
        self.version = version
        self.mount = V1 if version == 1 else V2
        self.claimed: set[str] = set()  # groups that were ever told to be a partition
        self.partitions = partitions
        self.offline = CpuSet()

    def read(self, path: str) -> str:
        folder, _, name = path.rpartition("/")
        if name == ("cpuset.cpus.effective" if self.version == 2 else "cpuset.effective_cpus") and self.is_dir(folder):
            return f"{self.effective(folder.removeprefix(self.mount))}\n"
        return super().read(path)

    def write(self, path: str, text: str) -> None:
        with self.faults.change(f"write {path}", refused):
            name = path.rpartition("/")[2]
            if name in {"tasks", "cgroup.threads", "cgroup.procs"}:
                self._move(path, text)
                return
            if not self.exists(path):
                raise FileNotFoundError(errno.ENOENT, "no such file", path)
            if name == "cgroup.subtree_control":
                words = {*self.read(path).split(), *(word.lstrip("+") for word in text.split())}
                text = " ".join(sorted(words))
            if name == "cpuset.cpus" and not text.strip() and self.read(path).strip() and self._has_tasks(path):
                raise OSError(errno.ENOSPC, "tasks live here", path)
            if name == "cpuset.cpus" and self.version == 1 and not self.offline.isdisjoint(CpuSet.parse(text)):
                raise OSError(errno.EINVAL, "Invalid argument", path)
            if name == "cpuset.cpus.exclusive" and any(not one.isdisjoint(CpuSet.parse(text)) for one in self._beside(path, name)):
                raise OSError(errno.EINVAL, "a sibling claims it (cpus_excl_conflict, Linux 6.9)", path)
            super().write(path, "")
            self.path(path).write_text(text.strip() + "\n")
            if name == "cpuset.cpus.partition":
                self.claimed.add(path.removeprefix(self.mount).rpartition("/")[0])
            if name.startswith("cpuset.cpus.") and self.version == 2:
                self._judge(self.path(path).parent)

    def mkdir(self, path: str) -> None:
        with self.faults.change(f"mkdir {path}", refused):
            super().mkdir(path)
            self.furnish(path)

    def rmdir(self, path: str) -> None:
        with self.faults.change(f"rmdir {path}", refused):
            self.drop(path)

    def _judge(self, group: Path) -> None:
        """A partition is valid while its CPUs are in its parent's exclusive list and no sibling claims them (Linux 6.12)."""
        partition = group / "cpuset.cpus.partition"
        if not partition.exists() or not partition.read_text().startswith("isolated"):
            return
        own = _cpus(group, "cpuset.cpus.exclusive")
        siblings = (one for one in group.parent.iterdir() if one.is_dir() and one != group)
        invalid = ""
        if not self.partitions:
            invalid = " invalid (not here)"
        elif not own - self.offline:
            invalid = " invalid (No cpu left)"
        elif not own or not own <= _cpus(group.parent, "cpuset.cpus.exclusive"):
            invalid = " invalid (Parent unable to distribute cpu downstream)"
        elif any(not own.isdisjoint(_cpus(one, "cpuset.cpus.exclusive") or _cpus(one, "cpuset.cpus")) for one in siblings):
            invalid = " invalid (Cpu list in cpuset.cpus not exclusive)"
        partition.write_text(f"isolated{invalid}\n")

    def effective(self, group: str) -> CpuSet:
        """The CPUs that tasks of a group may use: what partitions took is nobody else's."""
        if self.version == 1:
            return CpuSet.parse(self.read(f"{self.mount}{group}/cpuset.cpus"))
        if self._is_partition(group):
            return CpuSet.parse(self.read(f"{self.mount}{group}/cpuset.cpus.exclusive")) - self.offline
        if group in {"", "/"}:
            taken = (self.effective(one) for one in self.claimed if self._is_partition(one))
            return CpuSet.parse(self.read(f"{self.mount}/cpuset.cpus")) - self.offline - union(taken)
        above = self.effective(group.rpartition("/")[0])
        return CpuSet.parse(self.read(f"{self.mount}{group}/cpuset.cpus")) & above or above

    def switch(self, cpu: int, *, on: bool) -> None:
        """A CPU goes or comes: cgroup v1 forgets it in every cpuset for good, and sends tasks up where none is left; partitions follow."""
        self.offline = self.offline - CpuSet.of(cpu) if on else self.offline | CpuSet.of(cpu)
        online = self.path("/sys/devices/system/cpu/online")
        everyone = CpuSet.parse(self.read("/sys/devices/system/cpu/present")) - self.offline
        online.write_text(f"{everyone}\n")
        for group in [one for one in sorted(self.path(self.mount).rglob("*")) if one.is_dir()]:
            if self.version == 2:
                self._judge(group)
                continue
            cpus = _cpus(group, "cpuset.cpus")
            (group / "cpuset.cpus").write_text(f"{cpus - self.offline}\n")
            name = str(group).removeprefix(str(self.path(self.mount)))
            for tid in self._tids() if cpus and not cpus - self.offline else ():
                if self._group(tid) == name:
                    self.set_group(self._process_of(tid), tid, name.rpartition("/")[0])
        if self.version == 1:
            self.path(f"{self.mount}/cpuset.cpus").write_text(f"{everyone}\n")

    def limit(self, tid: int) -> CpuSet:
        """The CPUs that a task's group leaves it."""
        return self.effective(self._group(tid))

    def _is_partition(self, group: str) -> bool:
        return group in self.claimed and self.read_or(f"{self.mount}{group}/cpuset.cpus.partition", "") == "isolated\n"

    def furnish(self, path: str) -> None:
        files = {"cpuset.cpus": "", "cpuset.mems": "", "tasks": ""}
        if self.version == 2:
            files = {
                "cgroup.controllers": "cpuset cpu",
                "cgroup.subtree_control": "",
                "cgroup.type": "domain",
                "cgroup.threads": "",
                "cgroup.procs": "",
                "cpuset.cpus": "",
                "cpu.weight": "100",
                "cpu.max": "max 100000",
            }
            if self.partitions:
                files |= {"cpuset.cpus.exclusive": "", "cpuset.cpus.partition": "member"}
        for name, text in files.items():
            self.path(f"{path}/{name}").write_text(text + "\n")

    def drop(self, path: str) -> None:
        folder = self.path(path)
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such group", path)
        group = path.removeprefix(self.mount)
        if any(one.is_dir() for one in folder.iterdir()) or any(self._group(tid) == group for tid in self._tids()):
            raise OSError(errno.EBUSY, "group is in use", path)
        for one in folder.iterdir():
            one.unlink()
        folder.rmdir()

    def set_group(self, pid: int, tid: int, group: str) -> None:
        line = f"5:cpuset:{group}\n" if self.version == 1 else f"0::{group}\n"
        for place in {f"/proc/{pid}/task/{tid}/cgroup", f"/proc/{tid}/cgroup"}:
            self.path(place).parent.mkdir(parents=True, exist_ok=True)
            self.path(place).write_text(line)

    def _beside(self, path: str, name: str) -> list[CpuSet]:
        """What the groups beside this one have in the same file."""
        group = self.path(path).parent
        return [_cpus(one, name) for one in group.parent.iterdir() if one.is_dir() and one != group]

    def _has_tasks(self, path: str) -> bool:
        group = path.removeprefix(self.mount).rpartition("/")[0]
        return any(self._group(tid) == group for tid in self._tids())

    def _move(self, path: str, text: str) -> None:
        group = path.removeprefix(self.mount).rpartition("/")[0] or "/"
        if not self.is_dir(f"{self.mount}{group}"):
            raise FileNotFoundError(errno.ENOENT, "no such group", path)
        if self.version == 1 and not self.effective(group):
            raise OSError(errno.ENOSPC, "a cpuset without CPUs takes no task", path)
        pid = self._process_of(int(text))
        tids = [int(text)] if not path.endswith("cgroup.procs") else [int(one) for one in self.listdir(f"/proc/{pid}/task")]
        for tid in tids:
            self.set_group(pid, tid, group)

    def _process_of(self, tid: int) -> int:
        for name in self.listdir("/proc"):
            if self.is_dir(f"/proc/{name}/task/{tid}"):
                return int(name)
        raise ProcessLookupError(errno.ESRCH, "no such thread")

    def _tids(self) -> list[int]:
        folders = [f"/proc/{pid}/task" for pid in self.listdir("/proc")] if self.is_dir("/proc") else []
        return [int(tid) for folder in folders if self.is_dir(folder) for tid in self.listdir(folder)]

    def _group(self, tid: int) -> str:
        return self.read(f"/proc/{tid}/cgroup").strip().rpartition(":")[2]


class FakeThreads:
    """Affinities and policies of threads, as the scheduler keeps them: an affinity never leaves the thread's cpuset."""

    def __init__(self, faults: Faults, everyone: CpuSet, fs: FakeFs) -> None:
        self.faults = faults
        self.fs = fs
        self.affinities: dict[int, CpuSet] = {}
        self.policies: dict[int, tuple[Policy, int]] = {}
        self.everyone = everyone

    def affinity(self, tid: int) -> CpuSet:
        limit = self._limit(tid)
        return self.affinities.get(tid, self.everyone) & limit or limit

    def _limit(self, tid: int) -> CpuSet:
        try:
            return self.fs.limit(tid)
        except OSError:  # a kernel thread that some test made without a group: no cpuset holds it
            return self.everyone

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        with self.faults.change(f"affinity {tid}", refused):
            allowed = cpus & self._limit(tid)
            if not allowed:
                raise OSError(errno.EINVAL, "none of these CPUs is in the thread's cpuset")
            self.affinities[tid] = allowed

    def scheduler(self, tid: int) -> tuple[Policy, int]:
        return self.policies.get(tid, ("other", 0))

    def set_scheduler(self, tid: int, policy: Policy, priority: int) -> None:
        with self.faults.change(f"scheduler {tid}", refused):
            self.policies[tid] = (policy, priority)


def _cpus(group: Path, name: str) -> CpuSet:
    file = group / name
    return CpuSet.parse(file.read_text()) if file.exists() else CpuSet()


def _hypervisor_refused() -> HypervisorError:
    return HypervisorError("injected")


class FakeHypervisor:
    """Domains as processes of the folder, in libvirt's layout or (`bare`) all in one group; the kernel adds threads of its own."""

    def __init__(self, fs: FakeFs, faults: Faults, threads: FakeThreads, *, bare: bool) -> None:
        self.fs = fs
        self.threads_of_host = threads
        self.faults = faults
        self.bare = bare
        self._iothreads: dict[str, int] = {}
        self.running: dict[str, DomainView] = {}
        self.pids: dict[str, int] = {}
        self.xmls: dict[str, str] = {}
        self.pins: dict[str, dict[tuple[str, int | None], CpuSet]] = {}
        self.guest_files: dict[tuple[str, str], str] = {}
        self._vcpus: dict[str, int] = {}
        self._next = 1000

    def version(self) -> int:
        return 9_000_000

    def create_paused(self, xml: str) -> DomainView:
        with self.faults.change("create", _hypervisor_refused):
            root = etree.fromstring(xml)
            name, vcpus = root.findtext("name") or "", int(root.xpath("string(vcpu/@current)") or root.findtext("vcpu") or 1)
            pid, self._next = self._next, self._next + 100
            home = f"/machine/qemu-{pid}-{name}.libvirt-qemu"
            iothreads = int(root.findtext("iothreads") or 0)
            groups = ["emulator", "emulator", *(f"vcpu{n}" for n in range(vcpus)), *(f"iothread{n}" for n in range(1, iothreads + 1))]
            comms = ["qemu-system-x86", "call_rcu", *(f"CPU {n}/TCG" for n in range(vcpus)), *(f"IO iothread{n}" for n in range(iothreads))]
            for index, (comm, group) in enumerate(zip(comms, groups, strict=True)):
                self._thread(pid, pid + index, comm, "/" if self.bare else f"{home}/{group}")
            for index, comm in enumerate((f"vhost-{pid}", f"kvm-pit/{pid}")):
                self._thread(pid + 90 + index, pid + 90 + index, comm, "/")
            if not self.bare:
                self._make_groups(home, groups)
            view = DomainView(name=name, uuid=root.findtext("uuid") or "", state="paused", persistent=False)
            self.running[name], self.pids[name] = view, pid
            self._vcpus[name], self._iothreads[name] = vcpus, iothreads
            self.xmls[name], self.pins[name] = xml, {}
            return view

    def _make_groups(self, home: str, names: list[str]) -> None:
        for group in ("/machine", home, *sorted({f"{home}/{name}" for name in names})):
            path = self.fs.mount + group
            if not self.fs.is_dir(path):
                self.fs.path(path).mkdir()
                self.fs.furnish(path)
                if self.fs.version == 1:
                    self.fs.path(f"{path}/cpuset.cpus").write_text(self.fs.read(f"{self.fs.mount}/cpuset.cpus"))

    def find(self, name: str) -> DomainView | None:
        return self.running.get(name)

    def domains(self) -> tuple[DomainView, ...]:
        return tuple(self.running.values())

    def resume(self, name: str) -> None:
        with self.faults.change("resume", _hypervisor_refused):
            view = self.running[name]
            self.running[name] = DomainView(name=name, uuid=view.uuid, state="running", persistent=False)

    def shutdown(self, name: str) -> None:
        with self.faults.change("shutdown", _hypervisor_refused):
            self.end(name)

    def destroy(self, name: str) -> None:
        with self.faults.change("destroy", _hypervisor_refused):
            self.end(name)

    def threads(self, name: str) -> QemuThreads:
        pid = self.pids[name]
        first = pid + 2 + self._vcpus[name]
        iothreads = {first + number: number + 1 for number in range(self._iothreads[name])}
        return QemuThreads(vcpus={pid + 2 + vcpu: vcpu for vcpu in range(self._vcpus[name])}, iothreads=iothreads)

    def xml(self, name: str) -> str:
        root = etree.fromstring(self.xmls[name])
        tune = root.find("cputune")
        tune = etree.SubElement(root, "cputune") if tune is None else tune
        for (key, number), cpus in sorted(self.pins[name].items()):
            found = [
                one for one in tune.findall(key) if number is None or number in {int(one.get("vcpu", -1)), int(one.get("iothread", -1))}
            ]
            one = found[0] if found else etree.SubElement(tune, key)
            if number is not None:
                one.set("vcpu" if key == "vcpupin" else "iothread", str(number))
            one.set("cpuset", str(cpus))
        return etree.tostring(root, encoding="unicode")

    def pin_vcpu(self, name: str, vcpu: int, cpus: CpuSet) -> None:
        tid = self.pids[name] + 2 + vcpu
        with self.faults.change(f"pin vcpu {vcpu}", _hypervisor_refused):
            self._pin(name, tid, f"vcpu{vcpu}", cpus)
            self.pins[name]["vcpupin", vcpu] = cpus

    def pin_emulator(self, name: str, cpus: CpuSet) -> None:
        with self.faults.change("pin emulator", _hypervisor_refused):
            self._pin(name, self.pids[name], "emulator", cpus)
            self.pins[name]["emulatorpin", None] = cpus

    def pin_iothread(self, name: str, thread: int, cpus: CpuSet) -> None:
        with self.faults.change(f"pin iothread {thread}", _hypervisor_refused):
            self.pins[name]["iothreadpin", thread] = cpus

    def _pin(self, name: str, tid: int, child: str, cpus: CpuSet) -> None:
        """As libvirt does: the cpuset first where it has groups of its own, then the thread, for which it may be too late to ask."""
        group = self.fs.path(f"{self.fs.mount}/machine/qemu-{self.pids[name]}-{name}.libvirt-qemu/{child}")
        if group.is_dir():
            (group / "cpuset.cpus").write_text(f"{cpus}\n")
        if cpus.isdisjoint(self.fs.limit(tid)):
            raise HypervisorError(f"cannot set CPU affinity on process {tid}: Invalid argument")
        self.threads_of_host.affinities[tid] = cpus

    def plug(self, name: str) -> int:
        """A vCPU is plugged in, as libvirt does: a thread and, in its own layout, a group. Gives the thread."""
        pid, number = self.pids[name], self._vcpus[name]
        self._vcpus[name] += 1
        group = self.fs._group(pid)
        if not self.bare:
            group = f"/machine/qemu-{pid}-{name}.libvirt-qemu/vcpu{number}"
            self.fs.path(self.fs.mount + group).mkdir()
            self.fs.furnish(self.fs.mount + group)
        self._thread(pid, pid + 2 + number, f"CPU {number}/TCG", group)
        return pid + 2 + number

    def unplug(self, name: str) -> int:
        """The last vCPU is plugged out; libvirt removes the group that it made."""
        pid = self.pids[name]
        self._vcpus[name] -= 1
        tid = pid + 2 + self._vcpus[name]
        _remove(self.fs.path(f"/proc/{pid}/task/{tid}"))
        _remove(self.fs.path(f"/proc/{tid}"))
        if not self.bare:
            _remove(self.fs.path(f"{self.fs.mount}/machine/qemu-{pid}-{name}.libvirt-qemu/vcpu{self._vcpus[name]}"))
        return tid

    def write_guest_file(self, name: str, path: str, text: str) -> None:
        if "org.qemu.guest_agent.0" not in self.xmls[name]:
            raise HypervisorError("QEMU guest agent is not configured")
        with self.faults.change("guest file", _hypervisor_refused):
            self.guest_files[name, path] = text

    def end(self, name: str) -> None:
        pid = self.pids[name]
        for tid in (*self.fs.listdir(f"/proc/{pid}/task"), pid + 90, pid + 91):
            _remove(self.fs.path(f"/proc/{tid}"))
        _remove(self.fs.path(f"/proc/{pid}"))
        home = self.fs.path(f"{self.fs.mount}/machine/qemu-{pid}-{name}.libvirt-qemu")
        _remove(home)
        del self.running[name]

    def _thread(self, pid: int, tid: int, comm: str, group: str) -> None:
        for folder in {f"/proc/{pid}/task/{tid}", f"/proc/{tid}"}:
            self.fs.path(folder).mkdir(parents=True, exist_ok=True)
            self.fs.path(f"{folder}/comm").write_text(comm + "\n")
            self.fs.path(f"{folder}/status").write_text(f"Name:\t{comm}\nTgid:\t{pid}\nCpus_allowed_list:\t0\n")
            self.fs.path(f"{folder}/stat").write_text(f"{tid} ({comm}) S 1 1 1 0 -1 0 0 0\n")
        self.fs.set_group(pid, tid, group)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        for one in folder.iterdir():
            if one.is_dir():
                _remove(one)
            else:
                one.unlink()
        folder.rmdir()


class FaultyBooks(LedgerFile):
    """The real ledger file, whose writes can fail."""

    def __init__(self, directory: Path, faults: Faults) -> None:
        super().__init__(directory)
        self.faults = faults

    def save(self, ledger: Ledger) -> None:
        with self.faults.change("ledger", lambda: OperationFailed("injected")):
            super().save(ledger)


class Folder:
    """What is in a folder now; to put that somewhere else takes a quarter of the time of a copy, and most tests begin with it."""

    def __init__(self, root: Path) -> None:
        self._folders: list[str] = []
        self._files: dict[str, bytes] = {}
        for place, _folders, names in os.walk(root):
            inside = place.removeprefix(str(root))
            self._folders.append(inside)
            self._files |= {f"{inside}/{name}": Path(place, name).read_bytes() for name in names}

    def put(self, root: Path) -> None:
        """Make it anew at a place where nothing is."""
        for inside in self._folders:
            os.mkdir(f"{root}{inside}")  # noqa: PTH102  # joining paths takes longer than the call
        for inside, content in self._files.items():
            descriptor = os.open(f"{root}{inside}", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, content)
            os.close(descriptor)


@dataclass
class FakeHost:
    """One fake host with `cpus` CPUs in one node, `threads` to a core; `program` gives a quietcore that runs on it."""

    root: Path
    version: int = 2
    partitions: bool = True
    bare: bool = False
    cpus: int = 4
    threads_per_core: int = 1
    faults: Faults = field(default_factory=Faults)

    parts = FakeFs, FakeThreads, FakeHypervisor

    def __post_init__(self) -> None:
        fs_type, threads_type, hypervisor_type = self.parts
        self.fs = fs_type(self.root, self.faults, version=self.version, partitions=self.partitions)
        self.threads = threads_type(self.faults, CpuSet.range(self.cpus), self.fs)
        self.hypervisor = hypervisor_type(self.fs, self.faults, self.threads, bare=self.bare)
        self.events: list[Event] = []
        mounts = f"cgroup {V1} cgroup rw,cpuset 0 0\n" if self.version == 1 else f"cgroup2 {V2} cgroup2 rw 0 0\n"
        everyone = f"0-{self.cpus - 1}\n"
        files = {
            "/proc/self/mounts": mounts,
            "/proc/sys/kernel/random/boot_id": "first\n",
            "/proc/self/status": f"Cpus_allowed_list:\t{everyone}",
            "/proc/1/status": f"Name:\tinit\nCpus_allowed_list:\t{everyone}",
            "/sys/devices/system/cpu/online": everyone,
            "/sys/devices/system/cpu/present": everyone,
            "/proc/meminfo": "MemTotal: 8388608 kB\n",
        }
        for cpu in range(self.cpus):
            files[f"/sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"] = f"{self._core_of(cpu)}\n"
            files[f"/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"] = "0\n"
        for path, text in files.items():
            self.fs.path(path).parent.mkdir(parents=True, exist_ok=True)
            self.fs.path(path).write_text(text)
        self.fs.path(self.fs.mount).mkdir(parents=True)
        self.fs.furnish(self.fs.mount)
        self.fs.path(f"{self.fs.mount}/cpuset.cpus").write_text(everyone)
        self.fs.path(f"{self.fs.mount}/cpuset.mems").write_text("0\n")
        if self.version == 2:
            self.fs.path("/sys/fs/cgroup/cgroup.controllers").write_text("cpuset cpu\n")

    def _core_of(self, cpu: int) -> CpuSet:
        first = cpu - cpu % self.threads_per_core
        return CpuSet.from_iterable(range(first, first + self.threads_per_core))

    def program(self, faults: Faults | None = None) -> Engine:
        """A quietcore that was just started on this host."""
        faults = faults or Faults()
        for part in (self.fs, self.threads, self.hypervisor):
            part.faults = faults
        state = self.root / "state"
        runner = SubprocessRunner()
        clock = iter(range(10**9))
        return Engine(
            World(
                config=Config(state_dir=str(state)),
                fs=self.fs,
                control=self.threads,
                hypervisor=self.hypervisor,
                books=FaultyBooks(state, faults),
                store=ImageStore(state / "images", runner),
                runner=runner,
                acceleration=lambda: Acceleration(domain_type="qemu", reason="a test"),
                clock=lambda: float(next(clock)),
                sleep=lambda _seconds: None,
                report=self.events.append,
            )
        )

    def copy(self, root: Path) -> FakeHost:
        """Another host that is like this one now."""
        Folder(self.root).put(root)
        other = copy.deepcopy(self)
        other.root = other.fs.root = root
        other.fs._prefix = str(root)
        return other

    def reboot(self) -> None:
        """Everything that lives in memory is gone."""
        for name in list(self.hypervisor.running):
            self.hypervisor.end(name)
        for folder in self.fs.path(self.fs.mount).iterdir():
            _remove(folder)
        boot = self.fs.path("/proc/sys/kernel/random/boot_id")
        boot.write_text(f"after {boot.read_text()}")

    def state(self) -> dict[str, object]:
        """What must be the same before an operation and after its undo, with process numbers made anonymous."""
        mount = self.fs.mount.lstrip("/")
        below = [place.removeprefix(str(self.root)) for place, _folders, _files in os.walk(self.fs.path(mount))][1:]
        groups = {
            re.sub(r"qemu-\d+", "qemu-N", group.lstrip("/")): self.fs.read_or(f"{group}/cpuset.cpus.exclusive", "").strip()
            for group in below
        }
        placed = {
            re.sub(r"qemu-\d+", "qemu-N", f"{name} {vcpu}"): (str(self.threads.affinity(tid)), self.threads.scheduler(tid))
            for name in self.hypervisor.running
            for tid, vcpu in self.hypervisor.threads(name).vcpus.items()
        }
        books = LedgerFile(self.root / "state").load()
        entries = {str(entry.vm): (entry.phase, str(entry.owned), encode(entry.sandbox)) for entry in books.entries}
        files = sorted(path.name for path in (self.root / "state" / "vms").glob("*"))
        domains = {name: view.state for name, view in self.hypervisor.running.items()}
        return {"groups": groups, "placed": placed, "entries": entries, "files": files, "domains": domains}


def again(root: Path, make: Callable[..., Any], *arguments: object) -> Any:
    """The host that `make(root, *arguments)` makes. It is made once; the next times in the same test it is put there, which is quicker."""
    key = (root, make, *arguments)
    shutil.rmtree(root, ignore_errors=True)
    if key not in _MADE:
        _MADE.clear()
        host = make(root, *arguments)
        _MADE[key] = copy.deepcopy(host), Folder(root)
        return host
    host, folder = _MADE[key]
    folder.put(root)
    return copy.deepcopy(host)


_MADE: dict[tuple[object, ...], tuple[FakeHost, Folder]] = {}
