"""OpenStack flavors become manifests that the manifest reader takes."""

from __future__ import annotations

import json

import pytest

from quietcore import manifest
from quietcore.errors import InputError
from quietcore.manifest.flavor import flavor_to_manifest, read_flavor
from quietcore.manifest.flavor_values import Flavor, Image
from quietcore.model import CpuSet, GuestTopology, Realtime


def imported(specs, *, vcpus=4, memory_mb=2048, image=None):
    made, notes = flavor_to_manifest(
        Flavor(name="Rt.Large", vcpus=vcpus, memory_mb=memory_mb, extra_specs=specs),
        Image(properties=image or {}),
    )
    (document,) = manifest.load([manifest.SourceText(file="flavor.json", text=json.dumps(made))]).documents
    return document.spec, notes[:-1]


def test_a_plain_flavor_is_a_shared_vm_with_novas_preferred_shape():
    spec, notes = imported({})
    assert (spec.vm.name, spec.cpu.topology, spec.cpu.dedicated, spec.memory.guest_bytes) == (
        "rt-large",
        GuestTopology(sockets=4),
        False,
        2 << 30,
    )
    assert notes == ()


def test_a_realtime_flavor_keeps_its_mask_its_pages_and_its_isolated_emulator():
    spec, notes = imported(
        {
            "hw:cpu_policy": "dedicated",
            "hw:cpu_thread_policy": "require",
            "hw:cpu_realtime": "yes",
            "hw:cpu_realtime_mask": "^0",
            "hw:emulator_threads_policy": "isolate",
            "hw:mem_page_size": "1GB",
            "hw:cpu_threads": "2",
            "hw:numa_nodes": "2",
        }
    )
    assert spec.cpu.topology == GuestTopology(sockets=2, threads=2)
    assert spec.cpu.realtime == Realtime(mask="1-3", vcpus=frozenset({1, 2, 3}))
    assert (spec.cpu.thread_policy, spec.cpu.isolate_emulator, spec.strategy) == ("require", True, "housekeeping")
    assert spec.memory.hugepage_bytes == 1 << 30
    assert notes == ("the guest has as many NUMA cells as its CPUs come from, 2 or fewer, with memory split evenly",)


def test_a_mixed_flavor_keeps_its_mask():
    spec, notes = imported({"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "^0", "hw:emulator_threads_policy": "share"})
    assert spec.cpu.dedicated_vcpus == frozenset(CpuSet.parse("1-3"))
    assert spec.strategy == "dedicated"
    assert notes == ()


def test_what_has_no_equivalent_is_said():
    _, notes = imported(
        {
            "hw:cpu_policy": "dedicated",
            "hw:mem_page_size": "large",
            "hw:pmu": "false",
            "hw:locked_memory": "true",
            "quota:cpu_quota": "1000",
            "hw:pci_numa_affinity_policy": "socket",
        },
        memory_mb=2049,
    )
    assert notes == (
        "Nova runs QEMU's other threads on the vCPUs' own CPUs; here they use the shared pool",
        "2049 MiB are no whole number of pages of 2Mi, which KubeVirt demands: hugepages are left out",
        "hw:pmu=false has no equivalent without real-time vCPUs",
        "locked memory needs memory.reservedOverhead.memLock: Required and its feature gate; add it where the cluster has that",
        "hw:pci_numa_affinity_policy has no equivalent: PCI devices are not passed through",
        "the extra spec quota:cpu_quota has no equivalent",
    )


def test_real_time_without_hugepages_gets_them():
    spec, notes = imported({"hw:cpu_policy": "dedicated", "hw:cpu_realtime": "1", "hw:cpu_realtime_mask": "1-3"})
    assert spec.memory.hugepage_bytes == 2 << 20
    assert "hugepages of 2Mi are added: KubeVirt demands them for real-time vCPUs" in notes


@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: {"flavor": one}])
@pytest.mark.parametrize("key", ["properties", "extra_specs"])
def test_the_printed_forms_of_a_flavor_are_read(wrap, key):
    text = json.dumps(wrap({"name": "m1", "vcpus": 2, "ram": 512, "disk": 1, key: {"hw:cpu_policy": "dedicated", "hw:pmu": True}}))
    assert read_flavor(text, "f.json") == (
        Flavor(name="m1", vcpus=2, memory_mb=512, extra_specs={"hw:cpu_policy": "dedicated", "hw:pmu": "True"}),
        Image(),
    )


def test_an_image_may_stand_in_the_same_file():
    text = "name: m1\nvcpus: 2\nram: 512\nimage:\n  name: deb\n  properties:\n    hw_cpu_policy: dedicated\n    hw_numa_mem: [256, 256]\n"
    assert read_flavor(text, "f.yaml")[1] == Image(name="deb", properties={"hw_cpu_policy": "dedicated", "hw_numa_mem": [256, 256]})


def test_every_fault_of_a_flavor_file_is_named_with_its_place():
    with pytest.raises(InputError) as caught:
        read_flavor("vcpus: 0\nram: much\nproperties:\n- x\n", "f.yaml")
    assert [(one.line, one.field, one.message) for one in caught.value.problems] == [
        (1, "vcpus", "a whole number from 1 to 4096 is expected"),
        (2, "ram", "a whole number from 1 to 1099511627776 is expected"),
        (4, "properties", "a mapping is expected here"),
    ]


@pytest.mark.parametrize("text", ["", "a: 1\n---\nb: 2\n", "{"])
def test_what_is_no_flavor_is_refused(text):
    with pytest.raises(InputError):
        read_flavor(text, "f.yaml")


def test_contradictions_are_refused_with_novas_code():
    with pytest.raises(InputError) as caught:
        imported({"hw:cpu_policy": "shared", "hw:cpu_thread_policy": "isolate"})
    assert [problem.code for problem in caught.value.problems] == ["CPUThreadPolicyConfigurationInvalid"]
