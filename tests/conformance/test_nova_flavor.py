"""Nova's tables for CPU lists, constraints, real-time masks and guest topologies of flavors and images."""

from __future__ import annotations

import pytest
from tests.conformance.tables import table

from quietcore.errors import InputError
from quietcore.manifest import flavor_rules as rules
from quietcore.manifest import flavor_topologies as topologies
from quietcore.manifest.flavor_cells import constraints
from quietcore.manifest.flavor_values import Flavor, Image, format_cpu_spec, parse_cpu_spec
from quietcore.model import CpuSet, GuestTopology


def rows(name):
    return [pytest.param(row, id=f"{row['test']}-{number}") for number, row in enumerate(table(name)["vectors"])]


def answer(row, call):
    """What the call says: its value, or the refusal's code and text; and what Nova says."""
    expected = (row["error"], row["message"]) if "error" in row else row["out"]
    try:
        return call(), expected
    except InputError as error:
        (problem,) = error.problems
        return (problem.code, problem.message), expected


def flavor_and_image(row):
    extra, own, *_ = row["in"]["args"]
    specs = extra["extra_specs"]
    return (
        Flavor(name="foo", vcpus=extra.get("vcpus", 1), memory_mb=extra.get("memory_mb", 1), extra_specs=specs),
        Image(name="bar", properties=own["properties"]),
    )


def plain(cpus):
    return None if cpus is None else list(cpus)


@pytest.mark.parametrize("row", rows("nova_parse_cpu_spec"))
def test_cpu_lists_are_read_as_nova_reads_them(row):
    got, expected = answer(row, lambda: list(parse_cpu_spec(row["in"]["args"][0])))
    assert got == expected


SETS = ("get_cpu_dedicated_set", "get_cpu_dedicated_set_nozero", "get_cpu_shared_set", "get_vcpu_pin_set")


@pytest.mark.parametrize("row", [row for name in SETS for row in rows(f"nova_{name}")])
def test_the_cpu_lists_of_novas_configuration_are_read_as_nova_reads_them(row):
    """An unset list is no list, one that leaves nothing is what Nova refuses; CPU 0 is left out where the table's function does so."""
    (written,) = row["conf"].values() or (None,)
    found = None if written is None else list(parse_cpu_spec(written))
    if "nozero" in row["test"] and found is not None:
        found = [cpu for cpu in found if cpu]
    assert found == ([] if row.get("error") == "Invalid" else row["out"])


@pytest.mark.parametrize("row", rows("nova_format_cpu_spec"))
def test_cpu_lists_are_written_as_nova_writes_them(row):
    cpus = CpuSet.from_iterable(row["in"]["args"][0])
    assert format_cpu_spec(cpus, ranges=row["in"]["kwargs"].get("allow_ranges", True)) == row["out"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("nova_get_cpu_policy_constraint", rules.cpu_policy),
        ("nova_get_realtime_cpu_constraint", lambda flavor, image: plain(rules.realtime_vcpus(flavor, image))),
        ("nova_get_pmu_constraint", rules.pmu),
        ("nova_get_locked_memory_constraint", rules.locked_memory),
        ("nova_get_pci_numa_policy_constraint", rules.pci_policy),
        ("nova_get_numa_pagesize_constraint", rules.page_size),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_every_row_of_a_constraint_has_novas_answer(name, rule):
    for row in table(name)["vectors"]:
        got, expected = answer(row, lambda row=row: rule(*flavor_and_image(row)))
        assert got == expected, row["test"]


@pytest.mark.parametrize("row", rows("nova_numa_get_constraints"))
def test_flavor_and_image_are_checked_against_each_other_as_in_nova(row):
    def call():
        wanted = constraints(*flavor_and_image(row))
        if not wanted.cells:
            return None
        cells = [
            {
                "cpuset": list(cell.shared),
                "pcpuset": list(cell.dedicated),
                "memory": cell.memory_mb,
                "id": cell.cell,
                "pagesize": wanted.page_kib,
                "cpu_policy": wanted.policy,
                "cpu_thread_policy": wanted.threads,
            }
            for cell in wanted.cells
        ]
        return {"cells": cells, "emulator_threads_policy": wanted.emulator}

    got, expected = answer(row, call)
    if isinstance(expected, dict):
        kept = ("cpuset", "pcpuset", "memory", "id", "pagesize", "cpu_policy", "cpu_thread_policy")
        cells = [{key: cell[key] for key in kept} for cell in expected["cells"]]
        expected = {"cells": cells, "emulator_threads_policy": expected["emulator_threads_policy"]}
    assert got == expected


def written(shape):
    return {"_type": "VirtCPUTopology", "sockets": shape.sockets, "cores": shape.cores, "threads": shape.threads}


def read(kind, one):
    return kind(**{part: max(one[part], 0) for part in ("sockets", "cores", "threads")})


@pytest.mark.parametrize("row", rows("nova_get_cpu_topology_constraints"))
def test_preferred_and_greatest_shape_are_novas(row):
    got, expected = answer(row, lambda: [written(one) for one in topologies.topology_constraints(*flavor_and_image(row))])
    assert got == expected


@pytest.mark.parametrize("row", rows("nova_get_possible_cpu_topologies"))
def test_possible_shapes_are_novas(row):
    vcpus, greatest, threads = row["in"]["args"]
    shape = read(topologies.Shape, greatest)
    got, expected = answer(row, lambda: [written(one) for one in topologies.possible_topologies(vcpus, shape, threads_allowed=threads)])
    assert got == expected


@pytest.mark.parametrize("row", rows("nova_sort_possible_cpu_topologies"))
def test_shapes_are_sorted_as_nova_sorts_them(row):
    found, wanted = row["in"]["args"]
    ordered = topologies.sort_topologies([read(GuestTopology, one) for one in found], read(topologies.Shape, wanted))
    assert [written(one) for one in ordered] == row["out"]


@pytest.mark.parametrize("row", rows("nova_get_desirable_cpu_topologies"))
def test_the_most_wanted_shape_comes_first_as_in_nova(row):
    threads = row["in"]["args"][2]
    assert [written(one) for one in topologies.desirable_topologies(*flavor_and_image(row), threads_allowed=threads)] == row["out"]
