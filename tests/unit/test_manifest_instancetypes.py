"""Instancetypes, preferences and the KubeVirt resource that stand in the same input as the VM."""

import pytest

from quietcore import manifest
from quietcore.errors import InputError
from quietcore.model import Disk, EmptyDisk, Firmware, GuestTopology, MemorySpec, Quantity

VM = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachine
metadata: {name: vm1}
spec:
  runStrategy: Always
  instancetype: {kind: VirtualMachineInstancetype, name: four}
  preference: {kind: VirtualMachineClusterPreference, name: quick}
  template:
    spec:
      domain:
        devices:
          disks: [{name: scratch}]
      volumes: [{name: scratch, emptyDisk: {capacity: 1Gi}}]
---
apiVersion: instancetype.kubevirt.io/v1beta1
kind: VirtualMachineInstancetype
metadata: {name: four}
spec:
  cpu: {guest: 4, dedicatedCPUPlacement: true, isolateEmulatorThread: true}
  memory: {guest: 2Gi, hugepages: {pageSize: 2Mi}}
  ioThreadsPolicy: auto
---
apiVersion: instancetype.kubevirt.io/v1beta1
kind: VirtualMachineClusterPreference
metadata: {name: quick}
spec:
  cpu:
    preferredCPUTopology: spread
    preferredCPUFeatures: [{name: tsc-deadline}]
  devices: {preferredDiskBus: virtio, preferredAutoattachGraphicsDevice: false, preferredDiskDedicatedIoThread: true}
  firmware: {preferredEfi: {secureBoot: false}}
"""
KUBEVIRT = """\
apiVersion: kubevirt.io/v1
kind: KubeVirt
metadata: {name: kubevirt, annotations: {alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity: ""}}
spec:
  configuration:
    cpuModel: Skylake-Server
    vmRolloutStrategy: Stage
    developerConfiguration: {cpuAllocationRatio: 1, featureGates: [AlignCPUs, Sidecar]}
"""


def load(text):
    return manifest.load([manifest.SourceText(file="vm.yaml", text=text)])


def problems(text):
    with pytest.raises(InputError) as caught:
        load(text)
    return [(problem.field, problem.message) for problem in caught.value.problems]


def test_an_instancetype_and_a_preference_complete_the_vm():
    (document,) = load(VM).documents
    spec = document.spec
    assert spec.cpu.topology == GuestTopology(sockets=2, cores=2)
    assert (spec.cpu.dedicated, spec.cpu.isolate_emulator, spec.strategy) == (True, True, "housekeeping")
    assert [feature.name for feature in spec.cpu.features] == ["tsc-deadline"]
    assert spec.memory == MemorySpec(guest_bytes=2 << 30, hugepage_bytes=2 << 20, max_guest_bytes=8 << 30)
    assert (spec.io_threads.policy, spec.graphics, spec.firmware) == ("auto", False, Firmware(efi=True))
    assert spec.disks == (Disk(name="scratch", source=EmptyDisk(capacity_bytes=1 << 30), dedicated_iothread=True),)


def test_what_both_say_conflicts_in_kubevirts_words():
    text = VM.replace("      domain:\n", "      domain:\n        cpu: {cores: 4}\n        memory: {guest: 1Gi}\n")
    paths = ("spec.template.spec.domain.cpu.cores", "spec.template.spec.domain.memory.guest")
    assert problems(text) == [(path, f"VM field(s) {path} conflicts with selected instance type") for path in paths]


def test_vcpus_that_cannot_be_spread_evenly_are_refused():
    message = (
        "3 vCPUs provided by the instance type are not divisible by the Spec.PreferSpreadSocketToCoreRatio or "
        "Spec.CPU.PreferSpreadOptions.Ratio of 2 provided by the preference"
    )
    assert problems(VM.replace("guest: 4", "guest: 3")) == [("instancetype.spec.cpu.guest", message)]


def test_requirements_of_the_preference_are_checked():
    text = VM.replace("  devices: {preferredDiskBus", "  requirements: {cpu: {guest: 8}}\n  devices: {preferredDiskBus")
    message = (
        "failure checking preference requirements: insufficient CPU resources of 4 vCPU provided by instance type, "
        "preference requires 8 vCPU"
    )
    assert problems(text) == [("spec.instancetype", message)]


def test_what_is_not_in_the_input_is_named():
    vm = VM.split("---", maxsplit=1)[0]
    assert problems(vm) == [
        ("spec.instancetype.name", "the input holds no VirtualMachineInstancetype 'four'"),
        ("spec.preference.name", "the input holds no VirtualMachineClusterPreference 'quick'"),
    ]


def test_a_broken_instancetype_is_reported_once_and_not_as_missing():
    assert problems(VM.replace("guest: 2Gi", "guest: lots")) == [
        ("spec.memory.guest", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    ]


def test_the_kubevirt_resource_changes_what_follows_wherever_it_stands():
    spec = load(f"{VM}---\n{KUBEVIRT}").documents[0].spec
    assert (spec.cpu.even_parity, spec.cpu.max_sockets, spec.cpu.model) == (True, 0, "Skylake-Server")
    assert dict(spec.annotations) == {"alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity": ""}


def test_the_cluster_of_the_input_is_returned():
    loaded = load(f"{VM}---\n{KUBEVIRT}")
    assert (loaded.cluster.cpu_allocation_ratio, loaded.cluster.live_update) == (1, False)
    assert loaded.cluster.feature_gates == frozenset({"AlignCPUs", "Sidecar"})
    assert load(VM).cluster.cpu_request == Quantity.milli(100)
