"""The CPU Manager's view of a machine, impossible inputs, and uneven machines, where the kubelet's averages mislead it."""

import pytest

from quietcore.errors import InputError
from quietcore.model import CpuSet, Refusal
from quietcore.placement import CpuTopology
from quietcore.placement.cpu_assignment import distribute, pack, take_distributed, take_packed


def row(cpu, *, core=None, socket=0, numa=0, uncore=0):
    return {"cpu": cpu, "core": cpu if core is None else core, "socket": socket, "numa": numa, "uncore": uncore}


def smt(cores):
    """One socket; the siblings of core n are CPUs n and n + cores."""
    return [row(thread * cores + core, core=core) for thread in range(2) for core in range(cores)]


def faults(action):
    with pytest.raises(InputError) as error:
        action()
    return [problem.field for problem in error.value.problems]


@pytest.mark.parametrize(
    ("rows", "declared", "fields"),
    [
        ([], None, ["rows"]),
        ([row(0), row(0)], None, ["rows[1].cpu"]),
        ([row(-1), row(1 << 16)], None, ["rows[0].cpu", "rows[0].core", "rows[1].cpu"]),
        ([{"cpu": 0}], None, ["rows[0].core", "rows[0].socket", "rows[0].numa", "rows[0].uncore"]),
        (smt(2), {"NumCPUs": 2}, ["declared.NumCPUs"]),
        (smt(2), {"NumCPUs": 0}, ["declared.NumCPUs"]),
        (smt(2), {"NumCores": -1, "NumSocket": 1}, ["declared.NumSocket", "declared.NumCores"]),
        (smt(2), {"NumCores": 8}, ["declared.NumCores"]),
    ],
)
def test_an_impossible_machine_is_one_error_with_every_field(rows, declared, fields):
    assert faults(lambda: CpuTopology.from_rows(rows, declared)) == fields


def test_counts_are_taken_from_the_rows_unless_they_are_declared():
    topology = CpuTopology.from_rows(smt(4), {"NumNUMANodes": 0})
    assert (topology.num_cpus, topology.num_cores, topology.num_nodes, topology.cpus_per_core) == (8, 4, 0, 2)


@pytest.mark.parametrize("take", [take_packed, take_distributed])
def test_an_impossible_request_names_its_field(take):
    topology = CpuTopology.from_rows(smt(4))
    everything = topology.cpus
    assert faults(lambda: take(topology, everything, -1)) == ["count"]
    assert faults(lambda: take(topology, CpuSet.of(3, 99), 1)) == ["available"]
    assert faults(lambda: take(topology, everything, 1, strategy="widely", compat="1.0")) == ["strategy", "compat"]


def test_a_group_of_no_cpus_is_impossible():
    topology = CpuTopology.from_rows(smt(4))
    assert faults(lambda: take_distributed(topology, topology.cpus, 1, group_size=0)) == ["group_size"]


def test_too_many_cpus_are_a_refusal_never_an_exception():
    topology = CpuTopology.from_rows(smt(4))
    text = "not enough cpus available to satisfy request: requested=9, available=8"
    assert {one.message for one in (take_packed(topology, topology.cpus, 9), take_distributed(topology, topology.cpus, 9))} == {text}


def test_steps_name_the_rules_in_the_order_in_which_they_took():
    rows = [row(cpu, numa=cpu // 4, socket=cpu // 4, core=cpu // 2 * 2) for cpu in range(8)]
    taken = pack(CpuTopology.from_rows(rows), CpuSet.parse("1-7"), 6)
    assert [(str(step.cpus), step.rule) for step in taken.steps] == [("4-7", "whole NUMA node 1"), ("2-3", "whole core 2")]
    single = pack(CpuTopology.from_rows(rows), CpuSet.parse("1-7"), 1)
    assert [(str(step.cpus), step.rule) for step in single.steps] == [("1", "single thread")]


def test_a_distributed_request_says_which_node_gave_what_share():
    rows = [row(cpu, numa=cpu // 4, socket=cpu // 4) for cpu in range(8)]
    taken = distribute(CpuTopology.from_rows(rows), CpuSet.range(8), 5)
    assert [(str(step.cpus), step.rule) for step in taken.steps] == [
        ("0", "distributed over NUMA nodes 0,1, share of node 0 (whole core 0)"),
        ("1", "distributed over NUMA nodes 0,1, share of node 0 (whole core 1)"),
        ("4", "distributed over NUMA nodes 0,1, share of node 1 (whole core 4)"),
        ("5", "distributed over NUMA nodes 0,1, share of node 1 (whole core 5)"),
        ("2", "distributed over NUMA nodes 0,1, remainder on node 0 (whole core 2)"),
    ]


def test_an_offline_sibling_lets_the_kubelet_hand_out_a_cpu_in_use():
    """With 7 CPUs on 4 cores the average is 1 thread per core, so a half-used core counts as free (kubernetes issue 124066)."""
    topology = CpuTopology.from_rows([one for one in smt(4) if one["cpu"] != 7])
    free = CpuSet.parse("1-6") - CpuSet.of(1)
    theirs = take_packed(topology, free, 2, compat="1.36")
    assert not theirs <= free
    ours = take_packed(topology, free, 2)
    assert ours <= free
    assert len(ours) == 2


def test_the_overwritten_sets_of_1_36_span_the_sockets():
    """Two sockets of four nodes, all free: four whole nodes are wanted and the kubelet takes nodes 0, 1, 2 and 7."""
    rows = [row(cpu, core=cpu // 2 * 2, numa=cpu // 8, socket=cpu // 32, uncore=cpu // 8) for cpu in range(64)]
    topology = CpuTopology.from_rows(rows)
    assert str(take_distributed(topology, topology.cpus, 32, group_size=2)) == "0-31"
    assert str(take_distributed(topology, topology.cpus, 32, group_size=2, compat="1.36")) == "0-23,56-63"


@pytest.mark.parametrize("compat", ["fixed", "1.36"])
def test_a_request_on_which_the_kubelet_hangs_is_answered(compat):
    free, rows = [], []
    for node, count in enumerate((11, 11, 10, 8)):
        rows += [row(cpu, core=cpu // 2 * 2, numa=node, socket=node // 2, uncore=node) for cpu in range(node * 12, node * 12 + 12)]
        free += range(node * 12 + 12 - count, node * 12 + 12)
    answer = take_distributed(CpuTopology.from_rows(rows), CpuSet.from_iterable(free), 38, group_size=2, compat=compat)
    assert not isinstance(answer, Refusal)
    assert len(answer) == 38
