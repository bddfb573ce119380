"""The kubelet's tables for the Topology Manager: policy_test.go and its neighbours."""

from types import MappingProxyType
from typing import Any

import pytest
from tests.conformance.tables import label, table

from quietcore.placement.hints import Hint, NumaInfo, mask_of
from quietcore.placement.topology_manager import admits, best_hint, merge, narrowest_count, single_node_hints, sort_key

_TABLE = table("topology_manager")


def _hint(row: dict[str, Any]) -> Hint:
    return Hint(mask=None if row["affinity"] is None else mask_of(row["affinity"]), preferred=row["preferred"])


def _hints(rows: list[dict[str, Any]] | None) -> tuple[Hint, ...] | None:
    return None if rows is None else tuple(_hint(row) for row in rows)


def _numa(row: dict[str, Any], *, prefer_closest: bool = False) -> NumaInfo:
    distances = {node: MappingProxyType(dict(enumerate(line))) for node, line in enumerate(row["distances"])}
    return NumaInfo(nodes=tuple(row["nodes"]), distances=MappingProxyType(distances), prefer_closest=prefer_closest)


def _merge_rows() -> list[Any]:
    return [
        pytest.param(suite, row, id=f"{suite['policy']}-{'closest' if suite['preferClosestNUMA'] else 'narrowest'}-{row['name']}")
        for suite in _TABLE["merge"]
        for row in suite["cases"]
    ]


@pytest.mark.parametrize(("suite", "row"), _merge_rows())
def test_hints_merge_as_in_the_kubelet(suite, row):
    numa = _numa(suite["numa"], prefer_closest=suite["preferClosestNUMA"])
    providers = [
        None if provider is None else {resource: _hints(hints) for resource, hints in provider.items()} for provider in row["providers"]
    ]
    assert merge(suite["policy"], numa, providers) == _hint(row["expected"])


@pytest.mark.parametrize("row", _TABLE["maxOfMinAffinityCounts"])
def test_the_best_non_preferred_count_is_the_largest_of_the_smallest(row):
    assert narrowest_count([_hints(dimension) for dimension in row["hints"]]) == row["expected"]


@pytest.mark.parametrize("row", _TABLE["compareNarrowest"], ids=label)
def test_two_merged_hints_compare_as_in_the_kubelet(row):
    numa = NumaInfo(nodes=(0, 1, 2, 3))
    contenders = [(name, _hint(row[name])) for name in ("current", "candidate") if row[name] is not None]
    # The kubelet keeps the current hint where both are equally good; an empty candidate never replaces it.
    standing = [(name, hint) for name, hint in contenders if hint.mask]
    best = min(standing, key=lambda one: sort_key(numa, one[1], row["bestNonPreferredAffinityCount"]), default=("current", None))
    assert best[0] == row["expected"]


@pytest.mark.parametrize("row", _TABLE["mergePreferredFastPath"], ids=label)
def test_a_common_preferred_hint_is_found(row):
    best = best_hint(_numa(row["numa"]), [_hints(dimension) for dimension in row["hints"]])
    assert best.preferred == row["found"]
    assert not row["found"] or best == _hint(row["expected"])


@pytest.mark.parametrize("row", _TABLE["filterSingleNuma"], ids=label)
def test_single_numa_node_looks_only_at_single_nodes(row):
    assert [single_node_hints(_hints(dimension)) for dimension in row["all"]] == [_hints(dimension) for dimension in row["expected"]]


@pytest.mark.parametrize("row", _TABLE["canAdmit"])
def test_a_policy_admits_or_not(row):
    assert admits(row["policy"], Hint(mask=1, preferred=row["preferred"])) == row["admit"]
