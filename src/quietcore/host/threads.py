"""Threads of the host: what the kernel says about them, and the three calls that change where and how they run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from quietcore.host.fs import HostFs
from quietcore.isolation import ForeignTask
from quietcore.model import CpuSet, HostThread, Policy, Role, ThreadCensus

_POLICIES: Final[Mapping[int, Policy]] = {0: "other", 1: "fifo", 2: "rr", 3: "batch", 5: "idle", 6: "deadline"}
_NUMBERS: Final = {name: number for number, name in _POLICIES.items()}
_RESET_ON_FORK: Final = 0x40000000
_NO_SETAFFINITY: Final = 0x04000000  # PF_NO_SETAFFINITY, include/linux/sched.h
_KTHREAD: Final = 0x00200000
_PER_CPU: Final = ("ksoftirqd/", "ktimers/", "rcuc/")
_MIGRATION: Final = ("live_migration", "multifd", "mig/")  # the last since QEMU 9.1
_CAP_SYS_RESOURCE: Final = 24
_MIGRATE_PAGES: Final = 256
"""migrate_pages(2) on x86-64, which has no wrapper in the C library."""
_WORD_BITS: Final = 64
_WORD: Final = (1 << _WORD_BITS) - 1
_PER_LEAF: Final = "rcub/"  # numbered by leaves of RCU's tree, each of which serves many CPUs: all of them count


class ThreadControl(Protocol):
    """What is asked of the scheduler about one thread. Every method raises OSError (ProcessLookupError for a thread that ended)."""

    def affinity(self, tid: int) -> CpuSet:
        """The CPUs that the thread may use."""
        ...

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        """Allow exactly these CPUs."""
        ...

    def scheduler(self, tid: int) -> tuple[Policy, int]:
        """Policy and real-time priority (0 for the others)."""
        ...

    def set_scheduler(self, tid: int, policy: Policy, priority: int) -> None:
        """Change policy and priority."""
        ...

    def migrate_pages(self, pid: int, away: CpuSet, nodes: CpuSet) -> int:
        """Move a process's pages from some NUMA nodes to others; gives how many the kernel could not move."""
        ...


class KernelThreads:
    """The running kernel's own answers."""

    def affinity(self, tid: int) -> CpuSet:
        """The CPUs that the thread may use."""
        return CpuSet.from_iterable(os.sched_getaffinity(tid))

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        """Allow exactly these CPUs."""
        os.sched_setaffinity(tid, set(cpus))

    def scheduler(self, tid: int) -> tuple[Policy, int]:
        """Policy and real-time priority."""
        number = os.sched_getscheduler(tid) & ~_RESET_ON_FORK
        return _POLICIES.get(number, "other"), os.sched_getparam(tid).sched_priority

    def set_scheduler(self, tid: int, policy: Policy, priority: int) -> None:
        """Change policy and priority."""
        os.sched_setscheduler(tid, _NUMBERS[policy], os.sched_param(priority))

    def migrate_pages(self, pid: int, away: CpuSet, nodes: CpuSet) -> int:
        """Move a process's pages from some NUMA nodes to others."""
        import ctypes  # noqa: PLC0415  # only a move of memory needs it

        count = max(away.highest, nodes.highest) // _WORD_BITS + 1
        masks = [(ctypes.c_ulong * count)(*(one.mask >> _WORD_BITS * word & _WORD for word in range(count))) for one in (away, nodes)]
        libc = ctypes.CDLL(None, use_errno=True)
        stayed = int(libc.syscall(_MIGRATE_PAGES, pid, ctypes.c_ulong(count * _WORD_BITS + 1), *masks))  # the kernel takes one bit off
        if stayed < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return stayed


def cgroup_of(text: str, version: int, controller: str = "cpuset") -> str:
    """The path in the hierarchy that carries the controller, from the text of /proc/TID/cgroup ("/" where it is not named)."""
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if (version == 2 and number == "0" and not controllers) or (version == 1 and controller in controllers.split(",")):
            return path
    return "/"


def process_of(fs: HostFs, tid: int) -> int:
    """The process that a thread belongs to. Raises OSError when it is gone."""
    return int(status_field(fs.read(f"/proc/{tid}/status"), "Tgid"))


def status_field(status: str, name: str) -> str:
    """One field of /proc/TID/status, "" where it is missing."""
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    return ""


def may_lock(fs: HostFs) -> bool:
    """Whether libvirt, which runs with our rights or more, may raise QEMU's limit of locked memory (CAP_SYS_RESOURCE)."""
    effective = status_field(fs.read_or("/proc/self/status", ""), "CapEff")
    return bool(int(effective or "0", 16) >> _CAP_SYS_RESOURCE & 1)


def locked_bytes(fs: HostFs, pid: int) -> int | None:
    """How much of a process's memory is locked; None where the kernel does not say."""
    words = status_field(fs.read_or(f"/proc/{pid}/status", ""), "VmLck").split()
    return int(words[0]) << 10 if words else None


