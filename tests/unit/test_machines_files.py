"""Machines from YAML files, lstopo exports and recordings, and the one door to all of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from quietcore.errors import InputError
from quietcore.machines import dump_yaml, load, load_lstopo, load_recording, load_yaml, parse_spec
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode

DATA = Path(__file__).parent.parent / "data" / "machines"
GI = 1 << 30
EDGE = """\
apiVersion: quietcore.io/v1alpha1
kind: Machine
name: edge
nodes:
- {node: 0, memory: 32Gi, hugepages: {1Gi: 8}, distances: {0: 10, 1: 17}}
- {node: 1, memory: 128Gi, distances: {0: 17, 1: 10}}
cpus:
- {kind: performance, cores: ["0,4", "1,5"], maxKhz: 5000000}
- {l3: 1, kind: efficiency, cores: 2-3}
offline: 4,9
isolated: 1
allowed: 0-3
"""


def faults(text: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        load(text, file="m.yaml")
    return [str(problem) for problem in raised.value.problems]


def test_a_yaml_file_says_everything_about_an_uneven_machine() -> None:
    fast = {"socket": 0, "node": 0, "l3": 0, "kind": "performance", "max_khz": 5_000_000}
    assert load_yaml(EDGE) == Machine(
        name="edge",
        cpus=(
            LogicalCpu(cpu=0, core=0, **fast),
            LogicalCpu(cpu=1, core=1, **fast),
            LogicalCpu(cpu=2, core=2, socket=0, node=0, l3=1, kind="efficiency"),
            LogicalCpu(cpu=3, core=3, socket=0, node=0, l3=1, kind="efficiency"),
            LogicalCpu(cpu=5, core=1, **fast),
        ),
        nodes=(
            NumaNode(node=0, memory_bytes=32 * GI, hugepages={GI: 8}, distances={0: 10, 1: 17}),
            NumaNode(node=1, memory_bytes=128 * GI, distances={0: 17, 1: 10}),
        ),
        offline=CpuSet.parse("4,9"),
        isolated=CpuSet.of(1),
        allowed=CpuSet.parse("0-3"),
    )


def test_every_fault_of_a_yaml_file_has_its_place() -> None:
    text = """\
