"""The lab's machines as data: what QEMU is asked to build, and on which kernels each machine is booted by the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from quietcore.model import CpuSet

NEWER: Final = "6.12"
OLDER: Final = "6.1"
SAME_SOCKET, OTHER_SOCKET, MEMORY_ONLY = 12, 21, 31
"""NUMA distances as two-socket servers with sub-NUMA clusters report them, and as memory expanders do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabNode:
    """One NUMA node: how many CPUs it has (numbers follow on), its memory, and the 2 MiB pages that the kernel reserves at boot.

    A node may have no CPUs, or no memory.
    """

    cpus: int
    memory_mib: int
    hugepages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LabMachine:
    """One machine: `cores` are per socket, `isolated` becomes isolcpus, nohz_full and rcu_nocbs, `kernels` are series such as "6.12".

    Raises ValueError where nodes and sockets disagree about the number of CPUs, or a node would split a core.
    """

    name: str
    about: str
    sockets: int
    cores: int
    threads: int
    nodes: tuple[LabNode, ...]
    isolated: CpuSet = CpuSet()
    init: Literal["busybox", "systemd"] = "busybox"
    kernels: tuple[str, ...] = (NEWER,)

    def __post_init__(self) -> None:
        if sum(node.cpus for node in self.nodes) != self.cpus:
            raise ValueError(f"the nodes of lab machine {self.name} do not add up to its {self.cpus} CPUs")
        if any(node.cpus % self.threads for node in self.nodes):
            raise ValueError(f"a node of lab machine {self.name} splits a core")

    @property
    def cpus(self) -> int:
        """The number of logical CPUs."""
        return self.sockets * self.cores * self.threads

    @property
    def memory_mib(self) -> int:
        """The memory of all nodes."""
        return sum(node.memory_mib for node in self.nodes)

    def cpus_of(self, node: int) -> CpuSet:
        """The CPUs of a node, empty for one that has memory only."""
        first = sum(one.cpus for one in self.nodes[:node])
        return CpuSet.from_iterable(range(first, first + self.nodes[node].cpus))

    def distance(self, one: int, other: int) -> int:
        """The ACPI distance between two nodes."""
        if one == other:
            return 10
        sides = self.cpus_of(one), self.cpus_of(other)
        if not all(sides):
            return MEMORY_ONLY
        per_socket = self.cores * self.threads
        sockets = {side.lowest // per_socket for side in sides}
        return SAME_SOCKET if len(sockets) == 1 else OTHER_SOCKET


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One machine on one kernel: what is booted once per test run."""

    machine: LabMachine
    series: str

    def __str__(self) -> str:
        return f"{self.machine.name}-{self.series}"


MACHINES: Final = (
    LabMachine(
        name="2s4n16c",
        about="two sockets of two nodes each, SMT",
        sockets=2,
        cores=4,
        threads=2,
        nodes=(LabNode(cpus=4, memory_mib=1024, hugepages=96),) * 4,
        kernels=(NEWER, OLDER),
    ),
    LabMachine(
        name="1s1n4c",
        about="one socket without SMT, CPUs 2-3 isolated at boot",
        sockets=1,
        cores=4,
        threads=1,
        nodes=(LabNode(cpus=4, memory_mib=1536, hugepages=32),),
        isolated=CpuSet.parse("2-3"),
    ),
    LabMachine(
        name="uneven",
        about="nodes of 4, 2, 2 and no CPUs; node 2 has no memory, node 3 has memory only",
        sockets=1,
        cores=4,
        threads=2,
        nodes=(
            LabNode(cpus=4, memory_mib=1024, hugepages=64),
            LabNode(cpus=2, memory_mib=512, hugepages=16),
            LabNode(cpus=2, memory_mib=0),
            LabNode(cpus=0, memory_mib=512),
        ),
    ),
    LabMachine(
        name="systemd",
        about="systemd as init, two nodes, SMT",
        sockets=1,
        cores=4,
        threads=2,
        nodes=(LabNode(cpus=4, memory_mib=1024),) * 2,
        init="systemd",
    ),
)
DEFAULT_MACHINE: Final = "2s4n16c"


def machine_named(name: str) -> LabMachine:
    """The machine of this name. Raises ValueError that lists the names there are."""
    for machine in MACHINES:
        if machine.name == name:
            return machine
    raise ValueError(f"there is no lab machine {name!r}: choose one of {', '.join(one.name for one in MACHINES)}")


def rows(names: tuple[str, ...], *, kernel_differs: bool) -> tuple[Row, ...]:
    """The rows that a test needs: its machines on the newer kernel, or on every kernel that they are booted on."""
    machines = [machine_named(name) for name in names]
    return tuple(Row(machine=one, series=series) for one in machines for series in one.kernels if kernel_differs or series == NEWER)
