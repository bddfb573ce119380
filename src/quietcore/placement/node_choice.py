"""Which NUMA nodes share a distributed request, in polynomial time: the kubelet's search visits every subset of every subset.

The kubelet walks all k-subsets of the nodes and, for each, all subsets of members that may take the remainder in turns, and keeps
the first of least imbalance. Here is why the same answer needs no walk. For one k every node of a choice gives the same share
d, so the sum of what stays free is constant and the imbalance orders like the sum of squares. A remainder dealt in turns is fixed
by the number L of full rounds and by the extras that go to the first members which still have a group left. For each L a table over
the nodes (members left, groups left, may extras still follow) gives the least sum of squares of any completion. The best
entry is the least imbalance; the first choice in the kubelet's order is then picked node by node, asking the tables
whether a completion within the bound exists. Scores that round alike (to 3 decimals) tie, as they do in the kubelet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final, TypeAlias

from quietcore.model import Compat

NEVER: Final = 1 << 60
"""The cost of what cannot be done; larger than any sum of squares of CPU counts."""

_Row: TypeAlias = list[int]
_Layer: TypeAlias = list[_Row]
_Options: TypeAlias = tuple[tuple[int, int, int], ...]
"""How a node can take part: (groups taken, cost, phase afterwards)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which nodes share a request (`nodes`), how many CPUs each gives (`share`), and which take turns at the remainder.

    Nodes are positions in the NUMA order of the moment.
    """

    nodes: tuple[int, ...]
    share: int
    remainder: tuple[int, ...]


def choose(free: Sequence[int], count: int, group: int, smallest: int, compat: Compat) -> Choice | None:
    """The kubelet's choice of nodes with `free` CPUs each, in NUMA order, for `count` CPUs dealt in groups of `group`.

    `count` is a multiple of `group`; `smallest` is the least number of nodes to try. None: no number of nodes works.
    """
    for size in range(smallest, min(count // group, len(free)) + 1):
        share = count // size // group * group
        groups = [(cpus - share) // group if cpus >= share else -1 for cpus in free]
        rest = (count - share * size) // group
        able = sorted((one for one in groups if one >= 0), reverse=True)
        if len(able) >= size and sum(able[:size]) >= rest:
            return _Search(free, groups, size=size, share=share, group=group, rest=rest).run(compat)
    return None


def score(values: Sequence[int]) -> int:
    """The kubelet's imbalance in thousandths: standard deviation around the mean, both rounded to 3 decimals, half away from zero."""
    return _score_of(len(values), sum(values), sum(value * value for value in values))


