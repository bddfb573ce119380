"""The cgroups around one VM as facts, and the steps that change them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from quietcore.model.cpuset import CpuSet
from quietcore.model.threads import Policy

Layout: TypeAlias = Literal["libvirt", "bare", "none"]
OWN_ROOT: Final = "/quietcore"
"""Where the groups are that we make where libvirt made none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupFacts:
    """The hierarchy that carries the cpuset controller, as seen around one VM. Group paths begin at its mount ("/machine/x").

    `layout` is `libvirt` where libvirt made vcpuN and emulator groups, `bare` where QEMU sits in one group with
    everything (`cgroup_controllers = []`, a launcher pod), `none` where no cpuset can be written.
    `home` is the group that holds all threads of the VM: libvirt's, or the one that we make in the bare layout.
    `partitions` is what a probe in scratch groups found; `why_not` is the sentence where it found that they do not work.
    `home_cpus` are those that `home` names itself; none where it leaves that to the groups above, as libvirt's does on cgroup v2.
    `exclusive` holds cpuset.cpus.exclusive of `home` and every group above it; `quotas` the finite CPU quotas of `quota_groups`:
    the vCPUs' groups and all above them, which on cgroup v1 are in the cpu hierarchy, mounted at `quota_mount`. `weights` says
    whether the cpu controller reaches the vCPUs' groups.
    """

    version: Literal[1, 2]
    mount: str
    layout: Layout
    home: str
    vcpu_groups: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    io_groups: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    emulator_group: str = ""
    partitions: bool = False
    why_not: str = ""
    home_cpus: CpuSet = CpuSet()
    exclusive: Mapping[str, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    partition_states: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    quotas: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    quota_groups: tuple[str, ...] = ()
    quota_mount: str = ""
    weights: bool = False
    root_cpus: CpuSet = CpuSet()
    root_mems: str = "0"

    def file(self, group: str, name: str) -> str:
        """The path of one file of a group on the host."""
        return f"{self.mount}{group.rstrip('/')}/{name}"

    def quota_file(self, group: str) -> str:
        """The path of a group's CPU quota, "" where there is no cpu hierarchy."""
        if not self.quota_mount:
            return ""
        return f"{self.quota_mount}{group.rstrip('/')}/{'cpu.max' if self.version == 2 else 'cpu.cfs_quota_us'}"

    @property
    def levels(self) -> tuple[str, ...]:
        """The groups from just below the root down to `home`."""
        return levels_of(self.home)


def levels_of(group: str) -> tuple[str, ...]:
    """A group and those above it, from just below the root downwards."""
    parts = [part for part in group.split("/") if part]
    return tuple("/" + "/".join(parts[: depth + 1]) for depth in range(len(parts)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeGroup:
    """Make one cgroup directory; undone by removing it."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetValue:
    """Write a kernel file. `readback` says how the kernel's answer is compared.

    `cpus`: as CPU lists; `exact`; `prefix`: the answer begins with the value ("max" reads back as "max 100000");
    `words`: the answer holds these words ("+cpuset +cpu", "threaded"); never undone, because others may use the
    controllers by then and a group stays threaded for good.
    """

    path: str
    value: str
    readback: Literal["cpus", "exact", "prefix", "words"] = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveThread:
    """Put one thread into a group through `path` (cgroup.threads or tasks); `group` is what /proc must then say.

    `controller` names the hierarchy on cgroup v1; on v2 there is only one.
    """

    path: str
    group: str
    tid: int
    controller: Literal["cpuset", "cpu"] = "cpuset"


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveProcess:
    """Put a whole process into a group through its cgroup.procs."""

    path: str
    group: str
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAffinity:
    """Allow one thread exactly these CPUs."""

    tid: int
    cpus: CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class SetScheduler:
    """Give one thread a scheduling policy and priority."""

    tid: int
    policy: Policy
    priority: int


Step: TypeAlias = MakeGroup | SetValue | MoveThread | MoveProcess | SetAffinity | SetScheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A step that took effect, with what stood there before (for undo) and what the kernel said afterwards."""

    step: Step
    before: str
    after: str
