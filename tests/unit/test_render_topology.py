"""Promises of the pictures that hold for every machine."""

import re

import pytest
from lxml import etree

from quietcore.machines import parse_spec
from quietcore.model import Assignment, CpuSet, Machine, Plan, VcpuPlacement, VmName
from quietcore.render.palette import OWNERS, text_on
from quietcore.render.topology_svg import topology_svg
from quietcore.render.topology_text import topology_text
from quietcore.render.values import HostMap

SPECS = (
    "cores=1",
    "cores=1,threads=8,siblings=adjacent",
    "sockets=2,nodes=1,l3=2,cores=6",
    "cores=8,threads=2,efficiency=8",
    "sockets=8,nodes=16,l3=128,cores=512,threads=2,offline=700-710",
)


def host(spec: str, vms: int = 0) -> HostMap:
    machine = parse_spec(spec)
    plans = tuple(one_cpu_vm(machine, cpu) for cpu in list(machine.usable)[:vms])
    return HostMap(machine=machine, plans=plans, reserved=CpuSet.of(machine.usable.highest))


def one_cpu_vm(machine: Machine, cpu: int) -> Plan:
    own = CpuSet.of(cpu)
    vcpus = (VcpuPlacement(vcpu=0, pcpu=cpu, node=0, core=cpu),)
    shared = machine.usable - own
    assignments = (Assignment(container="dedicated", cpus=own),)
    return Plan(
        vm=VmName(name=f"vm-{cpu}"), uid="", strategy="dedicated", vcpus=vcpus, shared=shared, emulator=shared, assignments=assignments
    )


def numbers_in_cells(text: str) -> list[int]:
    cells = re.findall(r"\[([^\]]*)\]", re.sub(r"\x1b\[[0-9;]*m", "", text))
    return sorted(int(number) for cell in cells for number in re.findall(r"\d+", cell))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("width", [80, 120])
def test_the_text_shows_every_cpu_once_within_its_width(spec: str, width: int) -> None:
    picture = topology_text(host(spec, vms=3), width=width)
    assert numbers_in_cells(picture) == list(parse_spec(spec).online)
    assert max(map(len, picture.splitlines())) <= width


@pytest.mark.parametrize("spec", SPECS)
def test_the_svg_shows_every_cpu_once_with_its_story_and_nothing_outside(spec: str) -> None:
    root = etree.fromstring(topology_svg(host(spec)))
    titles = [title.text or "" for title in root.iter("{*}title")][1:]
    assert sorted(int(title.split()[1].rstrip(":")) for title in titles) == list(parse_spec(spec).online)
    width, height = int(root.get("width", "0")), int(root.get("height", "0"))
    rects = [[int(rect.get(name, "0")) for name in ("x", "y", "width", "height")] for rect in root.findall(".//{*}rect")]
    assert all(x + across <= width and y + down <= height for x, y, across, down in rects)


def test_colour_only_repeats_what_the_marks_say() -> None:
    plain, coloured = (topology_text(host(SPECS[3], vms=4), colour=colour) for colour in (False, True))
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain != coloured


def test_more_owners_than_letters_get_two() -> None:
    picture = topology_text(host("cores=64", vms=30))
    assert "[ 0A ]" in picture
    assert "[29AD]" in picture


def test_the_same_host_gives_the_same_bytes() -> None:
    assert topology_svg(host(SPECS[2], vms=3)) == topology_svg(host(SPECS[2], vms=3))


def test_control_characters_of_a_recorded_machine_never_reach_the_terminal() -> None:
    named = HostMap(machine=Machine(name="x\x1b[2J", cpus=parse_spec("cores=1").cpus, nodes=parse_spec("cores=1").nodes))
    assert "\x1b" not in topology_text(named)
    assert "x\ufffd[2J" in topology_svg(named)


def test_letters_can_be_read_on_every_colour() -> None:
    assert [text_on(colour) for colour in OWNERS] == ["#000000"] * 5 + ["#ffffff", "#000000"]