def _score_of(size: int, total: int, squares: int) -> int:
    spread = _spread(size, total, squares)
    root = isqrt(spread // size)
    return root + 1 if 4 * spread >= size * (2 * root + 1) ** 2 else root


def _spread(size: int, total: int, squares: int) -> int:
    """The sum of squared differences from the rounded mean, in millionths."""
    mean = (2000 * total + size) // (2 * size)
    return 1_000_000 * squares - 2000 * mean * total + size * mean * mean


def _most_squares(size: int, total: int, best: int) -> int:
    """The largest sum of squares whose score is still `best`."""
    limit = size * (2 * best + 1) ** 2  # 4 * spread must stay below
    mean = (2000 * total + size) // (2 * size)
    return ((limit - 1) // 4 + 2000 * mean * total - size * mean * mean) // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Least costs for `rounds` full rounds: [position][phase][members left][groups left]; phase 1 means extras may still follow."""

    options: tuple[tuple[_Options, _Options], ...]
    layers: list[tuple[_Layer, _Layer]]


class _Search:
    """The search for one number of nodes."""

    __slots__ = ("free", "group", "groups", "rest", "share", "size")

    def __init__(self, free: Sequence[int], groups: Sequence[int], *, size: int, share: int, group: int, rest: int) -> None:
        self.free = free
        self.groups = groups
        self.size = size
        self.share = share
        self.group = group
        self.rest = rest

    def run(self, compat: Compat) -> Choice:
        taken = self.size * self.share + self.rest * self.group
        before, after = sum(cpus * cpus for cpus in self.free), sum(self.free) - taken
        tables = [
            _table([self._roles(at, rounds) for at in range(len(self.free))], self.size, self.rest, exactly=True)
            for rounds in self._rounds()
        ]
        least = min(table.layers[0][1][self.size][self.rest] for table in tables)
        best = _score_of(len(self.free), after, before + least)
        bound = _most_squares(len(self.free), after, best) - before
        members = _first_within(tables, self.size, self.rest, bound)
        remainder = self._remainder(members, bound)
        if compat == "1.36":
            members, remainder = self._overwritten(members, remainder, best)
        return Choice(nodes=members, share=self.share, remainder=remainder)

    def _rounds(self) -> range:
        """The numbers of full rounds that can happen: never more than one member can take, or than there are groups."""
        return range(min(self.rest, max(self.groups)) + 1)

    def _cost(self, at: int, taken: int) -> int:
        left = self.free[at] - self.share - taken * self.group
        return left * left - self.free[at] * self.free[at]

    def _roles(self, at: int, rounds: int) -> tuple[_Options, _Options]:
        """How node `at` can be a member, when extras are over and while they last; one that only gives its share keeps the phase."""
        able = self.groups[at]
        if able < 0:
            return (), ()
        plain = self._cost(at, 0)
        over, lasting = [(0, plain, 0)], [(0, plain, 1)]
        for roles in self._turns(at, rounds):
            over += roles[0]
            lasting += roles[1]
        return tuple(over), tuple(lasting)

    def _turns(self, at: int, rounds: int) -> list[tuple[_Options, _Options]]:
        """How node `at` can take turns at the remainder."""
        able = self.groups[at]
        if able < 1:
            return []
        if able <= rounds:
            cost = self._cost(at, able)
            return [(((able, cost, 0),), ((able, cost, 1),))]
        without = (rounds, self._cost(at, rounds), 0)
        return [((without,), (without, (rounds + 1, self._cost(at, rounds + 1), 1)))]

    def _remainder(self, members: tuple[int, ...], bound: int) -> tuple[int, ...]:
        """The kubelet's first subset of the members within the bound: the largest subsets first, then by position."""
        if not self.rest:
            return ()
        base = sum(self._cost(at, 0) for at in members)
        able = [at for at in members if self.groups[at] > 0]
        tables = [_table([self._relative(at, rounds) for at in able], len(able), self.rest, exactly=False) for rounds in self._rounds()]
        for count in range(len(able), 0, -1):
            if any(table.layers[0][1][count][self.rest] + base <= bound for table in tables):
                return tuple(able[at] for at in _first_within(tables, count, self.rest, bound - base))
        raise AssertionError("a choice within the bound has a way to deal its remainder")

    def _relative(self, at: int, rounds: int) -> tuple[_Options, _Options]:
        """The turns of a member, with costs relative to giving only its share."""
        plain = self._cost(at, 0)
        ((over, lasting),) = self._turns(at, rounds)
        return tuple((t, c - plain, p) for t, c, p in over), tuple((t, c - plain, p) for t, c, p in lasting)

    def _overwritten(self, members: tuple[int, ...], remainder: tuple[int, ...], best: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """What kubelets up to 1.36 use instead: subsets that a later step of the walk overwrote (kubernetes issue 141237)."""
        able = [at for at in members if self.groups[at] > 0]
        if remainder:
            kept = _owned(len(remainder))
            remainder = remainder[:kept] + tuple(able[len(able) - (len(remainder) - kept) :])
        kept, nodes = _owned(self.size), len(self.free)
        if best > 0:
            return members[:kept] + tuple(range(nodes - (self.size - kept), nodes)), remainder
        following = _next_subset(members, nodes)
        if following is not None and following[:kept] == members[:kept]:
            members = following
        return members, remainder


def _owned(size: int) -> int:
    """How many elements of a subset lie in memory of its own, with Go's capacities 1, 2, 4, 8, ...: size 4 owns 3, 6 to 8 own 5."""
    return 1 if size == 1 else (1 << ((size - 1).bit_length() - 1)) + 1


def _next_subset(members: tuple[int, ...], nodes: int) -> tuple[int, ...] | None:
    """The subset of the same size that follows in lexicographic order."""
    size = len(members)
    for at in range(size - 1, -1, -1):
        if members[at] < nodes - (size - at):
            first = members[at] + 1
            return members[:at] + tuple(range(first, first + size - at))
    return None


def _table(options: list[tuple[_Options, _Options]], size: int, rest: int, *, exactly: bool) -> _Table:
    """Fill the table from the last node to the first; with `exactly`, only for subsets of all nodes of that very size."""
    never = [NEVER] * (rest + 1)
    end = [never] * (size + 1)
    end[0] = [0, *never[1:]]
    layers = [(end, end)]
    behind = 0
    before = sum(bool(roles[0]) for roles in options)
    for roles in reversed(options):
        after = layers[-1]
        if not roles[0]:
            layers.append(after)
            continue
        behind, before = behind + 1, before - 1
        lefts = range(max(size - before, 0) if exactly else 0, min(size, behind) + 1)
        layers.append((_layer(after, 0, roles[0], lefts, never), _layer(after, 1, roles[1], lefts, never)))
    layers.reverse()
    return _Table(options=tuple(options), layers=layers)


def _layer(after: tuple[_Layer, _Layer], phase: int, roles: _Options, lefts: range, never: _Row) -> _Layer:
    """One node more: for each number of members still to choose the cheapest of leaving it out and of every role."""
    layer = [never] * len(after[phase])
    for left in lefts:
        row = after[phase][left]
        for taken, cost, then in roles if left else ():
            source = after[then][left - 1]
            if source is never:
                continue
            offered = [known if known <= (offer := one + cost) else offer for known, one in zip(row[taken:], source, strict=False)]
            row = row[:taken] + offered if taken else offered
        layer[left] = row
    return layer


def _first_within(tables: Sequence[_Table], size: int, rest: int, bound: int) -> tuple[int, ...]:
    """The first subset of `size` positions, in lexicographic order, that some table can complete within the bound."""
    states: list[dict[tuple[int, int], int]] = [{(1, 0): 0} for _ in tables]
    chosen: list[int] = []
    at = 0
    while len(chosen) < size:
        left = size - len(chosen) - 1
        following = [_with(table, state, at, rest) for table, state in zip(tables, states, strict=True)]
        if any(
            cost + table.layers[at + 1][phase][left][rest - taken] <= bound
            for table, state in zip(tables, following, strict=True)
            for (phase, taken), cost in state.items()
        ):
            chosen.append(at)
            states = following
        at += 1
    return tuple(chosen)


def _with(table: _Table, state: dict[tuple[int, int], int], at: int, rest: int) -> dict[tuple[int, int], int]:
    """The least cost of every state after position `at` became a member."""
    following: dict[tuple[int, int], int] = {}
    for (phase, taken), cost in state.items():
        for more, extra, then in table.options[at][phase]:
            key, total = (then, taken + more), cost + extra
            if taken + more <= rest and total < following.get(key, NEVER):
                following[key] = total
    return following
