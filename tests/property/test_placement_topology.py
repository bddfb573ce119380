"""The merge equals the kubelet's own: every combination of hints, compared pair by pair."""

from itertools import product
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietcore.placement import hint_search, topology_manager
from quietcore.placement.hints import Demand, Hint, HintFamily, NumaInfo, enumeration_key, mask_of, masks_of_size, nodes_of
from quietcore.placement.topology_manager import _reachable_by_counting, flatten, merge, narrowest_count

_POLICIES = ("best-effort", "restricted", "single-numa-node")


def _exhaustive(policy, numa, providers):
    """The kubelet's algorithm as its reference describes it, with nothing clever about it."""
    dimensions = [dimension.hints() if isinstance(dimension, HintFamily) else dimension for dimension in flatten(providers)]
    if policy == "single-numa-node":
        single = [[h for h in hints if h.preferred and (h.mask is None or h.mask.bit_count() == 1)] for hints in dimensions]
        best = _best_of_all(numa, single, closest=False)
        return Hint(mask=None, preferred=best.preferred) if best.mask == numa.all_mask else best
    return _best_of_all(numa, dimensions, closest=numa.prefer_closest)


def _best_of_all(numa, dimensions, *, closest):
    limit = narrowest_count(dimensions)
    best = None
    for permutation in product(*dimensions):
        masks = [hint.mask for hint in permutation if hint.mask is not None]
        affinity = numa.all_mask
        for mask in masks:
            affinity &= mask
        candidate = Hint(mask=affinity, preferred=len(set(masks)) <= 1 and all(hint.preferred for hint in permutation))
        best = _better(numa, limit, best, candidate, closest=closest)
    return best or Hint(mask=numa.all_mask, preferred=False)


def _better(numa, limit, current, candidate, *, closest):
    if not candidate.mask:
        return current
    if current is None or (candidate.preferred and not current.preferred):
        return candidate
    if current.preferred and not candidate.preferred:
        return current
    have, offer = current.mask.bit_count(), candidate.mask.bit_count()
    fitter = _fitter(numa, current, candidate, closest=closest)
    if current.preferred or have > limit:
        return fitter
    if have == limit:
        return fitter if offer == limit else current
    if offer > limit or offer < have:
        return current
    return fitter if offer == have and offer != limit else candidate


def _fitter(numa, current, candidate, *, closest):
    def mean(mask):
        return sum(numa.distances[a][b] for a in nodes_of(mask) for b in nodes_of(mask)) / mask.bit_count() ** 2

    one, other = current.mask, candidate.mask
    if one.bit_count() != other.bit_count():
        return current if one.bit_count() < other.bit_count() else candidate
    if closest and mean(one) != mean(other):
        return current if mean(one) < mean(other) else candidate
    return current if one <= other else candidate


@st.composite
def _numa(draw, nodes):
    distances = {
        node: MappingProxyType({other: 10 if node == other else draw(st.sampled_from((11, 12, 20))) for other in nodes}) for node in nodes
    }
    return NumaInfo(nodes=nodes, distances=MappingProxyType(distances), prefer_closest=draw(st.booleans()))


@st.composite
def _listed(draw):
    nodes = draw(st.sampled_from(((0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 3, 5))))
    mask = st.integers(1, 63).map(lambda bits: mask_of(node for node in nodes_of(bits) if node < 6))
    hint = st.builds(Hint, mask=st.none() | mask, preferred=st.booleans())
    resource = st.none() | st.lists(hint, max_size=5).map(tuple)
    providers = st.lists(st.none() | st.dictionaries(st.sampled_from("abc"), resource, max_size=2), max_size=3)
    return draw(_numa(nodes)), draw(providers)


