"""Search in described hints on machines with too many NUMA nodes to list every mask.

A preferred mask must be a member of every family; any other answer is an intersection of members, which `hint_packing` tells.
Both searches walk the masks of one size by ascending value and cut off what cannot be completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import reduce
from itertools import combinations
from operator import and_, or_
from typing import Final, TypeAlias

from quietcore.placement.hint_packing import Packing
from quietcore.placement.hints import Demand, Hint, HintFamily, Hints, NumaInfo, fewest_nodes, mask_of, nodes_of

LISTABLE_NODES: Final = 10
"""Up to this many nodes a family is listed: 1,023 masks cost less than a search."""

STEPS: Final = 2_000
"""Steps of a walk through the masks of one size. Several tight demands at once, and the closest of many nodes, are problems
without a quick exact answer: when the steps are used up the best mask so far stands, or the size counts as impossible."""

Completable: TypeAlias = Callable[[int, int, int], bool]
"""(kept, below, more): whether `more` of the first `below` nodes could be added to the mask `kept`. May err towards yes only while
there is something to add."""


def narrowest_member(family: HintFamily, superset_of: int = 0) -> int | None:
    """The member with the fewest nodes and, among those, the lowest value that contains the given mask; None without one."""
    asked = replace(family, must=family.must | superset_of, points=tuple(p for p in family.points if not superset_of & ~p))
    single = next((mask for mask in single_nodes(asked) if mask in asked), None)
    if single is not None:
        return single
    if family.within.bit_count() <= LISTABLE_NODES:
        return min(asked.masks(), key=lambda mask: (mask.bit_count(), mask), default=None)
    best = _smallest_cover(asked)
    return min((*asked.points, *(() if best is None else (best,))), key=lambda mask: (mask.bit_count(), mask), default=None)


def single_nodes(family: HintFamily) -> Iterator[int]:
    """The masks of one node that could be members, ascending."""
    everywhere = reduce(or_, family.points, family.within)
    while everywhere:
        lowest = everywhere & -everywhere
        yield lowest
        everywhere ^= lowest


def fewest_for_all(demands: Sequence[Demand], nodes: Sequence[int]) -> int | None:
    """How many of the nodes meet all demands together at the least; None when all of them do not. `nodes` ascend."""
    mask = narrowest_member(HintFamily(within=mask_of(nodes), demands=tuple(demands)))
    return None if mask is None else mask.bit_count()


def best_preferred(numa: NumaInfo, dimensions: Sequence[Hints]) -> int | None:
    """The best mask that every dimension has among its preferred hints; None when they agree on none."""
    strict = [one for one in dimensions if isinstance(one, HintFamily) or not any(h.preferred and h.mask is None for h in one)]
    listed = [h.mask for one in dimensions if not isinstance(one, HintFamily) for h in one if h.preferred and h.mask]
    if not strict:
        return min((mask for mask in (*(mask & numa.all_mask for mask in listed), numa.all_mask) if mask), key=numa.fit)
    families = [one for one in strict if isinstance(one, HintFamily)]
    candidates = {*listed, *(point for family in families for point in family.points)}
    everything = numa.all_mask
    agreed = {mask & everything for mask in candidates if all(_prefers(one, mask) for one in strict)} - {0}
    if len(families) == len(strict):
        together = _best_common_cover(numa, families)
        agreed |= set() if together is None else {together}
    return min(agreed, key=numa.fit, default=None)


def best_reachable(numa: NumaInfo, dimensions: Sequence[Hints], sizes: Iterable[int]) -> int | None:
    """The best intersection of one member of each dimension with the first of the given sizes that has any; None without one."""
    ways = _combinations(numa, dimensions)
    packings = [(nodes_of(base), Packing(nodes_of(base), families)) for base, families in ways]
    for size in sizes:
        found = [_best_of_size(numa, nodes, size, packing.completable) for nodes, packing in packings if len(nodes) >= size]
        masks = [mask for mask in found if mask is not None]
        if masks:
            return min(masks, key=numa.fit)
    return None


def narrowest_hint(dimension: Hints) -> int:
    """The node count of a dimension's smallest hint; 0 when none has nodes."""
    if isinstance(dimension, HintFamily):
        return (narrowest_member(dimension) or 0).bit_count()
    return min((hint.mask.bit_count() for hint in dimension if hint.mask is not None), default=0)


def _prefers(dimension: Hints, mask: int) -> bool:
    if isinstance(dimension, HintFamily):
        return dimension.prefers(mask) and mask in dimension
    return Hint(mask=mask, preferred=True) in dimension


def _best_common_cover(numa: NumaInfo, families: Sequence[HintFamily]) -> int | None:
    """The best mask that is preferred and no point in any of the families."""
    within = reduce(and_, (family.within for family in families))
    must = reduce(or_, (family.must for family in families))
    if must & ~within:
        return None
    unique = {id(demand): demand for family in families for demand in family.demands}
    nodes = nodes_of(within)
    cover = _Cover(nodes, must, tuple(unique.values()))
    fixed = {family.preferred_size for family in families if not family.preferred_sockets}
    completable = _preferred_by_all(families, cover)
    masks = (_best_of_size(numa, nodes, size, completable) for size in range(1, len(nodes) + 1) if fixed <= {size})
    return next((mask for mask in masks if mask is not None), None)


def _preferred_by_all(families: Sequence[HintFamily], cover: _Cover) -> Completable:
    aligned = [family for family in families if family.preferred_sockets]

    def completable(kept: int, below: int, more: int) -> bool:
        if not more and not all(family.prefers(kept) for family in aligned):
            return False
        size = kept.bit_count() + more
        return cover.completable(kept, below, more) and all(
            size == family.preferred_size or sum(1 for socket in family.sockets if socket & kept) <= family.preferred_sockets
            for family in aligned  # a mask touches only ever more sockets on the way
        )

    return completable


