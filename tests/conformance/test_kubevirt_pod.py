"""KubeVirt's tables for the launcher pod: CPUs, emulator parity, memory overhead."""

from __future__ import annotations

import pytest
from tests.conformance.tables import table
from tests.vm_specs import dedicated

from quietcore.model import GuestTopology, IoThreads
from quietcore.pod import OverheadInputs, cpu_count, emulator_cpus, memory_overhead
from quietcore.pod.differences import kubevirt_pod_cpus


def rows(name, array="cases"):
    return table(name)[array]


@pytest.mark.parametrize("row", rows("kubevirt_pod_cpu_count"), ids=str)
def test_the_pod_has_kubevirts_cpu_count(row):
    vcpus = row["vcpus"] or row["userCpuRequestAndLimit"]
    spec = dedicated(
        cpu={
            "topology": GuestTopology(cores=vcpus),
            "isolate_emulator": row["isolateEmulatorThread"],
            "even_parity": row["evenParityAnnotation"],
        },
        io_threads=IoThreads(policy="supplementalPool", pool=row["supplementalIOThreads"]),
    )
    assert cpu_count(spec, "housekeeping").total == row["podCpu"]


@pytest.mark.parametrize("row", rows("kubevirt_pod_cpu_count", "derived_parity_mismatch"), ids=str)
def test_parity_is_the_launchers_and_kubevirts_own_pod_is_known(row):
    vcpus, io = row["vcpus"], row["supplementalIOThreads"]
    assert kubevirt_pod_cpus(vcpus, io) == row["podCpuAsShipped"]
    assert vcpus + io + emulator_cpus(vcpus, io, even_parity=True) == row["cpusThatLauncherPins"]


@pytest.mark.parametrize("row", [row for row in rows("kubevirt_emulator_threads") if "emulatorCpuCount" in row], ids=str)
def test_the_emulator_gets_kubevirts_number_of_cpus(row):
    assert emulator_cpus(row["cores"], 0, even_parity=row["evenParityAnnotation"]) == row["emulatorCpuCount"]


@pytest.mark.parametrize("row", [row for row in rows("kubevirt_emulator_threads") if "error" in row], ids=str)
def test_where_kubevirts_launcher_has_too_few_cpus_the_pod_would_have_asked_for_more(row):
    needed = row["cores"] + emulator_cpus(row["cores"], 0, even_parity=row["evenParityAnnotation"])
    assert needed > len(row["cpuset"])


@pytest.mark.parametrize("row", rows("kubevirt_memory_overhead"), ids=lambda row: str(row["inputs"]))
def test_the_memory_overhead_is_kubevirts_to_the_byte(row):
    names = {
        "req": "requested_bytes", "vc": "vcpus", "gfx": "graphics", "arm": "arm64", "vfio": "vfio", "tpm": "tpm", "sev": "sev",
        "probes": "exec_probes", "ded": "guaranteed",
    }  # fmt: skip
    inputs = OverheadInputs(**{names[key]: value for key, value in row["inputs"].items()})
    assert memory_overhead(inputs) == row["overheadBytes"]