def census(
    fs: HostFs, control: ThreadControl, pid: int, *, vcpus: Mapping[int, int], iothreads: Mapping[int, int], version: int
) -> ThreadCensus:
    """Every thread of the QEMU process `pid` and the kernel's own threads that work for it.

    `vcpus` maps a thread id to its vCPU and `iothreads` one to its I/O thread number, both as QEMU answered. A thread
    that ends while we look is left out; QEMU itself being gone raises ProcessLookupError.
    """
    found = []
    for name in _tids(fs, pid):
        thread = _thread(fs, control, f"/proc/{pid}/task/{name}", int(name), version)
        if thread is not None:
            comm, allowed, cgroup, policy, priority = thread
            vcpu, iothread = vcpus.get(int(name)), iothreads.get(int(name))
            found.append(
                HostThread(
                    tid=int(name),
                    comm=comm,
                    role=_role(comm, vcpu, iothread),
                    allowed=allowed,
                    cgroup=cgroup,
                    policy=policy,
                    priority=priority,
                    vcpu=vcpu,
                    iothread=iothread,
                )
            )
    found += _kernel_helpers(fs, control, pid, version)
    return ThreadCensus(pid=pid, threads=tuple(sorted(found, key=lambda one: one.tid)))


def _tids(fs: HostFs, pid: int) -> list[str]:
    try:
        return fs.listdir(f"/proc/{pid}/task")
    except FileNotFoundError as err:
        raise ProcessLookupError(f"process {pid} is gone") from err


def _thread(fs: HostFs, control: ThreadControl, path: str, tid: int, version: int) -> tuple[str, CpuSet, str, Policy, int] | None:
    try:
        comm = fs.read(f"{path}/comm").strip()
        cgroup = cgroup_of(fs.read(f"{path}/cgroup"), version)
        policy, priority = control.scheduler(tid)
        return comm, control.affinity(tid), cgroup, policy, priority
    except (FileNotFoundError, ProcessLookupError):
        return None


def _role(comm: str, vcpu: int | None, iothread: int | None) -> Role:
    if vcpu is not None:
        return "vcpu"
    if iothread is not None:
        return "iothread"
    if comm.startswith("vhost-"):
        return "vhost"
    if comm.startswith(_MIGRATION):
        return "migration"
    if "worker" in comm:
        return "worker"
    return "monitor" if comm == "IO mon_iothread" else "emulator"


def _kernel_helpers(fs: HostFs, control: ThreadControl, pid: int, version: int) -> list[HostThread]:
    """The kernel's tasks outside the process that work for it: vhost workers (before Linux 6.4), KVM's timer and page recovery."""
    wanted: dict[str, Role] = {f"vhost-{pid}": "vhost", f"kvm-pit/{pid}": "pit", f"kvm-nx-lpage-recovery-{pid}": "worker"}
    helpers = []
    for name in fs.listdir("/proc"):
        if not name.isdigit():
            continue
        role = wanted.get(fs.read_or(f"/proc/{name}/comm", "").strip())
        thread = _thread(fs, control, f"/proc/{name}", int(name), version) if role is not None else None
        if role is not None and thread is not None:
            helpers.append(_kernel_thread(int(name), role, thread))
    return helpers


def _kernel_thread(tid: int, role: Role, answers: tuple[str, CpuSet, str, Policy, int]) -> HostThread:
    comm, allowed, cgroup, policy, priority = answers
    return HostThread(tid=tid, comm=comm, role=role, allowed=allowed, cgroup=cgroup, policy=policy, priority=priority, kernel=True)


def cpu_kthreads(fs: HostFs, control: ThreadControl, cpus: CpuSet) -> tuple[HostThread, ...]:
    """The kernel threads that serve these CPUs and that a real-time vCPU must never outrank."""
    wanted = {f"{prefix}{cpu}" for prefix in _PER_CPU for cpu in cpus}
    found = []
    for name in fs.listdir("/proc"):
        comm = fs.read_or(f"/proc/{name}/comm", "").strip() if name.isdigit() else ""
        if comm in wanted or comm.startswith(_PER_LEAF):
            with suppress(ProcessLookupError):
                policy, priority = control.scheduler(int(name))
                found.append(_kernel_thread(int(name), "worker", (comm, control.affinity(int(name)), "/", policy, priority)))
    return tuple(sorted(found, key=lambda one: one.tid))


def foreign_tasks(fs: HostFs, cpus: CpuSet, own: Iterable[int]) -> tuple[ForeignTask, ...]:
    """Every thread of the host that is allowed on `cpus`, belongs to none of the processes `own`, and could be moved away.

    Kernel threads that are bound to their CPU for good (PF_NO_SETAFFINITY) are the CPU's own and left out.
    """
    skip, found = set(own), []
    for name in fs.listdir("/proc"):
        if not name.isdigit() or int(name) in skip:
            continue
        try:
            tasks = fs.listdir(f"/proc/{name}/task")
        except OSError:
            continue
        found += [task for tid in tasks if (task := _foreign(fs, f"/proc/{name}/task/{tid}", int(tid), cpus)) is not None]
    return tuple(found)


def _foreign(fs: HostFs, path: str, tid: int, cpus: CpuSet) -> ForeignTask | None:
    status = fs.read_or(f"{path}/status", "")
    allowed = CpuSet.parse(status_field(status, "Cpus_allowed_list"))
    if allowed.isdisjoint(cpus):
        return None
    flags = _flags(fs, path)
    if flags & _NO_SETAFFINITY:
        return None
    return ForeignTask(tid=tid, comm=status_field(status, "Name"), allowed=allowed, kernel=bool(flags & _KTHREAD))


def kernel_tasks(fs: HostFs) -> frozenset[int]:
    """The threads of the kernel itself."""
    return frozenset(int(name) for name in fs.listdir("/proc") if name.isdigit() and _flags(fs, f"/proc/{name}") & _KTHREAD)


def _flags(fs: HostFs, path: str) -> int:
    stat = fs.read_or(f"{path}/stat", "")
    fields = stat[stat.rfind(")") + 2 :].split()  # the name may hold anything, ") " included: split at the last parenthesis
    return int(fields[6]) if len(fields) > 6 else 0
