"""The threads of a running VM and the cgroups around them, as read from the kernel at one moment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from quietcore.model.cpuset import CpuSet

Role: TypeAlias = Literal["vcpu", "emulator", "iothread", "worker", "vhost", "pit", "migration", "monitor"]
Policy: TypeAlias = Literal["other", "fifo", "rr", "batch", "idle", "deadline"]
Severity: TypeAlias = Literal["error", "warning", "info"]
Mechanism: TypeAlias = Literal["partition", "threaded", "cpuset-v1", "affinity"]
_VCPU_COMM: Final = re.compile(r"CPU (\d+)/(?:KVM|TCG)\n")


def vcpu_of_comm(comm: str) -> int | None:
    """The vCPU that a thread's name speaks of, None for other threads: KubeVirt's rule, and the same under software emulation.

    `comm` is /proc/PID/task/TID/comm with its newline. A name comes after the thread and can be changed, so this is for a QEMU whose
    monitor cannot be asked.
    """
    match = _VCPU_COMM.fullmatch(comm)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostThread:
    """One thread. `cgroup` is its path in the hierarchy that carries cpuset ("/" is the root of that hierarchy).

    `vcpu` and `iothread` are set from QEMU's own answer, never from `comm`, which changes after the thread exists.
    `kernel` marks a task of the kernel's own that works for the VM from outside QEMU's process.
    """

    tid: int
    comm: str
    role: Role
    allowed: CpuSet
    cgroup: str
    policy: Policy = "other"
    priority: int = 0
    vcpu: int | None = None
    iothread: int | None = None
    kernel: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadCensus:
    """Every thread of one VM, ascending by thread id; kernel threads that work for it (vhost, kvm-pit) included."""

    pid: int
    threads: tuple[HostThread, ...]

    @property
    def vcpus(self) -> tuple[HostThread, ...]:
        """The vCPU threads in vCPU order."""
        return tuple(sorted((thread for thread in self.threads if thread.vcpu is not None), key=lambda one: one.vcpu or 0))

    @property
    def running_vcpus(self) -> frozenset[int]:
        """The numbers of the vCPUs that QEMU runs."""
        return frozenset(thread.vcpu for thread in self.threads if thread.vcpu is not None)

    @property
    def others(self) -> tuple[HostThread, ...]:
        """Every thread that is not a vCPU."""
        return tuple(thread for thread in self.threads if thread.vcpu is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact that is not as it should be. `code` is stable; `kind` and `id` name what it is about (thread, cpu, irq, cgroup)."""

    code: str
    severity: Severity
    kind: str
    id: str
    expected: str
    actual: str
    hint: str = ""
