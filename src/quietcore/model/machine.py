"""The host's hardware as a value: what exists, never who uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from quietcore.model.cpuset import CpuSet

CoreKind: TypeAlias = Literal["", "performance", "efficiency"]
LOCAL_DISTANCE: Final = 10
"""The ACPI SLIT value of a node to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalCpu:
    """One online logical CPU and where it sits.

    `core` is the lowest CPU number among the core's online threads, as the kubelet numbers cores: unique on the machine.
    (The kernel forgets where an offline CPU sits.)
    `socket`, `node` and `l3` are the kernel's ids; `l3` falls back to the socket id where no L3 is reported.
    `max_khz` is 0 where the kernel does not say.
    """

    cpu: int
    core: int
    socket: int
    node: int
    l3: int
    kind: CoreKind = ""
    max_khz: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaNode:
    """One NUMA node: memory, hugepages (page size in bytes -> number of pages) and distances (node -> ACPI distance).

    A node may have no CPUs, or no memory. `free_hugepages` is what the kernel had free when it was asked, None on
    machines that were described rather than read.
    """

    node: int
    memory_bytes: int
    hugepages: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    free_hugepages: Mapping[int, int] | None = None
    distances: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A host: its online CPUs by number, its NUMA nodes by number, and what is switched off or fenced off.

    `allowed` holds the CPUs that this system may use at all (a container sees fewer than the machine has); CPUs outside
    of it are listed in `cpus` but must never be handed out. `isolated` is the kernel's own list (isolcpus= or partitions).
    Raises ValueError for CPUs listed twice, a node that does not exist, or CPUs that are both online and offline.
    """

    name: str
    cpus: tuple[LogicalCpu, ...]
    nodes: tuple[NumaNode, ...]
    offline: CpuSet = CpuSet()
    allowed: CpuSet | None = None
    isolated: CpuSet = CpuSet()
    architecture: str = "x86_64"
    cpu_model: str = ""

    def __post_init__(self) -> None:
        numbers = [cpu.cpu for cpu in self.cpus]
        if not numbers:
            raise ValueError("a machine has at least one CPU")
        if numbers != sorted(set(numbers)):
            raise ValueError(f"the CPUs of machine {self.name!r} are not listed once each in ascending order")
        node_ids = [node.node for node in self.nodes]
        if node_ids != sorted(set(node_ids)):
            raise ValueError(f"the NUMA nodes of machine {self.name!r} are not listed once each in ascending order")
        for cpu in self.cpus:
            if cpu.node not in node_ids:
                raise ValueError(f"CPU {cpu.cpu} of machine {self.name!r} is on NUMA node {cpu.node}, which does not exist")
        if not self.online.isdisjoint(self.offline):
            raise ValueError(f"CPUs {self.online & self.offline} of machine {self.name!r} are both online and offline")

    @property
    def online(self) -> CpuSet:
        """All online CPUs."""
        return CpuSet.from_iterable(cpu.cpu for cpu in self.cpus)

    @property
    def usable(self) -> CpuSet:
        """The online CPUs that this system may use."""
        return self.online if self.allowed is None else self.online & self.allowed

    def cpu(self, number: int) -> LogicalCpu:
        """The online CPU of this number. Raises KeyError."""
        for cpu in self.cpus:
            if cpu.cpu == number:
                return cpu
        raise KeyError(number)

    def node(self, number: int) -> NumaNode:
        """The NUMA node of this number. Raises KeyError."""
        for node in self.nodes:
            if node.node == number:
                return node
        raise KeyError(number)

    def cpus_of_node(self, node: int) -> CpuSet:
        """The online CPUs of a NUMA node."""
        return CpuSet.from_iterable(cpu.cpu for cpu in self.cpus if cpu.node == node)

    def cores(self) -> Mapping[int, CpuSet]:
        """Core id -> its online threads, in ascending order of the core id."""
        cores: dict[int, int] = {}
        for cpu in sorted(self.cpus, key=lambda one: (one.core, one.cpu)):
            cores[cpu.core] = cores.get(cpu.core, 0) | 1 << cpu.cpu
        return {core: CpuSet(mask) for core, mask in cores.items()}

    def siblings(self, cpu: int) -> CpuSet:
        """All online threads of this CPU's core, itself included."""
        return self.cores()[self.cpu(cpu).core]
