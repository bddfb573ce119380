"""The Memory Manager's books: per NUMA node what exists and what is reserved, and which nodes serve pods as a group.

Every change is a new value. The bytes inside a group are bookkeeping only, filled from the lowest node as the kubelet does;
where they really come from, the kernel decides (guest cells, which bind strictly, are booked in `page_booking`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from quietcore.errors import InputError, Problem
from quietcore.model import Compat, Ledger, Machine, MemoryBlock, NumaNode, Options
from quietcore.placement.guest_cells import hugepage_type
from quietcore.placement.hints import mask_of, nodes_of

MEMORY: Final = "memory"
Reserved: TypeAlias = Mapping[int, Mapping[str, int]]
"""Bytes kept for the system: node -> resource name -> bytes."""
Assignments: TypeAlias = Mapping[str, Mapping[str, tuple[MemoryBlock, ...]]]
"""Pod uid -> container -> blocks."""
_UINT64: Final = 1 << 64
_EMPTY: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """One resource on one node, in bytes: free + reserved = allocatable."""

    total: int
    system_reserved: int
    allocatable: int
    reserved: int = 0
    free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeMemory:
    """One node: how many blocks it serves, the group of nodes that serves them (a mask), and its tables by resource name."""

    assignments: int = 0
    group: int
    tables: Mapping[str, MemoryTable]

    def allocatable(self, kind: str) -> int:
        """Bytes that pods can have at most; 0 of a resource that the node does not have."""
        return self.tables[kind].allocatable if kind in self.tables else 0

    def free(self, kind: str) -> int:
        """Bytes that no pod has."""
        return self.tables[kind].free if kind in self.tables else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reusable:
    """What the finished init containers of one pod leave to its next containers: node mask -> resource name -> bytes."""

    pod: str = ""
    bytes: Mapping[int, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, pod: str, mask: int, kind: str) -> int:
        """Bytes that this pod can take over on exactly these nodes."""
        return self.bytes.get(mask, _EMPTY).get(kind, 0) if pod == self.pod else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryState:
    """All nodes, ascending, and who has what."""

    nodes: Mapping[int, NodeMemory]
    assignments: Assignments = field(default_factory=lambda: MappingProxyType({}))
    reusable: Reusable = Reusable()

    def blocks(self, pod: str, container: str) -> tuple[MemoryBlock, ...]:
        """What a container has; empty when it has nothing."""
        return self.assignments.get(pod, {}).get(container, ())


def memory_state(machine: Machine, ledger: Ledger, options: Options) -> MemoryState:
    """The books of a host: everything that exists less what is reserved and what the plans in force were assigned.

    Raises InputError for a reservation that the machine cannot give, and for a plan on a node or resource that is gone.
    """
    assignments = {
        plan.uid: {one.container: one.memory for one in plan.assignments if one.memory}
        for plan in ledger.plans
        if any(one.memory for one in plan.assignments)
    }
    return booked(default_state(machine, options.reserved_memory, options.compat), assignments)


def default_state(machine: Machine, reserved: Reserved, compat: Compat = "fixed") -> MemoryState:
    """The books of an empty host. Raises InputError with all faults of the reservation.

    Where more is reserved than there is, compat "1.36" wraps around to a huge amount, as the kubelet's unsigned numbers do.
    """
    problems = [
        _problem(node, f"the reserved memory configuration references a NUMA node {node} that does not exist on this machine")
        for node in sorted(reserved)
        if node not in {one.node for one in machine.nodes}
    ]
    nodes = {}
    for node in machine.nodes:
        keep = reserved.get(node.node, _EMPTY)
        tables, faults = _tables(node, keep, compat)
        problems += [_problem(node.node, fault) for fault in faults]
        nodes[node.node] = NodeMemory(group=1 << node.node, tables=MappingProxyType(tables))
    if problems:
        raise InputError.of(tuple(problems))
    return MemoryState(nodes=MappingProxyType(nodes))


def booked(state: MemoryState, assignments: Assignments) -> MemoryState:
    """The state with assignments filled in. Raises InputError, in the kubelet's words, for a node or resource that is not there."""
    problems = []
    for pod, container, block in _each_block(assignments):
        what = ""
        if any(node not in state.nodes for node in block.nodes):
            what = "the memory assignment uses the NUMA that does not exist"
        elif any(block.type not in state.nodes[node].tables for node in block.nodes):
            what = "the memory assignment uses memory resource that does not exist"
        if what:
            message = f"[memorymanager] (pod: {pod}, container: {container}) {what}"
            problems.append(Problem(field="assignments", message=message, hint="stop this VM and start it again"))
    if problems:
        raise InputError.of(tuple(problems))
    state = replace(state, nodes=fill(state.nodes, [(block, block.size_bytes) for _, _, block in _each_block(assignments)]))
    known = {pod: MappingProxyType(dict(containers)) for pod, containers in assignments.items()}
    return replace(state, assignments=MappingProxyType({**state.assignments, **known}))


