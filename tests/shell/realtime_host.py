"""The fake host with what real time needs: per-CPU kernel threads, and a scheduler that refuses what the kernel refuses."""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Any

from quietcore.model import CpuSet, Policy, Realtime, VmSpec
from tests.shell.fake_host import FakeHost, FakeThreads
from tests.shell.test_engine import spec


class RealtimeThreads(FakeThreads):
    """A scheduler that knows no priority above 99 and does not let the `stubborn` threads be changed."""

    stubborn: frozenset[int] = frozenset()

    def set_scheduler(self, tid: int, policy: Policy, priority: int) -> None:
        with self.faults.change(f"scheduler {tid}", lambda: OSError(errno.EPERM, "injected")):
            if tid in self.stubborn:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            if priority > 99:
                raise OSError(errno.EINVAL, "Invalid argument")
            self.policies[tid] = (policy, priority)


@dataclass
class RealtimeHost(FakeHost):
    """Every CPU N has ksoftirqd/N (thread 300 + N, ordinary) and rcuc/N (400 + N, FIFO 1); rcub/0 (500) serves them all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.threads = RealtimeThreads(
            *[getattr(self.threads, name) for name in ("faults", "everyone", "fs") if hasattr(self.threads, name)]
        )
        for cpu in range(self.cpus):
            self.kernel_thread(300 + cpu, f"ksoftirqd/{cpu}", ("other", 0))
            self.kernel_thread(400 + cpu, f"rcuc/{cpu}", ("fifo", 1))
        self.kernel_thread(500, "rcub/0", ("fifo", 1))

    def kernel_thread(self, tid: int, comm: str, policy: tuple[Policy, int]) -> None:
        folder = self.fs.path(f"/proc/{tid}")
        folder.mkdir(parents=True)
        (folder / "comm").write_text(comm + "\n")
        (folder / "cgroup").write_text("5:cpuset:/\n" if self.version == 1 else "0::/\n")
        self.threads.policies[tid] = policy

    def priorities(self) -> dict[str, tuple[Policy, int]]:
        """Policy and priority of every kernel thread, by name."""
        tids = [*(base + cpu for cpu in range(self.cpus) for base in (300, 400)), 500]
        return {self.fs.read(f"/proc/{tid}/comm").strip(): self.threads.scheduler(tid) for tid in tids}

    def state(self) -> dict[str, object]:
        """As of any fake host, with the kernel threads."""
        return super().state() | {"kernel threads": self.priorities()}


def realtime(name: str = "a", vcpus: int = 2, mask: str = "1", **realtime: Any) -> VmSpec:  # fields of Realtime, of any type
    """A VM whose masked vCPUs are real-time."""
    plain = spec(name, vcpus)
    return replace(plain, cpu=replace(plain.cpu, realtime=Realtime(mask=mask, vcpus=frozenset(CpuSet.parse(mask)), **realtime)))
