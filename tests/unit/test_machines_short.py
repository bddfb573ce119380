"""One-line machine specs."""

import pytest

from quietcore.errors import InputError
from quietcore.machines import is_spec, parse_spec
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode

GI = 1 << 30


def faults(text: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        parse_spec(text)
    return [str(problem) for problem in raised.value.problems]


def test_a_spec_gives_totals_spread_evenly() -> None:
    machine = parse_spec("sockets=2,nodes=4,cores=32,threads=2,l3=8,mem=512Gi,hugepages-1Gi=64")
    assert machine.cpu(5) == LogicalCpu(cpu=5, core=5, socket=0, node=0, l3=1)
    assert machine.cpu(5 + 32) == LogicalCpu(cpu=37, core=5, socket=0, node=0, l3=1)
    assert machine.cpu(63) == LogicalCpu(cpu=63, core=31, socket=1, node=3, l3=7)
    distances = {0: 21, 1: 21, 2: 10, 3: 12}
    assert machine.node(2) == NumaNode(node=2, memory_bytes=128 * GI, hugepages={GI: 16}, distances=distances)


def test_the_smallest_spec_has_defaults_for_the_rest() -> None:
    nodes = (NumaNode(node=0, memory_bytes=8 * GI, distances={0: 10}),)
    cpus = tuple(LogicalCpu(cpu=cpu, core=cpu, socket=0, node=0, l3=0) for cpu in (0, 1))
    assert parse_spec("cores=2") == Machine(name="machine", cpus=cpus, nodes=nodes)


def test_siblings_may_be_adjacent_and_some_cpus_offline() -> None:
    machine = parse_spec("cores=4,threads=2,siblings=adjacent,offline=0,3,mem=4Gi,isolated=6-7,name=edge")
    assert dict(machine.cores()) == {1: CpuSet.of(1), 2: CpuSet.of(2), 4: CpuSet.parse("4-5"), 6: CpuSet.parse("6-7")}
    assert (machine.name, machine.offline, machine.isolated) == ("edge", CpuSet.parse("0,3"), CpuSet.parse("6-7"))


def test_efficiency_cores_come_last_and_have_one_thread() -> None:
    machine = parse_spec("cores=2,threads=2,efficiency=2")
    assert [(cpu.cpu, cpu.core, cpu.kind) for cpu in machine.cpus] == [
        (0, 0, "performance"),
        (1, 1, "performance"),
        (2, 0, "performance"),
        (3, 1, "performance"),
        (4, 4, "efficiency"),
        (5, 5, "efficiency"),
    ]


def test_a_machine_without_numa_awareness_has_fewer_nodes_than_sockets() -> None:
    assert {(cpu.socket, cpu.node) for cpu in parse_spec("sockets=2,nodes=1,cores=4").cpus} == {(0, 0), (1, 0)}


UNEVEN = "(an uneven machine is written as a YAML file)"
NO_CORES = "cores: is required (for example cores=8,threads=2,mem=32Gi)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["has no value (a machine is key=value,key=value)", NO_CORES]),
        ("thread=2", ["thread: is no key of a machine (did you mean threads?)", NO_CORES]),
        ("cores=0,l3=x", ["cores: '0' is no whole number of at least 1", "l3: 'x' is no whole number of at least 1"]),
        ("cores=4,cores=4", ["cores: is given twice"]),
        ("cores=4,mem=1.5", ["mem: '1.5' is no size in bytes (write it as 512Mi or 16Gi)"]),
        ("cores=4,hugepages-3Mi=1", ["hugepages-3Mi: the page size is no power of two of at least 4Ki"]),
        ("cores=4,siblings=far", ["siblings: 'far' is neither apart nor adjacent"]),
        ("cores=4,offline=3-1", ["offline: the range '3-1' in the CPU list '3-1' does not ascend within 0-65535"]),
        ("cores=4,offline=4", ["offline: CPUs 4 do not exist: the machine has 0-3"]),
        ("cores=4,offline=0-3", ["offline: leaves no CPU online"]),
        ("cores=5000,threads=2", ["cores: 10000 CPUs are more than the 8192 that Linux can have"]),
        ("cores=1,mem=1Gi,hugepages-1Gi=2", ["mem: the hugepages take 2147483648 bytes, more than all memory"]),
        ("cores=4,name=", ["name: has no value (a machine is key=value,key=value)"]),
        ("cores=12,sockets=4,l3=2", [f"l3: 2 l3 do not divide evenly over 4 sockets {UNEVEN}"]),
        (
            "cores=6,nodes=4,sockets=2,hugepages-2Mi=6,mem=2147483650",
            [
                f"nodes: 6 cores do not divide evenly over 4 nodes {UNEVEN}",
                f"mem: does not divide evenly over 4 nodes {UNEVEN}",
                f"hugepages-2Mi: 6 pages do not divide evenly over 4 nodes {UNEVEN}",
            ],
        ),
    ],
)
def test_every_fault_names_its_key(text: str, expected: list[str]) -> None:
    assert faults(text) == expected


def test_a_spec_is_told_from_a_file_name() -> None:
    assert [is_spec(text) for text in ("cores=4", " mem=1Gi,cores=2\n", "machines/a.yaml", "kind: Machine\nname: a=b\n")] == [
        True,
        True,
        False,
        False,
    ]