kind: Machines
nmae: x
nodes:
- {node: a, memory: 1.5, hugepages: {2Mi: -1}}
cpus:
- {kind: fast, cores: ["0", "x", ""], node: 7}
- {socket: 0}
- {cores: 0}
offline: []
"""
    assert faults(text) == [
        "m.yaml:1:7: kind: 'Machines' is not known (did you mean Machine?)",
        "m.yaml:2:7: nmae: unknown field (did you mean name?)",
        "m.yaml:4:10: nodes[0].node: 'a' is no whole number",
        "m.yaml:4:21: nodes[0].memory: '1.5' is no size in bytes (write it as 512Mi or 16Gi)",
        "m.yaml:4:43: nodes[0].hugepages.2Mi: '-1' is no whole number",
        "m.yaml:6:3: cpus[0].node: node 7 is not among the nodes",
        "m.yaml:6:10: cpus[0].kind: 'fast' is not known (known: efficiency, performance)",
        "m.yaml:6:29: cpus[0].cores[1]: 'x' in the CPU list 'x' is neither a number nor a range such as 2-5 (write it as 0-3,8)",
        "m.yaml:6:34: cpus[0].cores[2]: a core has at least one CPU",
        'm.yaml:7:3: cpus[1].cores: is required (for example ["0,8", "1,9"])',
        "m.yaml:8:3: cpus[2].cores: CPUs 0 are listed twice",
        "m.yaml:9:10: offline: a single value is wanted here",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["m.yaml: the description of the machine is empty"]),
        ("# nothing\n", ["m.yaml: the file is empty"]),
        ("a: [", ["m.yaml:2:1: did not find expected node content"]),
        ("kind: Machine\n---\nkind: Machine\n", ["m.yaml:2:1: but found another document"]),
        ("- 1\n", ["m.yaml:1:1: a mapping is wanted here", "m.yaml:1:1: nodes: is required", "m.yaml:1:1: cpus: is required"]),
        ("nodes: [{node: 0}]\ncpus: [{cores: '0'}]\ncpus: []\n", ["m.yaml:3:1: cpus: is given twice"]),
        ("nodes: [{node: 0}]\ncpus: []\n", ["m.yaml:1:1: a machine has at least one CPU"]),
        ("nodes: [{node: 0}]\ncpus: [{cores: 0-1}, {cores: '1', node: 2}]\n", ["m.yaml:2:22: cpus[1].cores: CPUs 1 are listed twice", "m.yaml:2:22: cpus[1].node: node 2 is not among the nodes"]),  # noqa: E501  # one row of the table
        ("<topology/>", ["m.yaml: topology: <topology> of version 1 is no lstopo export of version 2"]),
        ("<topology", ["m.yaml:1:10: Couldn't find end of Start Tag topology line 1"]),
        ('<topology version="2.0"/>', ["m.yaml: topology: there is no object of type Machine"]),
        ('{"kind": "MachineRecording", ]', ["m.yaml:1:30: Expecting property name enclosed in double quotes"]),
    ],
)  # fmt: skip
def test_what_is_no_machine_is_refused_with_its_place(text: str, expected: list[str]) -> None:
    assert [fault.partition(" (")[0] for fault in faults(text)] == expected


@pytest.mark.parametrize("name", ["four-nodes", "memory-only"])
def test_lstopo_sees_the_same_machine_as_we_do(name: str) -> None:
    ours = load((DATA / f"{name}.json").read_text())
    theirs = load((DATA / f"{name}.xml").read_text())
    nodes = tuple(replace(node, free_hugepages=None) for node in ours.nodes)  # lstopo does not count the free ones
    assert theirs == replace(
        ours, name="lstopo", nodes=nodes, isolated=CpuSet(), cpus=tuple(replace(cpu, max_khz=ours.cpus[0].max_khz) for cpu in theirs.cpus)
    )


@pytest.mark.parametrize("text", ["machines/edge.yaml", "cores", "lab 2"])
def test_a_file_that_is_not_there_is_said_to_be_missing(text: str) -> None:
    with pytest.raises(InputError, match="neither a file that can be read nor a line of key=value"):
        load(text)


def test_a_fault_in_a_recording_names_recording_and_file() -> None:
    text = (DATA / "two-cpus.json").read_text().replace('"sys/devices/system/cpu/online": "0-1', '"sys/devices/system/cpu/online": "all')
    assert [fault.split(": ")[:2] for fault in faults(text)] == [["m.yaml", "sys/devices/system/cpu/online"]]


def test_on_a_partitioned_kernel_lstopo_and_we_see_the_same() -> None:
    ours = load((DATA / "partitioned.json").read_text())
    theirs = load((DATA / "partitioned.xml").read_text())
    nodes = tuple(replace(node, free_hugepages=None) for node in ours.nodes)
    assert theirs == replace(ours, name="lab", nodes=nodes, isolated=CpuSet())
    assert (ours.isolated, ours.allowed) == (CpuSet.parse("4-5"), CpuSet.parse("0-3,6-14"))


def test_lstopo_names_intels_hybrid_cores() -> None:
    text = (DATA / "hybrid.xml").read_text()
    for speed, kind in (("3900", "IntelAtom"), ("5200", "IntelCore")):
        text = text.replace(f'value="{speed}"/>', f'value="{speed}"/><info name="CoreType" value="{kind}"/>')
    assert load_lstopo(text).cpus == load((DATA / "hybrid.json").read_text()).cpus


def test_lstopo_tells_hybrid_cores_by_their_frequency_as_well() -> None:
    text = (DATA / "hybrid.xml").read_text().replace('value="3900"', 'value="3000"')
    assert [cpu.kind for cpu in load_lstopo(text).cpus] == ["performance"] * 12 + ["efficiency"] * 4


def test_a_container_seen_by_lstopo_is_limited() -> None:
    text = (DATA / "memory-only.xml").read_text().replace('allowed_cpuset="0x000000ff"', 'allowed_cpuset="0x0000000f"')
    assert load_lstopo(text).allowed == CpuSet.parse("0-3")


def test_broken_numbers_in_an_export_are_named_with_their_line() -> None:
    text = (DATA / "memory-only.xml").read_text().replace('allowed_cpuset="0x000000ff"', 'allowed_cpuset="0xgg"')
    text = text.replace('<page_type size="4096" count="', '<page_type size="4096" count="-')
    with pytest.raises(InputError) as raised:
        load_lstopo(text, file="m.xml")
    assert [(problem.line is not None, problem.field) for problem in raised.value.problems] == [
        (True, "allowed_cpuset"),
        *[(True, "count")] * 2,
    ]


def test_entities_in_xml_are_never_followed() -> None:
    entity = '<!DOCTYPE t [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
    text = f'{entity}<topology version="2.0"><object type="Machine">&e;</object></topology>'
    with pytest.raises(InputError, match="at least one CPU"):
        load(text)


def test_the_content_decides_how_a_machine_is_read() -> None:
    spec = "name=m,sockets=2,cores=4,threads=2,mem=8Gi,hugepages-2Mi=64"
    recording = (DATA / "two-cpus.json").read_text()
    assert load(spec) == load(dump_yaml(parse_spec(spec))) == parse_spec(spec)
    assert load(recording) == load_recording(recording)
    assert load('{"nodes": [{"node": 0}], "cpus": [{"cores": "0"}]}').online == CpuSet.of(0)


def test_a_recording_on_a_partitioned_host_needs_its_ledger() -> None:
    recording = (DATA / "partitioned.json").read_text()
    assert load(recording).usable == CpuSet.parse("0-3,6-14")
    assert load(recording, owned=CpuSet.of(4)).usable == CpuSet.parse("0-4,6-14")
    assert load(recording, owned=CpuSet.parse("4-5")).allowed is None