def fill(nodes: Mapping[int, NodeMemory], blocks: Iterable[tuple[MemoryBlock, int]]) -> Mapping[int, NodeMemory]:
    """Book bytes for blocks on their nodes, the lowest node first; each node counts one assignment more, whatever it gives."""
    drafts: dict[int, _Draft] = {}
    for block, size_bytes in blocks:
        rest = size_bytes
        for node in block.nodes:
            draft = drafts.get(node) or drafts.setdefault(node, _Draft.of(nodes[node]))
            draft.assignments += 1
            draft.group = mask_of(block.nodes)
            rest -= draft.book(block.type, min(draft.free.get(block.type, 0), rest))
    return MappingProxyType({**nodes, **{node: draft.final(nodes[node]) for node, draft in drafts.items()}})


def empty(nodes: Mapping[int, NodeMemory], blocks: Iterable[MemoryBlock]) -> Mapping[int, NodeMemory]:
    """Give blocks back; a node without assignments leaves its group."""
    drafts: dict[int, _Draft] = {}
    for block in blocks:
        rest = block.size_bytes
        for node in block.nodes:
            draft = drafts.get(node) or drafts.setdefault(node, _Draft.of(nodes[node]))
            draft.assignments -= 1
            draft.group = draft.group if draft.assignments else 1 << node
            rest += draft.book(block.type, -min(draft.reserved.get(block.type, 0), rest))
    return MappingProxyType({**nodes, **{node: draft.final(nodes[node]) for node, draft in drafts.items()}})


@dataclass(slots=True)
class _Draft:
    """One node while blocks are booked on it."""

    assignments: int
    group: int
    free: dict[str, int]
    reserved: dict[str, int]

    @classmethod
    def of(cls, memory: NodeMemory) -> _Draft:
        free = {kind: table.free for kind, table in memory.tables.items()}
        return cls(memory.assignments, memory.group, free, {kind: table.reserved for kind, table in memory.tables.items()})

    def book(self, kind: str, amount: int) -> int:
        if amount:
            self.free[kind] -= amount
            self.reserved[kind] += amount
        return amount

    def final(self, before: NodeMemory) -> NodeMemory:
        tables = {kind: replace(table, free=self.free[kind], reserved=self.reserved[kind]) for kind, table in before.tables.items()}
        return NodeMemory(assignments=self.assignments, group=self.group, tables=MappingProxyType(tables))


def release(state: MemoryState, pod: str, container: str | None = None) -> MemoryState:
    """Give back what a container has, or the whole pod. Something that has nothing changes nothing."""
    containers = dict(state.assignments.get(pod, {}))
    gone = [name for name in containers if container in (None, name)]
    nodes = empty(state.nodes, [block for name in gone for block in containers.pop(name)])
    return replace(state, nodes=nodes, assignments=with_pod(state.assignments, pod, containers))


def with_pod(assignments: Assignments, pod: str, containers: Mapping[str, tuple[MemoryBlock, ...]]) -> Assignments:
    """The assignments with one pod's replaced; a pod without containers is dropped."""
    after = {uid: known for uid, known in assignments.items() if uid != pod}
    if containers:
        after[pod] = MappingProxyType(dict(containers))
    return MappingProxyType(after)


