"""What placement works out from a machine's CPUs alone: once per machine, since many VMs are tried on the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from quietcore.model import CpuSet, LogicalCpu, Machine
from quietcore.placement.topology import CpuTopology
from quietcore.placement.vcpu_order import HostCell, machine_cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The CPU Manager's topology, and the cells in KubeVirt's order with the CPUs of each core."""

    topology: CpuTopology
    cells: tuple[HostCell, ...]
    core_masks: Mapping[int, int]

    @classmethod
    def of(cls, machine: Machine) -> Hardware:
        """Look at the machine, or remember what was seen of its CPUs the last time."""
        return _of(_Same(machine))

    def usable(self, machine: Machine) -> CpuSet:
        """The online CPUs that this system may use."""
        return self.topology.cpus if machine.allowed is None else self.topology.cpus & machine.allowed

    def cells_around(self, cpus: CpuSet) -> tuple[HostCell, ...]:
        """The cells with only those cores that hold some of these CPUs; the order of vCPUs inside them is the same."""
        wanted = cpus.mask
        masks = self.core_masks
        return tuple(
            HostCell(node=cell.node, cores=cores)
            for cell in self.cells
            if (cores := tuple(core for core in cell.cores if masks[core.core] & wanted))
        )


class _Same:
    """A key that is equal for machines that share one tuple of CPUs; comparing a thousand CPUs would cost more than it saves."""

    __slots__ = ("cpus", "machine")

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.cpus: tuple[LogicalCpu, ...] = machine.cpus

    def __hash__(self) -> int:
        return id(self.cpus)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.cpus is other.cpus


@lru_cache(maxsize=8)
def _of(key: _Same) -> Hardware:
    topology = CpuTopology.from_machine(key.machine)
    return Hardware(topology=topology, cells=machine_cells(key.machine), core_masks=topology.core_masks)
