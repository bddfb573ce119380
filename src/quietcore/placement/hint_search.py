"""Search in described hints on machines with too many NUMA nodes to list every mask.

A mask c is the intersection of one member of each family exactly when the nodes outside c can be shared out, each to one
family that does without it. A family can do without as much as it has beyond its demands, so the question is one of packing.
Both searches walk the masks of one size by ascending value and cut off what cannot be completed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_, or_
from typing import Final, TypeAlias

from quietcore.placement.hints import Demand, Hint, HintFamily, Hints, NumaInfo, fewest_nodes, mask_of, nodes_of

LISTABLE_NODES: Final = 10
"""Up to this many nodes a family is listed: 1,023 masks cost less than a search."""

CLOSEST_STEPS: Final = 2_000
"""The closest nodes of a given number are a problem without a quick exact answer: after so many steps the best so far stands."""

Completable: TypeAlias = Callable[[int, int, int], bool]
"""(kept, below, more): whether `more` of the first `below` nodes could be added to the mask `kept`. May err towards yes, except
when there is nothing to add."""
_Slack: TypeAlias = tuple[tuple[int, ...], ...]


def narrowest_member(family: HintFamily, superset_of: int = 0) -> int | None:
    """The member with the fewest nodes and, among those, the lowest value that contains the given mask; None without one."""
    asked = replace(family, must=family.must | superset_of, points=tuple(p for p in family.points if not superset_of & ~p))
    if family.within.bit_count() <= LISTABLE_NODES:
        return min(asked.masks(), key=lambda mask: (mask.bit_count(), mask), default=None)
    best = _smallest_cover(asked)
    return min((*asked.points, *(() if best is None else (best,))), key=lambda mask: (mask.bit_count(), mask), default=None)


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
    agreed = {mask & numa.all_mask for mask in candidates if all(_prefers(one, mask) for one in strict)} - {0}
    if len(families) == len(strict):
        together = _best_common_cover(numa, families)
        agreed |= set() if together is None else {together}
    return min(agreed, key=numa.fit, default=None)


def best_reachable(numa: NumaInfo, dimensions: Sequence[Hints], sizes: Iterable[int]) -> int | None:
    """The best intersection of one member of each dimension with the first of the given sizes that has any; None without one."""
    combinations = _combinations(numa, dimensions)
    packings = [(nodes_of(base), _Packing.of(nodes_of(base), families)) for base, families in combinations]
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
    return next(_walk(nodes, len(nodes), size, 0, completable), None)


def _best_of_size(numa: NumaInfo, nodes: Sequence[int], size: int, completable: Completable) -> int | None:
    if not numa.prefer_closest:
        return _first_of_size(nodes, size, completable)
    nearest = min((numa.distances[a][b] for a in nodes for b in nodes if a != b), default=0)
    best: int | None = None
    best_sum = steps = 0

    def worthwhile(kept: int, below: int, more: int) -> bool:
        nonlocal steps
        steps += 1
        if best is not None and steps > CLOSEST_STEPS:
            return False
        if best is not None:  # what comes later has a higher value: it must be strictly closer
            chosen = nodes_of(kept)
            to_chosen = sorted(
                numa.distances[node][node] + sum(numa.distances[node][other] + numa.distances[other][node] for other in chosen)
                for node in nodes[:below]
            )
            if numa.distance_sum(kept) + sum(to_chosen[:more]) + more * (more - 1) * nearest >= best_sum:
                return False
        return completable(kept, below, more)

    for mask in _walk(nodes, len(nodes), size, 0, worthwhile):
        total = numa.distance_sum(mask)
        if best is None or total < best_sum:
            best, best_sum = mask, total
    return best


class _Cover:
    """Masks that contain some nodes and meet every demand."""

    def __init__(self, nodes: Sequence[int], must: int, demands: Sequence[Demand]) -> None:
        self.must = must
        self.nodes = nodes
        self.rows = [([demand.amounts.get(node, 0) for node in nodes], demand) for demand in demands]
        self.tops: dict[tuple[int, int], list[int]] = {}

    def completable(self, kept: int, below: int, more: int) -> bool:
        """By the largest amounts below, demand by demand: exact when nothing is added."""
        missing = self.must & ~kept
        if missing.bit_count() > more or missing & ~mask_of(self.nodes[:below]):
            return False
        chosen = nodes_of(kept)
        return all(
            sum(demand.amounts.get(node, 0) for node in chosen) + sum(self._largest(row, below)[:more]) >= demand.wanted
            for row, (_, demand) in enumerate(self.rows)
        )

    def _largest(self, row: int, below: int) -> list[int]:
        if (row, below) not in self.tops:
            self.tops[row, below] = sorted(self.rows[row][0][:below], reverse=True)
        return self.tops[row, below]


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
    if isinstance(dimension, HintFamily):
        return {point & numa.all_mask for point in dimension.points}
    return {numa.all_mask if hint.mask is None else hint.mask & numa.all_mask for hint in dimension}


@dataclass(frozen=True, slots=True)
class _Packing:
    """Which nodes can be left out of an intersection: each goes to one family ("bin") that does without it.

    `spare` holds, per bin, what the family has beyond each of its demands; `weights` what each node would take from it, None
    where the family cannot do without the node.
    """

    nodes: tuple[int, ...]
    spare: _Slack
    weights: tuple[tuple[tuple[int, ...] | None, ...], ...]

    @classmethod
    def of(cls, nodes: tuple[int, ...], families: Sequence[HintFamily]) -> _Packing:
        spare = tuple(
            tuple(sum(demand.amounts.get(node, 0) for node in nodes_of(family.within)) - demand.wanted for demand in family.demands)
            for family in families
        )
        weights = tuple(
            tuple(
                None if family.must >> node & 1 else tuple(demand.amounts.get(node, 0) for demand in family.demands) for family in families
            )
            for node in nodes
        )
        return cls(nodes, spare, weights)

    def completable(self, kept: int, below: int, more: int) -> bool:
        """Whether all nodes above that are not kept, and all but `more` of those below, can be left out together. Exact."""
        gone = [weights for node, weights in zip(self.nodes[below:], self.weights[below:], strict=True) if not kept >> node & 1]
        return self._fits(gone, list(self.weights[:below]), below - more)

    def _fits(self, forced: list[tuple[tuple[int, ...] | None, ...]], choice: list[tuple[tuple[int, ...] | None, ...]], need: int) -> bool:
        """Whether all of `forced` and `need` of `choice` can be shared out among the bins."""
        options = [[bin_ for bin_, weight in enumerate(node) if weight is not None] for node in forced]
        if not all(options):
            return False
        forced = [node for node in forced if not _is_free(node)]
        need -= sum(1 for node in choice if _is_free(node))
        choice = [node for node in choice if not _is_free(node) and any(weight is not None for weight in node)]
        if need > len(choice):
            return False
        if not forced and need <= 0:
            return True
        cheapest = sorted(choice, key=self._share)
        some = cheapest[: max(need, 0)]
        if sum(map(self._share, forced)) + sum(map(self._share, some)) > len(self.spare) + 1e-9:
            return False
        return self._greedy([*forced, *some]) or self._exact(forced, choice, max(need, 0))

    def _share(self, node: tuple[tuple[int, ...] | None, ...]) -> float:
        """A lower bound on the part of one bin that a node takes, whichever bin it goes to."""
        parts = [
            max((_part(amount, room) for amount, room in zip(weight, spare[:1], strict=False)), default=0.0)
            for weight, spare in zip(node, self.spare, strict=True)
            if weight is not None
        ]
        return min(parts, default=float("inf"))

    def _greedy(self, nodes: list[tuple[tuple[int, ...] | None, ...]]) -> bool:
        spare = list(self.spare)
        for node in sorted(nodes, key=self._share, reverse=True):
            rooms = [(bin_, _less(spare[bin_], weight)) for bin_, weight in enumerate(node) if weight is not None]
            fitting = [
                (min((left / (full or 1) for left, full in zip(room, self.spare[bin_], strict=True)), default=1.0), bin_, room)
                for bin_, room in rooms
                if room is not None
            ]
            if not fitting:
                return False
            _, chosen, room = max(fitting, key=lambda one: (one[0], -one[1]))
            spare[chosen] = room
        return True

    def _exact(self, forced: list[tuple[tuple[int, ...] | None, ...]], choice: list[tuple[tuple[int, ...] | None, ...]], need: int) -> bool:
        """Every way to share out, keeping only what is not worse than another way in every respect."""
        states: dict[int, set[_Slack]] = {0: {self.spare}}
        for node in forced:
            states = {0: _undominated(after for spare in states[0] for after in _placed(spare, node))}
        for index, node in enumerate(choice):
            after: dict[int, set[_Slack]] = {}
            for count, spares in states.items():
                if count + len(choice) - index > need:  # the rest is enough without this one
                    after.setdefault(count, set()).update(spares)
                after.setdefault(count + 1, set()).update(new for spare in spares for new in _placed(spare, node))
            if after.get(need):
                return True
            states = {count: _undominated(spares) for count, spares in after.items() if spares}
        return bool(states.get(need))


def _is_free(node: tuple[tuple[int, ...] | None, ...]) -> bool:
    return any(weight is not None and not any(weight) for weight in node)


def _part(amount: int, room: int) -> float:
    if not amount:
        return 0.0
    return amount / room if room else float("inf")


def _less(spare: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...] | None:
    left = tuple(room - amount for room, amount in zip(spare, weight, strict=True))
    return left if all(room >= 0 for room in left) else None


def _placed(spare: _Slack, node: tuple[tuple[int, ...] | None, ...]) -> Iterator[_Slack]:
    for bin_, weight in enumerate(node):
        room = None if weight is None else _less(spare[bin_], weight)
        if room is not None:
            yield (*spare[:bin_], room, *spare[bin_ + 1 :])


def _undominated(spares: Iterable[_Slack]) -> set[_Slack]:
    """The states that no other state equals or exceeds in every room."""
    kept: list[tuple[tuple[int, ...], _Slack]] = []
    for spare in sorted(set(spares), reverse=True):
        flat = tuple(room for rooms in spare for room in rooms)
        if not any(all(a >= b for a, b in zip(other, flat, strict=True)) for other, _ in kept):
            kept.append((flat, spare))
    return {spare for _, spare in kept}
