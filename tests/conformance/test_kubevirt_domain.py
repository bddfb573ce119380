"""KubeVirt's tables for the domain XML: I/O threads, guest NUMA, the layout with a supplemental pool."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from lxml import etree
from tests.conformance.tables import table
from tests.vm_specs import UID, dedicated, plan_for

from quietcore import domain
from quietcore.domain.iothreads import pins_on_vcpus
from quietcore.model import CpuSet, GuestCell, GuestTopology, IoThreads

BUILD = domain.Build(uuid=UID)


@pytest.mark.parametrize("row", table("kubevirt_iothread_pin")["cases"], ids=lambda row: f"{row['ioThreads']} over {row['vcpus']}")
def test_io_threads_share_the_vcpus_cpus_as_in_kubevirt(row):
    pins = pins_on_vcpus(row["ioThreads"], row["vcpus"], tuple(row["cpuset"]))
    assert [[thread, ",".join(map(str, cpus))] for thread, cpus in pins.items()] == row["iothreadpin"]


MAPPINGS = [row for row in table("kubevirt_numa_mapping")["cases"] if "cells" in row]


@pytest.mark.parametrize("row", MAPPINGS, ids=lambda row: row["name"])
def test_cells_become_kubevirts_numa_sections(row):
    cells = tuple(
        GuestCell(
            cell=cell["guestCell"],
            node=cell["hostNode"],
            vcpus=tuple(map(int, cell["cpus"].split(","))),
            memory_bytes=cell["memory"],
        )
        for cell in row["cells"]
    )
    memory = {"guest_bytes": row["guestMemoryBytes"], "hugepage_bytes": row["pageBytes"]}
    spec = dedicated(memory=memory, cpu={"numa_passthrough": True})
    pcpus = dict(row["vcpupin"])
    plan = plan_for(spec, [pcpus.get(vcpu) for vcpu in range(max(pcpus) + 1)], cells=cells)
    root = etree.fromstring(domain.render(spec, plan, BUILD))

    assert [dict(one.attrib) for one in root.findall("cpu/numa/cell")] == [
        {"id": str(cell["guestCell"]), "cpus": cell["cpus"], "memory": str(cell["memory"]), "unit": "b"} for cell in row["cells"]
    ]
    assert dict(root.find("numatune/memory").attrib) == row["numatune"]
    assert [dict(one.attrib) for one in root.findall("numatune/memnode")] == [
        {"cellid": str(cell["guestCell"]), "mode": "strict", "nodeset": str(cell["hostNode"])} for cell in row["cells"]
    ]
    assert [dict(one.attrib) for one in root.findall("memoryBacking/hugepages/page")] == [
        {"size": str(row["pageBytes"]), "unit": "b", "nodeset": str(cell["guestCell"])} for cell in row["cells"]
    ]
    assert root.find("memoryBacking/allocation").get("mode") == "immediate"


def test_distances_are_written_between_guest_cells():
    row = next(row for row in table("kubevirt_numa_mapping")["cases"] if "guestDistances" in row)
    cells = tuple(
        GuestCell(
            cell=int(cell), node=int(cell) * 4, vcpus=(int(cell),), memory_bytes=1 << 30, distances={int(k): v for k, v in to.items()}
        )
        for cell, to in row["guestDistances"].items()
    )
    spec = dedicated(vcpus=2, memory={"guest_bytes": 2 << 30, "hugepage_bytes": 1 << 30})
    root = etree.fromstring(domain.render(spec, plan_for(spec, [2, 3], cells=cells), BUILD))
    written = {
        cell.get("id"): {one.get("id"): int(one.get("value")) for one in cell.findall("distances/sibling")}
        for cell in root.findall("cpu/numa/cell")
    }
    assert written == row["guestDistances"]


@pytest.mark.parametrize("row", table("kubevirt_supplemental_pool_layout")["cases"], ids=str)
def test_a_placement_with_a_supplemental_pool_becomes_kubevirts_pins(row):
    threads = row["supplementalPoolThreadCount"]
    emulator = CpuSet.parse(row["emulatorpin"] or "0-1")
    spec = dedicated(
        cpu={"topology": GuestTopology(sockets=row["sockets"]), "isolate_emulator": row["isolateEmulatorThread"]},
        io_threads=IoThreads(policy="supplementalPool", pool=threads),
    )
    io = MappingProxyType({number: CpuSet.of(cpu) for number, cpu in enumerate(row["iothreadpin"], start=1)})
    found = domain.facts(domain.render(spec, plan_for(spec, row["vcpupin"], emulator=emulator, io=io), BUILD))
    assert found.iothreads == tuple(range(1, threads + 1))
    assert dict(found.vcpu_pins) == {vcpu: CpuSet.of(cpu) for vcpu, cpu in enumerate(row["vcpupin"])}
    assert dict(found.iothread_pins) == dict(io)
    assert found.emulator_pin == emulator
