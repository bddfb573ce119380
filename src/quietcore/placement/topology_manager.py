"""The kubelet's Topology Manager: hints of all providers in, one node set and a verdict out.

The kubelet compares every combination of hints. Its comparison is a total order, so the best reachable combination is found
here without enumerating any: preferred answers by intersection, the others by counting supersets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add, mul, or_, sub
from typing import Final, TypeAlias

from quietcore.model import Reason, Refusal, TopologyPolicy
from quietcore.placement.hint_search import LISTABLE_NODES, best_preferred, best_reachable, narrowest_hint, single_nodes
from quietcore.placement.hints import Hint, HintFamily, Hints, NumaInfo, ProviderHints, mask_of, nodes_of

AFFINITY_ERROR: Final = "TopologyAffinityError"
AFFINITY_MESSAGE: Final = "Resources cannot be allocated with Topology locality"
UNEXPECTED_ERROR: Final = "UnexpectedAdmissionError"
ANY_NODE: Final = Hint(mask=None, preferred=True)
UNSATISFIABLE: Final = Hint(mask=None, preferred=False)
Dimension: TypeAlias = Hints


def merge(policy: TopologyPolicy, numa: NumaInfo, providers: Sequence[ProviderHints]) -> Hint:
    """Combine the hints of all providers into the one that the kubelet would store.

    The answer is exact and does not depend on the order of the providers; only the closest of many nodes on a machine with more
    nodes than can be listed may be the best of a bounded search. Policy `none` consults nobody: any node, not preferred.
    Whether the pod is admitted with the answer, `admits` says.
    """
    if policy == "none":
        return UNSATISFIABLE
    dimensions = flatten(providers)
    if policy == "single-numa-node":
        best = best_hint(replace(numa, prefer_closest=False), [single_node_hints(dimension) for dimension in dimensions])
        return replace(best, mask=None) if best.mask == numa.all_mask else best
    return best_hint(numa, dimensions)


def admits(policy: TopologyPolicy, hint: Hint) -> bool:
    """Whether the policy lets a pod in with the merged hint."""
    return hint.preferred or policy in ("none", "best-effort")


def affinity_refusal(policy: TopologyPolicy, hint: Hint) -> Refusal:
    """The kubelet's refusal of a pod whose resources do not come from preferred nodes."""
    best = "any node" if hint.nodes is None else f"nodes {','.join(map(str, hint.nodes))}"
    why = f"policy {policy} admits only the smallest possible set of nodes for all resources at once; the best that is left is {best}"
    reason = Reason(constraint="topology-policy", message=why, wanted="a preferred hint", free=best)
    return Refusal(message=AFFINITY_MESSAGE, reason=AFFINITY_ERROR, reasons=(reason,))


def allocation_refusal(error: Refusal) -> Refusal:
    """The kubelet's refusal when a manager could not allocate; an error with a reason of its own keeps its text."""
    if error.reason:
        return error
    return replace(error, message=f"Allocate failed due to {error.message}, which is unexpected", reason=UNEXPECTED_ERROR)


def flatten(providers: Sequence[ProviderHints]) -> list[Dimension]:
    """One dimension per resource; a provider without an opinion counts as one that takes any node."""
    dimensions: list[Dimension] = []
    for provider in providers:
        if not provider:
            dimensions.append((ANY_NODE,))
            continue
        for hints in provider.values():
            if hints is None:
                dimensions.append((ANY_NODE,))
            elif isinstance(hints, HintFamily) or hints:
                dimensions.append(hints)
            else:
                dimensions.append((UNSATISFIABLE,))
    return dimensions


def single_node_hints(dimension: Dimension) -> tuple[Hint, ...]:
    """The preferred hints of one node or of any node: what policy single-numa-node looks at."""
    if isinstance(dimension, HintFamily):
        singles = (1 << node for node in nodes_of(dimension.within | reduce(or_, dimension.points, 0)))
        return tuple(Hint(mask=mask, preferred=True) for mask in singles if mask in dimension and dimension.prefers(mask))
    return tuple(hint for hint in dimension if hint.preferred and (hint.mask is None or hint.mask.bit_count() == 1))


