"""Topology hints: which NUMA nodes a resource could come from, listed one by one or described as a whole.

A node set is an integer here, bit n for node n, as in the kubelet; `None` stands for "any node".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from types import MappingProxyType
from typing import TypeAlias

from quietcore.errors import InputError, Problem
from quietcore.model import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """One possible set of nodes, and whether it is as small as it could ever be."""

    mask: int | None
    preferred: bool

    @property
    def nodes(self) -> tuple[int, ...] | None:
        """The nodes in ascending order; None for "any node"."""
        return None if self.mask is None else nodes_of(self.mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """An amount of something that the nodes of a mask must have together; a node that is not named has none."""

    amounts: Mapping[int, int]
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HintFamily:
    """All hints of one resource, described instead of listed: there may be 2^64 of them.

    Members are the non-empty masks inside `within` that contain `must` and meet every demand, and the masks of `points` as
    they are. A member is preferred when it has `preferred_size` nodes, or when it touches `preferred_sockets` (if not 0) of
    the sockets whose nodes `sockets` lists (align-by-socket).
    """

    within: int
    demands: tuple[Demand, ...]
    must: int = 0
    points: tuple[int, ...] = ()
    preferred_size: int = 0
    sockets: tuple[int, ...] = ()
    preferred_sockets: int = 0

    def __contains__(self, mask: int) -> bool:
        """Whether the mask is a member."""
        if mask in self.points:
            return True
        if not mask or mask & ~self.within or self.must & ~mask:
            return False
        return all(sum(demand.amounts.get(node, 0) for node in nodes_of(mask)) >= demand.wanted for demand in self.demands)

    def prefers(self, mask: int) -> bool:
        """Whether a member is preferred."""
        if mask.bit_count() == self.preferred_size:
            return True
        return bool(self.preferred_sockets) and sum(1 for socket in self.sockets if socket & mask) == self.preferred_sockets

    def masks(self) -> Iterator[int]:
        """Every member, ascending by value. Takes time and memory exponential in the nodes of `within`."""
        nodes = nodes_of(self.within)
        values = subset_sums([1 << node for node in nodes])
        enough = [True] * len(values)
        for demand in self.demands:
            sums = subset_sums([demand.amounts.get(node, 0) for node in nodes])
            enough = [ok and total >= demand.wanted for ok, total in zip(enough, sums, strict=True)]
        must = self.must
        inside = [value for ok, value in zip(enough, values, strict=True) if ok and value and not must & ~value]
        yield from sorted({*inside, *self.points}) if self.points else inside

    def hints(self) -> tuple[Hint, ...]:
        """Every member in the kubelet's order of enumeration. Exponential, like `masks`."""
        return tuple(Hint(mask=mask, preferred=self.prefers(mask)) for mask in sorted(self.masks(), key=enumeration_key))


Hints: TypeAlias = Sequence[Hint] | HintFamily
"""The hints of one resource. An empty sequence means "cannot be satisfied"."""
ProviderHints: TypeAlias = Mapping[str, Hints | None] | None
"""What one provider says for a container or pod: resource -> hints; None or an empty mapping means "no opinion"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NumaInfo:
    """The nodes that the Topology Manager knows, ascending, and their distances (row -> column -> ACPI distance)."""

    nodes: tuple[int, ...]
    distances: Mapping[int, Mapping[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    prefer_closest: bool = False

    def __post_init__(self) -> None:
        if list(self.nodes) != sorted(set(self.nodes)) or not self.nodes or self.nodes[0] < 0:
            raise InputError.of((Problem(field="nodes", message=f"{self.nodes} are not NUMA node ids, once each in ascending order"),))
        if self.prefer_closest and any(other not in self.distances.get(node, {}) for node in self.nodes for other in self.nodes):
            raise InputError.of(
                (
                    Problem(
                        field="prefer-closest-numa-nodes",
                        message="cannot discover NUMA topology: error getting NUMA distances from cadvisor",
                        hint="give every node of the machine its distances, or switch the option off",
                    ),
                )
            )

    @classmethod
    def of(cls, machine: Machine, *, prefer_closest: bool = False) -> NumaInfo:
        """The nodes of a machine. Raises InputError when the closest nodes are asked for and distances are missing."""
        distances = MappingProxyType({node.node: node.distances for node in machine.nodes})
        return cls(nodes=tuple(node.node for node in machine.nodes), distances=distances, prefer_closest=prefer_closest)

    @property
    def all_mask(self) -> int:
        """Every node."""
        return mask_of(self.nodes)

    def distance_sum(self, mask: int) -> int:
        """The sum over all ordered pairs of nodes, a node with itself included.

        The kubelet divides it by the square of the count; among masks of one size the order is the same.
        """
        nodes = nodes_of(mask)
        return sum(self.distances[row][column] for row in nodes for column in nodes)

    def fit(self, mask: int) -> tuple[int, int, int]:
        """The sort key of masks that are otherwise equally good: fewer nodes, (closer together,) lower value."""
        return mask.bit_count(), self.distance_sum(mask) if self.prefer_closest else 0, mask


def mask_of(nodes: Iterable[int]) -> int:
    """The mask of some nodes."""
    mask = 0
    for node in nodes:
        mask |= 1 << node
    return mask


def nodes_of(mask: int) -> tuple[int, ...]:
    """The nodes of a mask, ascending."""
    nodes = []
    while mask:
        lowest = mask & -mask
        nodes.append(lowest.bit_length() - 1)
        mask ^= lowest
    return tuple(nodes)


def narrower(one: int, other: int) -> bool:
    """Whether one mask has fewer nodes or, with equally many, the lower value."""
    return (one.bit_count(), one) < (other.bit_count(), other)


def enumeration_key(mask: int) -> tuple[int, tuple[int, ...]]:
    """The kubelet's order of enumeration: by size, then lexicographic by ascending node."""
    nodes = nodes_of(mask)
    return len(nodes), nodes


def masks_of_size(nodes: Sequence[int], size: int) -> Iterator[int]:
    """The masks of one size in the kubelet's order; `nodes` ascend."""
    return (mask_of(chosen) for chosen in combinations(nodes, size))


def subset_sums(amounts: Sequence[int]) -> list[int]:
    """The sum of every subset: entry m adds the amounts whose positions are the bits of m."""
    sums = [0]
    for amount in amounts:
        sums += [amount + total for total in sums]
    return sums


def fewest_nodes(amounts: Mapping[int, int], wanted: int) -> int | None:
    """How many of the largest nodes reach the wanted amount, at least one; None when all of them together do not."""
    total = 0
    for count, amount in enumerate(sorted(amounts.values(), reverse=True), 1):
        total += amount
        if total >= wanted:
            return count
    return None