def _smallest_cover(family: HintFamily) -> int | None:
    nodes = nodes_of(family.within)
    amounts = [{node: demand.amounts.get(node, 0) for node in nodes} for demand in family.demands]
    least = [fewest_nodes(known, demand.wanted) for known, demand in zip(amounts, family.demands, strict=True)]
    if None in least or family.must & ~family.within:
        return None
    cover = _Cover(nodes, family.must, family.demands)
    start = max(1, family.must.bit_count(), *(count for count in least if count is not None))
    masks = (_first_of_size(nodes, size, cover.completable) for size in range(start, len(nodes) + 1))
    return next((mask for mask in masks if mask is not None), None)


def _walk(nodes: Sequence[int], below: int, more: int, kept: int, completable: Completable) -> Iterator[int]:
    """The masks made of `kept` and `more` of the first `below` nodes, by ascending value."""
    if not more:
        yield kept
        return
    for highest in range(more - 1, below):
        chosen = kept | 1 << nodes[highest]
        if completable(chosen, highest, more - 1):
            yield from _walk(nodes, highest, more - 1, chosen, completable)


def _first_of_size(nodes: Sequence[int], size: int, completable: Completable) -> int | None:
    if not completable(0, len(nodes), size):
        return None
    return next(_walk(nodes, len(nodes), size, 0, _limited(completable)), None)


def _limited(completable: Completable) -> Completable:
    steps = 0

    def limited(kept: int, below: int, more: int) -> bool:
        nonlocal steps
        steps += 1
        return steps <= STEPS and completable(kept, below, more)

    return limited


def _best_of_size(numa: NumaInfo, nodes: Sequence[int], size: int, completable: Completable) -> int | None:
    if not numa.prefer_closest:
        return _first_of_size(nodes, size, completable)
    if not completable(0, len(nodes), size):
        return None
    nearest = min((numa.distances[a][b] for a in nodes for b in nodes if a != b), default=0)
    best: int | None = None
    best_sum = 0

    def worthwhile(kept: int, below: int, more: int) -> bool:
        if best is not None:  # what comes later has a higher value: it must be strictly closer
            chosen = nodes_of(kept)
            to_chosen = sorted(
                numa.distances[node][node] + sum(numa.distances[node][other] + numa.distances[other][node] for other in chosen)
                for node in nodes[:below]
            )
            if numa.distance_sum(kept) + sum(to_chosen[:more]) + more * (more - 1) * nearest >= best_sum:
                return False
        return completable(kept, below, more)

    for mask in _walk(nodes, len(nodes), size, 0, _limited(worthwhile)):
        total = numa.distance_sum(mask)
        if best is None or total < best_sum:
            best, best_sum = mask, total
    return best


class _Cover:
    """Masks that contain some nodes and meet every demand."""

    def __init__(self, nodes: Sequence[int], must: int, demands: Sequence[Demand]) -> None:
        self.must = must
        self.nodes = nodes
        self.demands = (*demands, *(_both(nodes, one, other) for one, other in combinations(demands, 2)))
        self.tops: dict[tuple[int, int], list[int]] = {}

    def completable(self, kept: int, below: int, more: int) -> bool:
        """By the largest amounts below, demand by demand: exact when nothing is added."""
        missing = self.must & ~kept
        if missing.bit_count() > more or missing & ~mask_of(self.nodes[:below]):
            return False
        chosen = nodes_of(kept)
        return all(
            sum(demand.amounts.get(node, 0) for node in chosen) + sum(self._largest(index, below)[:more]) >= demand.wanted
            for index, demand in enumerate(self.demands)
        )

    def _largest(self, index: int, below: int) -> list[int]:
        if (index, below) not in self.tops:
            amounts = self.demands[index].amounts
            self.tops[index, below] = sorted((amounts.get(node, 0) for node in self.nodes[:below]), reverse=True)
        return self.tops[index, below]


def _both(nodes: Sequence[int], one: Demand, other: Demand) -> Demand:
    """What follows from two demands together, weighted alike: it cuts off what could meet either but not both."""
    left, right = max(other.wanted, 1), max(one.wanted, 1)
    amounts = {node: left * one.amounts.get(node, 0) + right * other.amounts.get(node, 0) for node in nodes}
    return Demand(amounts=amounts, wanted=left * one.wanted + right * other.wanted)


def _combinations(numa: NumaInfo, dimensions: Sequence[Hints]) -> list[tuple[int, tuple[HintFamily, ...]]]:
    """Every way to take a listed mask, any node, or "some member" from each dimension: (largest intersection, the families)."""
    ways: dict[tuple[int, tuple[int, ...]], tuple[HintFamily, ...]] = {(numa.all_mask, ()): ()}
    for dimension in sorted(dimensions, key=lambda one: isinstance(one, HintFamily)):
        after: dict[tuple[int, tuple[int, ...]], tuple[HintFamily, ...]] = {}
        for (base, ids), families in ways.items():
            for mask in _listed(numa, dimension):
                if base & mask:
                    after[base & mask, ids] = families
            if isinstance(dimension, HintFamily) and base & dimension.within and dimension.within in replace(dimension, points=()):
                after[base & dimension.within, (*ids, id(dimension))] = (*families, dimension)
        ways = after
    return [(base, families) for (base, _), families in sorted(ways.items(), key=lambda way: way[0][0])]


def _listed(numa: NumaInfo, dimension: Hints) -> set[int]:
    everything = numa.all_mask
    if isinstance(dimension, HintFamily):
        return {point & everything for point in dimension.points}
    return {everything if hint.mask is None else hint.mask & everything for hint in dimension}
