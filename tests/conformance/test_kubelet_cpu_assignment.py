"""The kubelet's allocator on the tables of its own tests (cpu_assignment_test.go), in both compatibility modes.

No row of the distributed table reaches the kubelet's overwritten sets, so every row states the same answer for `fixed` and `1.36`.
Rows about the accumulator's inner lists test our private counterpart.
"""

import pytest
from tests.conformance.tables import label, table

from quietcore.model import CpuSet, Refusal
from quietcore.placement import CpuTopology
from quietcore.placement.cpu_assignment import take_distributed, take_packed
from quietcore.placement.packed import _Accumulator

TABLE = table("cpu_assignment")
TOPOLOGIES = {name: CpuTopology.from_rows(one["cpus"], one["declared"]) for name, one in TABLE["topologies"].items()}
LISTS = {"freeSockets": "free_sockets", "freeNUMANodes": "free_nodes", "freeCores": "free_cores", "freeCPUs": "cpus"}
EXPECTED_ROWS = {
    "takeByTopologyNUMAPacked": 32,
    "takeByTopologyNUMADistributed": 30,
    "freeSockets": 13,
    "freeNUMANodes": 13,
    "freeCores": 8,
    "freeCPUs": 6,
    "freeSocketsAndNUMANodes": 4,
    "accumulatorTake": 6,
}


def rows(*functions):
    return pytest.mark.parametrize("row", [row for row in TABLE["cases"] if row["function"] in functions], ids=label)


def text(answer):
    return answer.message if isinstance(answer, Refusal) else str(answer)


def accumulator(row):
    free = CpuSet.parse(row["available"])
    return _Accumulator(TOPOLOGIES[row["topology"]], free.mask, row["num"], strategy=row.get("strategy", "packed"))


def ids(found):
    return [getattr(one, "id", one) for one in found]


def test_every_row_has_a_test():
    counted = {name: sum(row["function"] == name for row in TABLE["cases"]) for name in EXPECTED_ROWS}
    assert (counted, len(TABLE["cases"])) == (EXPECTED_ROWS, 112)


@pytest.mark.parametrize("compat", ["fixed", "1.36"])
@rows("takeByTopologyNUMAPacked")
def test_packed(row, compat):
    answer = take_packed(
        TOPOLOGIES[row["topology"]],
        CpuSet.parse(row["available"]),
        row["num"],
        strategy=row["strategy"],
        prefer_uncore=row["preferAlignByUncoreCache"],
        compat=compat,
    )
    assert text(answer) == (row["expected_error"] or row["expected"])


@pytest.mark.parametrize("compat", ["fixed", "1.36"])
@rows("takeByTopologyNUMADistributed")
def test_distributed(row, compat):
    answer = take_distributed(
        TOPOLOGIES[row["topology"]],
        CpuSet.parse(row["available"]),
        row["num"],
        group_size=row["cpuGroupSize"],
        strategy=row["strategy"],
        compat=compat,
    )
    assert text(answer) == (row["expected_error"] or row["expected"])


@rows(*LISTS)
def test_free_lists(row):
    found, expected = ids(getattr(accumulator(row), LISTS[row["function"]])()), row["expected_ids"]
    if row["compare"] == "sorted":
        found, expected = sorted(found), sorted(expected)
    assert found == expected


@rows("freeSocketsAndNUMANodes")
def test_free_sockets_and_nodes(row):
    state = accumulator(row)
    assert (ids(state.free_sockets()), ids(state.free_nodes())) == (row["expected_sockets"], row["expected_numa"])


@rows("accumulatorTake")
def test_take(row):
    state = accumulator(row)
    for cpus in row["take"]:
        state.take(CpuSet.parse(cpus).mask)
    assert (state.satisfied(), state.failed()) == (row["expected_satisfied"], row["expected_failed"])
