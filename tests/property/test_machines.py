"""Whatever machine is described, it is read back the same from every form."""

from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.machine_trees import sysfs_of

from quietcore.errors import InputError
from quietcore.machines import dump_yaml, from_tree, load, load_yaml, parse_spec
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode

PAGES = (2 << 20, 1 << 30)
NAMES = st.text("abcdefgh ijkl-:#'\"0123456789ä", min_size=1, max_size=12)


@st.composite
def specs(draw: st.DrawFn) -> str:
    """A line that divides evenly."""
    sockets, per_socket, per_node = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    nodes, threads = sockets * per_socket, draw(st.integers(1, 3))
    cores = nodes * per_node
    line = f"sockets={sockets},nodes={nodes},cores={cores},threads={threads},l3={draw(st.sampled_from([sockets, nodes]))}"
    line += f",mem={nodes * draw(st.integers(4, 64))}Gi,hugepages-1Gi={nodes * draw(st.integers(0, 4))}"
    line += draw(st.sampled_from(["", ",siblings=adjacent", ",siblings=apart"]))
    if draw(st.booleans()):
        line += f",efficiency={nodes}"
    offline = draw(st.sets(st.integers(0, cores * threads - 1), max_size=cores * threads - 1))
    return line + (f",offline={CpuSet.from_iterable(offline)}" if offline else "")


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Any machine at all: uneven, with gaps in every numbering, hybrid, nodes without CPUs."""
    numbers = draw(st.lists(st.integers(0, 300), min_size=1, max_size=12, unique=True))
    node_ids = sorted(draw(st.sets(st.integers(0, 40), min_size=1, max_size=4)))
    cpus: list[LogicalCpu] = []
    while numbers:
        threads = [numbers.pop() for _ in range(min(len(numbers), draw(st.integers(1, 4))))]
        kind = draw(st.sampled_from(["performance", "efficiency"]))
        place = {name: draw(st.integers(0, 3)) for name in ("socket", "l3")}
        node, max_khz = draw(st.sampled_from(node_ids)), draw(st.sampled_from([0, 4_000_000]))
        cpus += [LogicalCpu(cpu=cpu, core=min(threads), node=node, kind=kind, max_khz=max_khz, **place) for cpu in threads]
    if len({cpu.kind for cpu in cpus}) == 1:
        cpus = [replace(cpu, kind="") for cpu in cpus]
    online = CpuSet.from_iterable(cpu.cpu for cpu in cpus)
    offline = CpuSet.from_iterable(draw(st.sets(st.integers(0, 310), max_size=3))) - online
    allowed = CpuSet.from_iterable(draw(st.sets(st.sampled_from(sorted(online)))))
    nodes = tuple(
        NumaNode(
            node=node,
            memory_bytes=draw(st.integers(0, 1 << 30)) * 1024,
            hugepages={size: draw(st.integers(0, 99)) for size in PAGES},
            free_hugepages={size: draw(st.integers(0, 99)) for size in PAGES},
            distances={other: 10 if other == node else draw(st.integers(11, 254)) for other in node_ids},
        )
        for node in node_ids
    )
    return Machine(
        name=draw(NAMES),
        cpus=tuple(sorted(cpus, key=lambda cpu: cpu.cpu)),
        nodes=nodes,
        offline=offline,
        allowed=allowed if allowed and allowed != online else None,
        isolated=CpuSet.from_iterable(draw(st.sets(st.sampled_from(sorted(online))))),
        cpu_model=draw(st.sampled_from(["", "Model 1: fast"])),
    )


@settings(max_examples=60, deadline=None)
@given(specs())
def test_a_spec_survives_the_way_through_yaml(line: str) -> None:
    machine = parse_spec(line)
    assert load(dump_yaml(machine)) == machine == load(line)


@settings(max_examples=60, deadline=None)
@given(machines())
def test_any_machine_survives_the_way_through_yaml(machine: Machine) -> None:
    assert load_yaml(dump_yaml(machine)) == machine


@settings(max_examples=60, deadline=None)
@given(machines())
def test_any_machine_survives_the_way_through_sysfs(machine: Machine) -> None:
    assert from_tree(sysfs_of(machine), name=machine.name) == machine


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("<>{}[]=,:-ab01 \n\"'&*!", max_size=40)))
def test_any_text_is_a_machine_or_a_typed_error(text: str) -> None:
    with suppress(InputError):
        assert load(text).usable