@st.composite
def _family(draw, nodes):
    amounts = st.fixed_dictionaries({node: st.integers(0, 4) for node in nodes})
    return HintFamily(
        within=draw(st.sampled_from((mask_of(nodes), mask_of(nodes[1:]), mask_of(nodes[:-1])))),
        must=draw(st.sampled_from((0, 0, 1 << nodes[0]))),
        demands=tuple(draw(st.lists(st.builds(Demand, amounts=amounts, wanted=st.integers(1, 9)), min_size=1, max_size=2))),
        points=tuple(draw(st.sets(st.sets(st.sampled_from(nodes), min_size=1).map(mask_of), max_size=2))),
        preferred_size=draw(st.integers(1, 3)),
        sockets=(mask_of(nodes[:2]), mask_of(nodes[2:])),
        preferred_sockets=draw(st.sampled_from((0, 0, 1, 2))),
    )


@st.composite
def _described(draw):
    nodes = draw(st.sampled_from(((0, 1), (0, 1, 2), (0, 1, 2, 3), (1, 2, 5))))
    first, second = draw(_family(nodes)), draw(_family(nodes))
    providers = draw(
        st.sampled_from(
            (
                [{"cpu": first}],
                [{"cpu": first}, {"memory": second}],
                [{"cpu": first}, {"memory": second, "hugepages-2Mi": second}],
                [{"cpu": first}, {"memory": second}, None],
                [{"device": (Hint(mask=1 << nodes[1], preferred=True), Hint(mask=mask_of(nodes[:2]), preferred=False))}, {"cpu": first}],
            )
        )
    )
    return draw(_numa(nodes)), providers


@settings(max_examples=200)
@given(_listed(), st.sampled_from(_POLICIES))
def test_listed_hints_merge_as_if_every_combination_had_been_compared(case, policy):
    numa, providers = case
    assert merge(policy, numa, providers) == _exhaustive(policy, numa, providers)


@settings(max_examples=200)
@given(_described(), st.sampled_from(_POLICIES))
def test_described_hints_merge_as_if_every_combination_had_been_compared(case, policy):
    numa, providers = case
    assert merge(policy, numa, providers) == _exhaustive(policy, numa, providers)


@settings(max_examples=200)
@given(_described(), st.sampled_from(_POLICIES))
def test_the_search_for_large_machines_finds_the_same_as_the_lists(case, policy):
    numa, providers = case
    with pytest.MonkeyPatch.context() as patched:  # the test machines are small enough to compare every combination
        patched.setattr(hint_search, "LISTABLE_NODES", 0)
        patched.setattr(topology_manager, "LISTABLE_NODES", 0)
        searched = merge(policy, numa, providers)
    assert searched == _exhaustive(policy, numa, providers)


@settings(max_examples=150)
@given(st.data())
def test_counting_finds_the_same_intersections_as_trying(data):
    nodes = data.draw(st.sampled_from(((0, 1, 2), (0, 1, 2, 3, 4), (1, 4, 6))))
    lists = data.draw(st.lists(st.sets(st.sets(st.sampled_from(nodes)).map(mask_of), min_size=1, max_size=9), min_size=1, max_size=4))
    reached = {mask_of(nodes)}
    for masks in lists:
        reached = {one & other for one in reached for other in masks}
    assert _reachable_by_counting(nodes, lists) == sorted(reached - {0})


@settings(max_examples=100)
@given(_described(), st.permutations(range(3)))
def test_the_order_of_the_providers_does_not_matter(case, order):
    numa, providers = case
    shuffled = [providers[index] for index in order if index < len(providers)]
    assert merge("best-effort", numa, shuffled) == merge("best-effort", numa, providers)


@given(st.sets(st.integers(0, 6), min_size=1))
def test_masks_are_enumerated_by_size_and_then_by_node(nodes):
    ascending = sorted(nodes)
    listed = [mask for size in range(1, len(nodes) + 1) for mask in masks_of_size(ascending, size)]
    assert listed == sorted(listed, key=enumeration_key)
    assert len(listed) == 2 ** len(nodes) - 1
