"""The kubelet's packed CPU allocator: which CPUs a request gets from a set of free ones, largest whole groups first.

Rules: Kubernetes v1.36.2, pkg/kubelet/cm/cpumanager/cpu_assignment.go. Everything works on bit masks: no set of CPU numbers
is ever built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from quietcore.errors import InputError, Problem
from quietcore.model import Compat, CpuSet, Reason, Refusal
from quietcore.placement.topology import Children, CpuTopology, Group, Groups

Strategy: TypeAlias = Literal["packed", "spread"]
"""`packed` fills whole cores first; `spread` goes by CPU number (distribute-cpus-across-cores)."""

STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)
MODES: Final[tuple[Compat, ...]] = get_args(Compat)
SMT_PAIR: Final = 2
"""The kubelet tests the parity of a request with 2, whatever the number of threads per core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """CPUs that one rule of the allocator took at once, and that rule in words."""

    cpus: CpuSet
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The allocator's answer with the rule behind every CPU, in the order in which they were taken."""

    cpus: CpuSet
    steps: tuple[Step, ...] = ()

    def rule_of(self, cpu: int) -> str:
        """The rule that took this CPU; "" for one that is not part of the answer."""
        return next((step.rule for step in self.steps if cpu in step.cpus), "")

    def then(self, other: Taken) -> Taken:
        """Both answers together: this one was taken first."""
        return Taken(cpus=self.cpus | other.cpus, steps=self.steps + other.steps)


def whole(cpus: CpuSet, rule: str) -> Taken:
    """CPUs that one rule gave at once."""
    return Taken(cpus=cpus, steps=(Step(cpus=cpus, rule=rule),))


def take_packed(
    topology: CpuTopology,
    available: CpuSet,
    count: int,
    *,
    strategy: Strategy = "packed",
    prefer_uncore: bool = False,
    compat: Compat = "fixed",
) -> CpuSet | Refusal:
    """Choose `count` CPUs as the kubelet's packed allocator does; a Refusal carries the kubelet's text.

    On uneven machines (an offline sibling, hybrid cores) the kubelet takes groups for completely free by a machine-wide average
    and can hand out CPUs that are not available: `compat="1.36"` answers as it does, `"fixed"` leaves such a group alone.
    Raises InputError for a negative count or CPUs that the machine does not have.
    """
    taken = pack(topology, available, count, strategy=strategy, prefer_uncore=prefer_uncore, compat=compat)
    return taken if isinstance(taken, Refusal) else taken.cpus


def pack(
    topology: CpuTopology,
    available: CpuSet,
    count: int,
    *,
    strategy: Strategy = "packed",
    prefer_uncore: bool = False,
    compat: Compat = "fixed",
) -> Taken | Refusal:
    """`take_packed` with the rule that took each CPU."""
    check_request(topology, available, count, strategy, compat)
    if count == 0:
        return Taken(cpus=CpuSet())
    if count > len(available):
        return not_enough(available, count)
    free = _Accumulator(topology, available.mask, count, strategy=strategy, compat=compat)
    return free.run(prefer_uncore=prefer_uncore)


def check_request(topology: CpuTopology, available: CpuSet, count: int, strategy: Strategy, compat: Compat) -> None:
    """Raise InputError, with every fault, for a request that makes no sense on any machine."""
    problems: list[Problem] = []
    if count < 0:
        problems.append(Problem(field="count", message=f"{count} is negative", hint="ask for 0 or more CPUs"))
    if strategy not in STRATEGIES:
        problems.append(Problem(field="strategy", message=f"{strategy!r} is unknown", hint=f"use {' or '.join(STRATEGIES)}"))
    if compat not in MODES:
        problems.append(Problem(field="compat", message=f"{compat!r} is unknown", hint=f"use {' or '.join(MODES)}"))
    if problems:
        raise InputError.of(tuple(problems))
    topology.check_available(available)


def not_enough(available: CpuSet, count: int) -> Refusal:
    """The kubelet's refusal of a request that is larger than the set it may take from."""
    message = f"not enough cpus available to satisfy request: requested={count}, available={len(available)}"
    return Refusal(
        message=message,
        reasons=(Reason(constraint="cpus", message=message, wanted=str(count), free=str(len(available))),),
    )


def node_order(topology: CpuTopology, available: CpuSet) -> Groups:
    """The NUMA nodes with free CPUs in the order in which the allocator prefers them."""
    return tuple(dict.fromkeys(_Accumulator(topology, available.mask, 0).nodes()))


