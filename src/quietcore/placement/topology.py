"""The machine as the kubelet's CPU Manager sees it: CPUs grouped by core, L3 ("uncore"), NUMA node and socket, as bit masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import MappingProxyType
from typing import Final, NamedTuple

from quietcore.errors import InputError, Problem
from quietcore.model import CpuSet, Machine
from quietcore.model.cpuset import MAX_CPUS

ROW_FIELDS: Final = ("cpu", "core", "socket", "numa", "uncore")
DECLARED_FIELDS: Final = ("NumCPUs", "NumCores", "NumSockets", "NumNUMANodes", "NumUncoreCache")


class Group(NamedTuple):
    """The CPUs of one core, L3 group, NUMA node or socket: its id and all its CPUs in the machine as a mask."""

    id: int
    mask: int


Groups = tuple[Group, ...]
Children = Mapping[int, tuple[tuple[Group, int], ...]]
"""Id of a larger group -> its smaller groups in ascending order of id, each with the CPUs that the two have in common."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTopology:
    """What the CPU Manager knows of a machine; build it with `from_rows` or `from_machine`.

    The counts are the declared ones: the kubelet divides them to get machine-wide averages, rounded down, and uses those
    averages even on uneven machines. Groups stand in ascending order of their ids.
    """

    num_cpus: int
    num_cores: int
    num_sockets: int
    num_nodes: int
    num_uncores: int
    all_mask: int
    cores: Groups
    sockets: Groups
    nodes: Groups
    uncores: Groups
    sockets_of_node: Children = field(repr=False, compare=False)
    nodes_of_socket: Children = field(repr=False, compare=False)
    uncores_of_node: Children = field(repr=False, compare=False)
    cores_of_node: Children = field(repr=False, compare=False)
    cores_of_socket: Children = field(repr=False, compare=False)
    core_masks: Mapping[int, int] = field(repr=False, compare=False)

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, int]], declared: Mapping[str, int] | None = None) -> CpuTopology:
        """Build from one row {cpu, core, socket, numa, uncore} per online CPU.

        `declared` replaces counts by name (NumCPUs, NumCores, NumSockets, NumNUMANodes, NumUncoreCache); a count of 0 means
        "not reported", as in upstream's tests. Raises InputError for a CPU listed twice, a missing or negative id, a CPU
        number out of range, no CPUs at all, or declared counts that contradict the rows.
        """
        listed = list(rows)
        problems = list(_row_problems(listed))
        counts = _counted(listed)
        if not problems and declared is not None:
            problems += _declared_problems(declared, counts)
            counts |= {name: value for name, value in declared.items() if name in counts}
        if problems:
            raise InputError.of(tuple(problems))
        return cls._of(counts, ((row["cpu"], row["core"], row["socket"], row["numa"], row["uncore"]) for row in listed))

    @classmethod
    def from_machine(cls, machine: Machine) -> CpuTopology:
        """The topology of a machine's online CPUs."""
        cpus = machine.cpus
        counts = {
            "NumCPUs": len(cpus),
            "NumCores": len({cpu.core for cpu in cpus}),
            "NumSockets": len({cpu.socket for cpu in cpus}),
            "NumNUMANodes": len({cpu.node for cpu in cpus}),
            "NumUncoreCache": len({cpu.l3 for cpu in cpus}),
        }
        return cls._of(counts, ((cpu.cpu, cpu.core, cpu.socket, cpu.node, cpu.l3) for cpu in cpus))

    @classmethod
    def _of(cls, counts: Mapping[str, int], rows: Iterable[tuple[int, int, int, int, int]]) -> CpuTopology:
        cores: dict[int, int] = {}
        sockets: dict[int, int] = {}
        nodes: dict[int, int] = {}
        uncores: dict[int, int] = {}
        for cpu, core, socket, node, uncore in rows:
            bit = 1 << cpu
            cores[core] = cores.get(core, 0) | bit
            sockets[socket] = sockets.get(socket, 0) | bit
            nodes[node] = nodes.get(node, 0) | bit
            uncores[uncore] = uncores.get(uncore, 0) | bit
        all_mask = 0
        for mask in nodes.values():
            all_mask |= mask
        by_core, by_socket, by_node, by_uncore = (_groups(masks) for masks in (cores, sockets, nodes, uncores))
        return cls(
            num_cpus=counts["NumCPUs"],
            num_cores=counts["NumCores"],
            num_sockets=counts["NumSockets"],
            num_nodes=counts["NumNUMANodes"],
            num_uncores=counts["NumUncoreCache"],
            all_mask=all_mask,
            cores=by_core,
            sockets=by_socket,
            nodes=by_node,
            uncores=by_uncore,
            sockets_of_node=_children(by_node, by_socket),
            nodes_of_socket=_children(by_socket, by_node),
            uncores_of_node=_children(by_node, by_uncore),
            cores_of_node=_children(by_node, by_core),
            cores_of_socket=_children(by_socket, by_core),
            core_masks=MappingProxyType(dict(by_core)),
        )

    @property
    def cpus(self) -> CpuSet:
        """All CPUs of the machine that are online."""
        return CpuSet(self.all_mask)

    @property
    def cpus_per_core(self) -> int:
        """Threads per core: the machine-wide average, rounded down."""
        return self.num_cpus // self.num_cores if self.num_cores else 0

    @property
    def cpus_per_socket(self) -> int:
        """CPUs per socket: the machine-wide average, rounded down."""
        return self.num_cpus // self.num_sockets if self.num_sockets else 0

    @property
    def cpus_per_uncore(self) -> int:
        """CPUs per L3 group: the machine-wide average, rounded down."""
        return self.num_cpus // self.num_uncores if self.num_uncores else 0

    def check_available(self, available: CpuSet) -> None:
        """Raise InputError when `available` names CPUs that this machine does not have."""
        strangers = available.mask & ~self.all_mask
        if strangers:
            raise InputError.of(
                (
                    Problem(
                        field="available",
                        message=f"CPUs {CpuSet(strangers)} are not among the machine's online CPUs {self.cpus}",
                        hint="name online CPUs of this machine only",
                    ),
                )
            )

    def mask_of_nodes(self, nodes: Iterable[int]) -> int:
        """The CPUs of these NUMA nodes; ids without CPUs add nothing."""
        wanted = frozenset(nodes)
        mask = 0
        for group in self.nodes:
            if group.id in wanted:
                mask |= group.mask
        return mask

    def mask_of_whole_cores(self, cpus: int) -> int:
        """All CPUs of every core that has a CPU in the mask `cpus`."""
        mask = 0
        for core in self.cores:
            if core.mask & cpus:
                mask |= core.mask
        return mask