def narrowest_count(dimensions: Iterable[Dimension]) -> int:
    """The kubelet's bestNonPreferredAffinityCount: the largest among each dimension's smallest hint; 0 when there is none."""
    return max((_Masks.of(dimension).narrowest for dimension in dimensions), default=0)


def sort_key(numa: NumaInfo, hint: Hint, best_count: int) -> tuple[int, int, int, tuple[int, int, int]]:
    """The kubelet's pairwise comparison as one key (smaller is better); the hint has a non-empty mask."""
    mask = hint.mask or 0
    if hint.preferred:
        return 0, 0, 0, numa.fit(mask)
    return 1, *_size_key(mask.bit_count(), best_count), numa.fit(mask)


def _size_key(count: int, best_count: int) -> tuple[int, int]:
    if count == best_count:
        return 0, 0
    return (1, -count) if count < best_count else (2, count)


def best_hint(numa: NumaInfo, dimensions: Sequence[Dimension]) -> Hint:
    """The best combination of one hint from each dimension; all nodes, not preferred, when there is none."""
    single = _best_single_node(numa, dimensions)
    if single is not None:
        return Hint(mask=single, preferred=True)
    if len(numa.nodes) > LISTABLE_NODES and any(isinstance(dimension, HintFamily) for dimension in dimensions):
        return _searched_hint(numa, dimensions)
    known: dict[int, _Masks] = {}
    masks = [known.setdefault(id(dimension), _Masks.of(dimension)) for dimension in dimensions]
    everything = numa.all_mask
    preferred = [mask for common in _common_preferred(masks) if (mask := everything if common is None else common & everything)]
    if preferred:
        return Hint(mask=min(preferred, key=numa.fit), preferred=True)
    reachable = _reachable(numa, masks)
    if not reachable:
        return Hint(mask=everything, preferred=False)
    best_count = max((dimension.narrowest for dimension in masks), default=0)
    size = min({mask.bit_count() for mask in reachable}, key=lambda count: _size_key(count, best_count))
    return Hint(mask=min((mask for mask in reachable if mask.bit_count() == size), key=numa.fit), preferred=False)


def _best_single_node(numa: NumaInfo, dimensions: Sequence[Dimension]) -> int | None:
    """The best single node that every described dimension prefers while the listed ones take any: the usual case, found at once.

    Nothing has fewer nodes, so no other mask can be better.
    """
    families = [one for one in dimensions if isinstance(one, HintFamily)]
    listed = [one for one in dimensions if not isinstance(one, HintFamily)]
    if not families or not all(any(hint.preferred and hint.mask is None for hint in one) for one in listed):
        return None
    known = numa.all_mask
    masks = [mask for mask in single_nodes(families[0]) if mask & known and all(mask in one and one.prefers(mask) for one in families)]
    return min(masks, key=numa.fit, default=None)


def _searched_hint(numa: NumaInfo, dimensions: Sequence[Dimension]) -> Hint:
    preferred = best_preferred(numa, dimensions)
    if preferred is not None:
        return Hint(mask=preferred, preferred=True)
    best_count = max(map(narrowest_hint, {id(one): one for one in dimensions}.values()))
    sizes = sorted(range(1, len(numa.nodes) + 1), key=lambda count: _size_key(count, best_count))
    reachable = best_reachable(numa, dimensions, sizes)
    return Hint(mask=numa.all_mask if reachable is None else reachable, preferred=False)