class _Accumulator:
    """One run of the packed allocator: what is still free, what was taken, and how many CPUs are still needed."""

    __slots__ = ("compat", "free", "need", "result", "steps", "strategy", "topology")

    def __init__(self, topology: CpuTopology, free: int, need: int, *, strategy: Strategy = "packed", compat: Compat = "fixed") -> None:
        self.topology = topology
        self.free = free
        self.need = need
        self.strategy = strategy
        self.compat = compat
        self.result = 0
        self.steps: list[Step] = []

    def run(self, *, prefer_uncore: bool) -> Taken | Refusal:
        chapters: list[Callable[[], None]] = [self._take_nodes, self._take_sockets]
        if not self._nodes_first:
            chapters.reverse()
        if self.strategy == "packed":
            chapters += [self._take_uncores, self._take_cores] if prefer_uncore else [self._take_cores]
        chapters.append(self._take_rest)
        for chapter in chapters:
            chapter()
            if self.satisfied():
                return Taken(cpus=CpuSet(self.result), steps=tuple(self.steps))
        return Refusal(message="failed to allocate cpus")

    def satisfied(self) -> bool:
        """Whether enough was taken."""
        return self.need < 1

    def failed(self) -> bool:
        """Whether what is free can no longer be enough."""
        return self.need > self.free.bit_count()

    def take(self, mask: int, rule: str = "") -> None:
        self.result |= mask
        self.free &= ~mask
        self.need -= mask.bit_count()
        self.steps.append(Step(cpus=CpuSet(mask), rule=rule))

    # Orders: by (free CPUs of the whole group, id), recomputed from what is free whenever they are asked for.

    @property
    def _nodes_first(self) -> bool:
        return self.topology.num_sockets >= self.topology.num_nodes

    def _key(self, group: Group) -> tuple[int, int]:
        return ((group.mask & self.free).bit_count(), group.id)

    def _sorted(self, groups: Iterable[Group]) -> list[Group]:
        free = self.free
        return sorted((group for group in groups if group.mask & free), key=self._key)

    def _sorted_within(self, parents: Iterable[Group], children: Children) -> list[Group]:
        free = self.free
        ordered: list[Group] = []
        for parent in parents:
            ordered += sorted((child for child, common in children[parent.id] if common & free), key=self._key)
        return ordered

    def nodes(self) -> list[Group]:
        if self._nodes_first:
            return self._sorted(self.topology.nodes)
        return self._sorted_within(self.sockets(), self.topology.nodes_of_socket)

    def sockets(self) -> list[Group]:
        if self._nodes_first:
            return self._sorted_within(self.nodes(), self.topology.sockets_of_node)
        return self._sorted(self.topology.sockets)

    def cores(self) -> list[Group]:
        if self._nodes_first:
            return self._sorted_within(self.sockets(), self.topology.cores_of_socket)
        return self._sorted_within(self.nodes(), self.topology.cores_of_node)

    def uncores(self) -> list[Group]:
        return self._sorted_within(self.nodes(), self.topology.uncores_of_node)

    def cpus(self) -> list[int]:
        """Free CPU numbers in the order in which single ones are handed out; one may appear twice where a group spans two parents."""
        groups = self.cores() if self.strategy == "packed" else self.sockets()
        return [cpu for group in groups for cpu in CpuSet(group.mask & self.free)]

    # "Completely free": nodes and L3 groups by their own size, sockets and cores by the machine-wide average.

    def free_nodes(self) -> list[Group]:
        return [node for node in self.nodes() if not node.mask & ~self.free]

    def free_uncores(self) -> list[Group]:
        return [uncore for uncore in self.uncores() if not uncore.mask & ~self.free]

    def free_sockets(self) -> list[Group]:
        return self._free_by_average(self.sockets(), self.topology.cpus_per_socket)

    def free_cores(self) -> list[Group]:
        return self._free_by_average(self.cores(), self.topology.cpus_per_core)

    def _free_by_average(self, groups: Iterable[Group], average: int) -> list[Group]:
        free = self.free
        return [group for group in groups if (group.mask & free).bit_count() == average]

    # The chapters, in the kubelet's order.

    def _walk(self, groups: Iterable[Group], rule: str) -> None:
        for group in groups:
            if self._was_taken(group.mask):
                continue
            if self.need >= group.mask.bit_count():
                self.take(group.mask, f"{rule} {group.id}")

    def _was_taken(self, mask: int) -> bool:
        """Whether a listed group is not all free: uneven machines, or a group that spans two parents and is listed twice.

        The kubelet does not look; it then hands out CPUs that are in use, or counts CPUs twice.
        """
        return self.compat != "1.36" and bool(mask & ~self.free)

    def _take_nodes(self) -> None:
        self._walk(self.free_nodes(), "whole NUMA node")

    def _take_sockets(self) -> None:
        self._walk(self.free_sockets(), "whole socket")

    def _take_uncores(self) -> None:
        for uncore in self.uncores():
            if self.need >= self.topology.cpus_per_uncore:
                self._walk(self.free_uncores(), "whole L3 group")
            if self.satisfied():
                return
            self._take_part_of_uncore(uncore)
            if self.satisfied():
                return

    def _take_part_of_uncore(self, uncore: Group) -> None:
        per_core = self.topology.cpus_per_core
        if not per_core:
            return
        wanted = -(-self.need // per_core)
        inside = uncore.mask & self.free
        part = chosen = 0
        for core in self.topology.cores:
            if core.mask & inside:
                part |= core.mask & self.free
                chosen += 1
                if chosen == wanted:
                    break
        if self.need % SMT_PAIR and per_core > 1 and part.bit_count() > self.need:
            part ^= 1 << (part.bit_length() - 1)
        if part.bit_count() == self.need:
            self.take(part, f"within L3 group {uncore.id}")

    def _take_cores(self) -> None:
        self._walk(self.free_cores(), "whole core")

    def _take_rest(self) -> None:
        for cpu in self.cpus():
            if self._was_taken(1 << cpu):
                continue
            self.take(1 << cpu, "single thread" if self.strategy == "packed" else "by CPU number")
            if self.satisfied():
                return