def _groups(masks: Mapping[int, int]) -> Groups:
    return tuple(Group(number, masks[number]) for number in sorted(masks))


def _children(parents: Groups, groups: Groups) -> Children:
    """Which groups have CPUs in which parent. Groups lie in one parent almost always, so each is looked for by its lowest CPU."""
    found: dict[int, list[tuple[Group, int]]] = {parent.id: [] for parent in parents}
    for group in groups:
        rest = group.mask
        for parent in parents:
            common = rest & parent.mask
            if common:
                found[parent.id].append((group, common))
                rest ^= common
                if not rest:
                    break
    return MappingProxyType({number: tuple(children) for number, children in found.items()})


def _counted(rows: list[Mapping[str, int]]) -> dict[str, int]:
    return {name: len({row.get(column) for row in rows}) for name, column in zip(DECLARED_FIELDS, ROW_FIELDS, strict=True)}


def _row_problems(rows: list[Mapping[str, int]]) -> Iterable[Problem]:
    if not rows:
        yield Problem(field="rows", message="could not detect number of cpus", hint="list at least one CPU")
    seen: set[int] = set()
    for index, row in enumerate(rows):
        for name in ROW_FIELDS:
            if name not in row:
                yield Problem(field=f"rows[{index}].{name}", message="is missing", hint=f"a row has {', '.join(ROW_FIELDS)}")
            elif row[name] < 0:
                yield Problem(field=f"rows[{index}].{name}", message=f"{row[name]} is negative")
        cpu = row.get("cpu", 0)
        if cpu >= MAX_CPUS:
            yield Problem(field=f"rows[{index}].cpu", message=f"{cpu} is not within 0-{MAX_CPUS - 1}")
        if cpu in seen:
            yield Problem(field=f"rows[{index}].cpu", message=f"CPU {cpu} is listed twice")
        seen.add(cpu)


def _declared_problems(declared: Mapping[str, int], counted: Mapping[str, int]) -> Iterable[Problem]:
    unknown = sorted(set(declared) - set(counted))
    for name in unknown:
        yield Problem(field=f"declared.{name}", message="is not a count of the topology", hint=f"use {', '.join(DECLARED_FIELDS)}")
    for name in DECLARED_FIELDS:
        value = declared.get(name, counted[name])
        if value < 0:
            yield Problem(field=f"declared.{name}", message=f"{value} is negative")
        elif 0 < value < counted[name]:
            yield Problem(field=f"declared.{name}", message=f"{value} contradicts the rows, which show {counted[name]}")
    total = declared.get("NumCPUs", counted["NumCPUs"])
    if total == 0:
        yield Problem(field="declared.NumCPUs", message="could not detect number of cpus")
    for name in chain(DECLARED_FIELDS[1:]):
        value = declared.get(name, counted[name])
        if value > total > 0:
            yield Problem(field=f"declared.{name}", message=f"{value} is more than the {total} CPUs")