@dataclass(frozen=True, slots=True)
class _Masks:
    """One dimension's masks: all of them and the preferred ones, and whether "any node" is among either."""

    every: frozenset[int]
    preferred: frozenset[int]
    any_node: bool
    any_node_preferred: bool
    narrowest: int

    @classmethod
    def of(cls, dimension: Dimension) -> _Masks:
        if isinstance(dimension, HintFamily):
            every = frozenset(dimension.masks())
            preferred = frozenset(filter(dimension.prefers, every))
            return cls(every, preferred, any_node=False, any_node_preferred=False, narrowest=_narrowest(every))
        every = frozenset(hint.mask for hint in dimension if hint.mask is not None)
        preferred = frozenset(hint.mask for hint in dimension if hint.preferred and hint.mask is not None)
        anywhere = [hint.preferred for hint in dimension if hint.mask is None]
        return cls(every, preferred, any_node=bool(anywhere), any_node_preferred=any(anywhere), narrowest=_narrowest(every))


def _narrowest(masks: Iterable[int]) -> int:
    return min(map(int.bit_count, masks), default=0)


def _common_preferred(dimensions: Sequence[_Masks]) -> set[int | None]:
    """The masks on which every dimension can agree with a preferred hint; None where all of them said "any node"."""
    common: set[int | None] = {None}
    for dimension in dimensions:
        agreed: set[int | None] = common & dimension.preferred
        if None in common:
            agreed |= dimension.preferred
        common = agreed | common if dimension.any_node_preferred else agreed
    return common


def _reachable(numa: NumaInfo, dimensions: Sequence[_Masks]) -> list[int]:
    """The intersections, other than none at all, of one mask from each dimension."""
    everything = numa.all_mask
    lists = [{mask & everything for mask in one.every} | ({everything} if one.any_node else set()) for one in dimensions]
    reached, steps = {everything}, 0
    limit = 8 << len(numa.nodes)
    for masks in sorted(lists, key=len):
        steps += len(reached) * len(masks)
        if steps > limit and len(numa.nodes) <= 16:
            return _reachable_by_counting(numa.nodes, lists)
        reached = {one & other for one in reached for other in masks} - {0}
    return sorted(reached)


def _reachable_by_counting(nodes: Sequence[int], lists: Sequence[set[int]]) -> list[int]:
    """The same by counting the combinations that intersect in at least each mask, and from that in exactly each mask.

    Sums over supersets turn the intersection of two lists into a product, entry by entry (zeta and Moebius transform).
    """
    width = len(nodes)
    counts = [1] * (1 << width)
    for masks in lists:
        members = [0] * (1 << width)
        for mask in masks:
            members[_packed(mask, nodes)] = 1
        _over_supersets(members, width, add)
        counts = list(map(mul, counts, members))
    _over_supersets(counts, width, sub)
    return [_unpacked(packed, nodes) for packed in range(1, 1 << width) if counts[packed]]


def _over_supersets(entries: list[int], width: int, combine: Callable[[int, int], int]) -> None:
    """Combine, bit by bit, each entry without the bit with the one that has it as well; in place."""
    for bit in range(width):
        step = 1 << bit
        if 2 * bit < width:  # few long slices either way: this is where the time goes
            pairs = [(slice(first, None, 2 * step), slice(first + step, None, 2 * step)) for first in range(step)]
        else:
            starts = range(0, 1 << width, 2 * step)
            pairs = [(slice(first, first + step), slice(first + step, first + 2 * step)) for first in starts]
        for without, having in pairs:
            entries[without] = map(combine, entries[without], entries[having])


def _packed(mask: int, nodes: Sequence[int]) -> int:
    """The mask with the machine's nodes renumbered from 0; node ids may have gaps."""
    if nodes[-1] == len(nodes) - 1:
        return mask
    return sum(1 << bit for bit, node in enumerate(nodes) if mask >> node & 1)


def _unpacked(packed: int, nodes: Sequence[int]) -> int:
    return packed if nodes[-1] == len(nodes) - 1 else mask_of(nodes[bit] for bit in nodes_of(packed))
