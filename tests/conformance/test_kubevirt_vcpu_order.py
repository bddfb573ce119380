"""KubeVirt's tables for pinning: virt-launcher's vcpu_test.go and converter_test.go."""

from typing import Any

import pytest
from tests.conformance.tables import label, table

from quietcore.model import CpuSet, GuestTopology, Refusal
from quietcore.placement.vcpu_order import HostCell, VcpuOrder, emulator_cpu_count, order_in_cells, reported_cells, shared_io_pins


def _cells(rows: list[dict[str, Any]]) -> tuple[HostCell, ...]:
    return reported_cells((row["id"], [(cpu["id"], cpu.get("siblings", [])) for cpu in row["cpus"]]) for row in rows)


def _pins(order: VcpuOrder | Refusal) -> list[int | None] | str:
    return order.message if isinstance(order, Refusal) else [vcpu.pcpu for vcpu in order.vcpus]


@pytest.mark.parametrize("row", table("kubevirt_vcpu_pinning")["cases"], ids=label)
def test_vcpus_are_pinned_in_kubevirts_order(row):
    order = order_in_cells(
        _cells(row["hostCells"]), CpuSet.from_iterable(row["cpuset"]), GuestTopology(**row["guest"]), strict=row["policy"] == "strict"
    )
    assert _pins(order) == row.get("vcpupin", row.get("error"))


@pytest.mark.parametrize("row", [*table("kubevirt_numa")["pinning"], *table("kubevirt_numa")["pinningNamed"]], ids=label)
def test_vcpus_are_pinned_in_the_order_of_the_numa_tests(row):
    topology = GuestTopology(cores=row["vcpuCores"], threads=row["vcpuThreadsPerCore"])
    order = order_in_cells(_cells(row["topology"]), CpuSet.from_iterable(row["cpuSet"]), topology, strict=row["pool"] == "strict")
    if row["expected"] is None and "error" not in row:
        assert isinstance(order, Refusal)  # upstream asserts only that these rows fail
    else:
        assert _pins(order) == (row["expected"] or row["error"])


def _single_thread_rows() -> list[dict[str, Any]]:
    other = [
        {"name": row["name"], "guestThreadsPerCore": row["vcpuThreadsPerCore"], "hostCells": row["topology"]}
        | {"cpuset": row["cpuSet"], "order": row["expected"]}
        for row in table("kubevirt_numa")["fitThread"]
    ]
    return [*table("kubevirt_single_thread_order")["cases"], *other]


@pytest.mark.parametrize("row", _single_thread_rows(), ids=label)
def test_helper_threads_take_single_cpus_in_kubevirts_order(row):
    nobody = frozenset[int]()
    order = order_in_cells(
        _cells(row["hostCells"]),
        CpuSet.from_iterable(row["cpuset"]),
        GuestTopology(threads=row["guestThreadsPerCore"]),
        strict=False,
        io_cpus=len(row["order"]),
        dedicated=nobody,
    )
    assert isinstance(order, VcpuOrder)
    assert list(order.io) == row["order"]


@pytest.mark.parametrize("row", table("kubevirt_supplemental_pool_layout")["cases"])
def test_pool_threads_come_before_the_emulator(row):
    pool = row["supplementalPoolThreadCount"]
    emulator = emulator_cpu_count(row["sockets"] + pool, isolate=row["isolateEmulatorThread"], even_parity=row["evenParityAnnotation"])
    order = order_in_cells(
        _cells(row["hostCells"]),
        CpuSet.from_iterable(row["cpuset"]),
        GuestTopology(sockets=row["sockets"]),
        strict=False,
        io_cpus=pool,
        emulator_cpus=emulator,
    )
    assert isinstance(order, VcpuOrder)
    expected = (row["vcpupin"], row["iothreadpin"], row["emulatorpin"])
    assert (_pins(order), list(order.io), ",".join(map(str, order.emulator)) or None) == expected


@pytest.mark.parametrize("row", table("kubevirt_emulator_threads")["cases"])
def test_the_emulator_gets_its_cpus_or_the_refusal_says_which_one_is_missing(row):
    cells = reported_cells([(0, [(cpu, []) for cpu in row["cpuset"]])])
    emulator = emulator_cpu_count(row["cores"], isolate=True, even_parity=row["evenParityAnnotation"])
    order = order_in_cells(
        cells, CpuSet.from_iterable(row["cpuset"]), GuestTopology(cores=row["cores"]), strict=False, emulator_cpus=emulator
    )
    if "error" in row:
        assert isinstance(order, Refusal)
        assert order.message.startswith(row["error"])
    else:
        assert isinstance(order, VcpuOrder)
        assert len(order.emulator) == row["emulatorCpuCount"]


@pytest.mark.parametrize("row", table("kubevirt_iothread_pin")["cases"])
def test_io_threads_without_a_pool_share_the_vcpus_cpus(row):
    pins = shared_io_pins(row["ioThreads"], row["vcpus"], row["cpuset"])
    assert [[thread, ",".join(map(str, cpus))] for thread, cpus in enumerate(pins, 1)] == row["iothreadpin"]


def _reads(line: str) -> CpuSet | None:
    try:
        return CpuSet.parse(line)
    except ValueError:
        return None


def test_cpuset_lines_are_read_as_kubevirt_reads_them():
    # One row cannot apply: KubeVirt refuses the empty line; to us it is the kernel's way of writing the empty set.
    rows = table("kubevirt_cpuset_line")["cases"]
    differing = [row["line"] for row in rows if _reads(row["line"]) != (None if "error" in row else CpuSet.from_iterable(row["cpus"]))]
    assert differing == [""]
