"""KubeVirt's tables for guestMappingPassthrough: virt-launcher's numa_placement_test.go."""

from types import MappingProxyType
from typing import Any

import pytest
from tests.conformance.tables import label, table

from quietcore.model import GuestCell, LogicalCpu, Machine, MemoryBinding, NumaNode, Refusal
from quietcore.placement.guest_cells import GuestNuma, guest_cells

# `realtime` and `noSharePages` of a row concern the domain XML only.
# A row of "no topology" or "no cells" cannot apply: a Machine has at least one CPU and every CPU has a node.
_WITHOUT_CELLS = ["no topology", "no cells"]
_MIB = 1 << 20


def _machine(cells: list[dict[str, Any]]) -> Machine:
    cpus = [LogicalCpu(cpu=cpu, core=cpu, socket=0, node=cell["id"], l3=0) for cell in cells for cpu in cell["cpus"]]
    nodes = [NumaNode(node=cell["id"], memory_bytes=0, distances=MappingProxyType(dict(cell.get("distances", ())))) for cell in cells]
    return Machine(name="row", cpus=tuple(sorted(cpus, key=lambda cpu: cpu.cpu)), nodes=tuple(nodes))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def test_the_rows_without_host_cells_are_the_ones_that_cannot_apply():
    assert [row["name"] for row in table("kubevirt_numa")["numaMapping"] if not row["cells"]] == _WITHOUT_CELLS


@pytest.mark.parametrize("row", [row for row in table("kubevirt_numa")["numaMapping"] if row["cells"]], ids=label)
def test_the_guest_gets_the_cells_of_its_pins(row):
    numa = guest_cells(_machine(row["cells"]), dict(row["vcpupin"]), row["memory"], row["hugepageSize"])
    if row["error"]:
        assert isinstance(numa, Refusal)
        return
    cells = tuple(
        GuestCell(
            cell=cell["id"],
            node=cell["host"],
            vcpus=_numbers(cell["cpus"]),
            memory_bytes=cell["memory"],
            distances=dict(cell.get("distances", ())),
        )
        for cell in row["expectedCells"]
    )
    memory = tuple(MemoryBinding(node=cell.node, type="hugepages-2Mi", size_bytes=cell.memory_bytes) for cell in cells)
    assert numa == GuestNuma(cells=cells, memory=memory)
    assert ",".join(str(cell.node) for cell in cells) == row["numatuneNodeset"]


@pytest.mark.parametrize("row", [row for row in table("kubevirt_numa_mapping")["cases"] if "cells" in row], ids=label)
def test_memory_is_split_by_cell_and_page(row):
    numa = guest_cells(_machine(row["hostCells"]), dict(row["vcpupin"]), row["guestMemoryBytes"], row["pageBytes"])
    assert isinstance(numa, GuestNuma)
    assert [
        {"guestCell": cell.cell, "hostNode": cell.node, "cpus": ",".join(map(str, cell.vcpus)), "memory": cell.memory_bytes}
        for cell in numa.cells
    ] == row["cells"]
    assert ",".join(str(cell.node) for cell in numa.cells) == row["numatune"]["nodeset"]


_TWO_NODES = [{"id": 0, "cpus": [10, 20]}, {"id": 4, "cpus": [30, 50]}]
_OUTCOMES = {  # the rows state only the outcome; the inputs are ours: pins, memory, page size
    "pinned host CPU not in topology": ({0: 10, 4: 40}, 64 * _MIB, 2 * _MIB),
    "no hugepages": ({0: 10}, 64 * _MIB, None),
    "2Mi over two nodes with 2Mi pages": ({0: 10, 1: 30}, 2 * _MIB, 2 * _MIB),
}


@pytest.mark.parametrize("row", [row for row in table("kubevirt_numa_mapping")["cases"] if "error" in row], ids=label)
def test_the_refusal_carries_kubevirts_text(row):
    pins, memory_bytes, page_bytes = _OUTCOMES[row["name"]]
    numa = guest_cells(_machine(_TWO_NODES), pins, memory_bytes, page_bytes)
    assert isinstance(numa, Refusal)
    assert row["error"] in numa.message


def test_distances_are_translated_to_guest_cells():
    (row,) = [row for row in table("kubevirt_numa_mapping")["cases"] if "hostDistances" in row]
    hosts = row["hostDistances"]
    cells = [
        {"id": int(host), "cpus": [int(host)], "distances": [(int(other), value) for other, value in hosts[host].items()]} for host in hosts
    ]
    numa = guest_cells(_machine(cells), {0: 0, 1: 4}, 64 * _MIB, 2 * _MIB)
    assert isinstance(numa, GuestNuma)
    assert {str(cell.cell): {str(other): value for other, value in cell.distances.items()} for cell in numa.cells} == row["guestDistances"]


def test_every_row_of_the_mapping_table_is_used():
    used = [row["name"] for row in table("kubevirt_numa_mapping")["cases"] if {"cells", "error", "hostDistances"} & row.keys()]
    assert [row["name"] for row in table("kubevirt_numa_mapping")["cases"] if row["name"] not in used] == ["no topology or empty cells"]