def restore(saved: MemoryState, machine: Machine, reserved: Reserved) -> MemoryState:
    """Check saved books against the machine as a starting kubelet does, and hand them back.

    Empty books without assignments become the default. Per-node amounts inside a group may differ. Raises InputError with the
    kubelet's text; there is no repair.
    """
    if not saved.nodes:
        if saved.assignments:
            raise _start_error("[memorymanager] machine state can not be empty when it has memory assignments")
        return default_state(machine, reserved)
    expected = booked(default_state(machine, reserved, "1.36"), saved.assignments)
    if _summary(expected) != _summary(saved):
        raise _start_error("[memorymanager] the expected machine state is different from the real one")
    return saved


def check_reserved(machine: Machine, reserved: Reserved, node_allocatable: Mapping[str, int]) -> None:
    """Check a reservation against Node Allocatable (resource name -> bytes), as a kubelet with this policy must.

    We do not need a reservation ourselves; this is for those who want the kubelet's answer. Raises InputError with all faults.
    """
    problems = []
    if not sum(kept.get(MEMORY, 0) for kept in reserved.values()):
        problems.append("[memorymanager] you should specify the system reserved memory")
    kinds = sorted({MEMORY, *node_allocatable, *(kind for kept in reserved.values() for kind in kept)})
    for kind in kinds:
        total, wanted = sum(kept.get(kind, 0) for kept in reserved.values()), node_allocatable.get(kind, 0)
        if total != wanted:
            problems.append(
                f'the total amount "{total}" of type "{kind}" is not equal to the value "{wanted}" determined by Node Allocatable feature'
            )
    if problems:
        raise InputError.of(tuple(Problem(field="reserved_memory", message=message) for message in problems))
    default_state(machine, reserved)


def require_reserved(reserved: Reserved) -> None:
    """Raise InputError where the kubelet's static policy refuses to be made: nothing is reserved for the system."""
    if not sum(kept.get(MEMORY, 0) for kept in reserved.values()):
        raise _start_error("[memorymanager] you should specify the system reserved memory")


def _tables(node: NumaNode, keep: Mapping[str, int], compat: Compat) -> tuple[dict[str, MemoryTable], list[str]]:
    pages = {hugepage_type(size): (size * count) for size, count in sorted(node.hugepages.items())}
    faults = [
        f"reserves {kind}, which the node does not have" for kind in sorted(keep) if kind != MEMORY and kind not in pages and keep[kind]
    ]
    totals = {MEMORY: (node.memory_bytes, sum(pages.values())), **{kind: (total, 0) for kind, total in pages.items()}}
    tables = {}
    for kind, (total, in_pages) in totals.items():
        allocatable = total - keep.get(kind, 0) - in_pages
        if allocatable < 0 and compat == "fixed":
            faults.append(f"{keep.get(kind, 0)} bytes of {kind} are reserved and {in_pages} are hugepages, but there are only {total}")
        allocatable %= _UINT64
        tables[kind] = MemoryTable(total=total, system_reserved=keep.get(kind, 0), allocatable=allocatable, free=allocatable)
    return tables, faults


def _problem(node: int, message: str) -> Problem:
    return Problem(field=f"reserved_memory[{node}]", message=message, hint="correct the reservation or the machine's description")


def _start_error(message: str) -> InputError:
    return InputError.of((Problem(field="memory_manager", message=message),))


def _each_block(assignments: Assignments) -> Iterable[tuple[str, str, MemoryBlock]]:
    for pod in sorted(assignments):
        for container in sorted(assignments[pod]):
            for block in assignments[pod][container]:
                yield pod, container, block


def _summary(state: MemoryState) -> object:
    """What two states must have in common: free and reserved count per group, everything else per node."""
    per_node = {
        node: (
            memory.assignments,
            memory.group,
            {kind: (table.total, table.system_reserved, table.allocatable) for kind, table in memory.tables.items()},
        )
        for node, memory in state.nodes.items()
    }
    sums = {
        (memory.group, kind): tuple(
            map(sum, zip(*((t.free, t.reserved) for node in nodes_of(memory.group) if (t := _table(state, node, kind))), strict=True))
        )
        for memory in state.nodes.values()
        for kind in memory.tables
    }
    return per_node, sums


def _table(state: MemoryState, node: int, kind: str) -> MemoryTable | None:
    return state.nodes[node].tables.get(kind) if node in state.nodes else None
