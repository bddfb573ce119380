"""Which NUMA nodes an intersection of hints can leave out: each must be one that some family can do without.

A family can do without nodes as long as what it has beyond its demands lasts, so this is the packing of nodes into families.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias

from quietcore.placement.hints import HintFamily, nodes_of

WORK: Final = 200_000
"""Comparisons that one machine's question may cost; real machines, whose nodes are much alike, need a few hundred."""
_CROWD: Final = 64
"""From this many ways on it pays to look for ways that are no better than another."""
_Node: TypeAlias = tuple[tuple[int, ...] | None, ...]
"""What one node would take from each family, per demand; None where a family cannot do without the node."""
_Spare: TypeAlias = tuple[tuple[int, ...], ...]


class Packing:
    """The nodes of the largest possible intersection, ascending, and the families that share out what is left out of it."""

    def __init__(self, nodes: tuple[int, ...], families: Sequence[HintFamily]) -> None:
        self.nodes = nodes
        self.spare: _Spare = tuple(
            tuple(sum(demand.amounts.get(node, 0) for node in nodes_of(family.within)) - demand.wanted for demand in family.demands)
            for family in families
        )
        self.weights: tuple[_Node, ...] = tuple(
            tuple(
                None if family.must >> node & 1 else tuple(demand.amounts.get(node, 0) for demand in family.demands) for family in families
            )
            for node in nodes
        )
        self.work = WORK

    def completable(self, kept: int, below: int, more: int) -> bool:
        """Whether all nodes above that are not kept, and all but `more` of those below, can be left out together.

        A question that costs too much counts as yes while there is something to add, and as no for a finished mask.
        """
        gone = [weights for node, weights in zip(self.nodes[below:], self.weights[below:], strict=True) if not kept >> node & 1]
        fits = self._fits(gone, self.weights[:below], below - more)
        return fits is True or (fits is None and more > 0)

    def _fits(self, forced: Sequence[_Node], choice: Sequence[_Node], need: int) -> bool | None:
        """Whether all of `forced` and `need` of `choice` can be shared out; None when that could not be settled."""
        if any(all(weight is None for weight in node) for node in forced):
            return False
        forced = [node for node in forced if not _is_free(node)]
        need = max(need - sum(1 for node in choice if _is_free(node)), 0)
        choice = [node for node in choice if not _is_free(node) and any(weight is not None for weight in node)]
        if need > len(choice):
            return False
        if not forced and not need:
            return True
        cheapest = sorted(choice, key=self._share)[:need]
        if sum(map(self._share, (*forced, *cheapest))) > len(self.spare) + 1e-9:
            return False
        return self._greedy([*forced, *cheapest]) or self._every_way(forced, choice, need)

    def _share(self, node: _Node) -> float:
        """At least this part of one family's first spare amount goes to the node, whichever family that is."""
        parts = (_part(weight[0], spare[0]) for weight, spare in zip(node, self.spare, strict=True) if weight is not None)
        return min(parts, default=float("inf"))

    def _greedy(self, nodes: Sequence[_Node]) -> bool:
        """The largest nodes first, each where most is left afterwards."""
        spare = list(self.spare)
        for node in sorted(nodes, key=self._share, reverse=True):
            rooms = [(family, _less(spare[family], weight)) for family, weight in enumerate(node) if weight is not None]
            fitting = [
                (min(_part(left, full) for left, full in zip(room, self.spare[family], strict=True)), -family, room)
                for family, room in rooms
                if room is not None
            ]
            if not fitting:
                return False
            _, family, room = max(fitting)
            spare[-family] = room
        return True

    def _every_way(self, forced: Sequence[_Node], choice: Sequence[_Node], need: int) -> bool | None:
        """Try every way to share out, without those that are no better than another in any respect."""
        states: dict[int, set[_Spare]] = {0: {self.spare}}
        for node in forced:
            states = {0: self._undominated({after for spare in states[0] for after in _placed(spare, node)})}
        for index, node in enumerate(choice):
            after: dict[int, set[_Spare]] = {}
            for count, spares in states.items():
                if count + len(choice) - index > need:  # the rest is enough without this one
                    after.setdefault(count, set()).update(spares)
                after.setdefault(count + 1, set()).update(new for spare in spares for new in _placed(spare, node))
            if after.get(need):
                return True
            states = {count: self._undominated(spares) for count, spares in after.items() if spares}
            if self.work <= 0:
                return None
        return None if self.work <= 0 else bool(states.get(need))

    def _undominated(self, spares: set[_Spare]) -> set[_Spare]:
        self.work -= len(spares)
        if len(spares) < _CROWD:
            return spares
        kept: list[tuple[int, ...]] = []
        best: set[_Spare] = set()
        for spare in sorted(spares, reverse=True):
            if self.work <= 0:
                return best
            flat = tuple(room for rooms in spare for room in rooms)
            self.work -= len(kept)
            if not any(all(map(int.__ge__, other, flat)) for other in kept):
                kept.append(flat)
                best.add(spare)
        return best


def _is_free(node: _Node) -> bool:
    return any(weight is not None and not any(weight) for weight in node)


def _part(amount: int, room: int) -> float:
    if not amount:
        return 0.0
    return amount / room if room else float("inf")


def _less(spare: tuple[int, ...], weight: tuple[int, ...]) -> tuple[int, ...] | None:
    left = tuple(room - amount for room, amount in zip(spare, weight, strict=True))
    return left if all(room >= 0 for room in left) else None


def _placed(spare: _Spare, node: _Node) -> Iterator[_Spare]:
    for family, weight in enumerate(node):
        room = None if weight is None else _less(spare[family], weight)
        if room is not None:
            yield (*spare[:family], room, *spare[family + 1 :])
