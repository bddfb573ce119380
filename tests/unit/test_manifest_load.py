"""The way from text to VmSpec, on small manifests."""

import json

import pytest

from quietcore import manifest
from quietcore.errors import InputError, Problem
from quietcore.model import (
    CloudInit,
    ContainerDisk,
    CpuFeature,
    CpuSpec,
    Disk,
    Firmware,
    GuestTopology,
    Interface,
    KernelBoot,
    MemorySpec,
    Quantity,
    Realtime,
    Resources,
    VmName,
)

VMI = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: vm1
spec:
  domain:
    cpu:
      cores: 2
      dedicatedCpuPlacement: true
    memory:
      guest: 1Gi
    devices:
      disks:
      - name: root
        disk: {bus: virtio}
  volumes:
  - name: root
    containerDisk: {image: "registry/disk:v1"}
"""


def load(text, file="vm.yaml"):
    return manifest.load([manifest.SourceText(file=file, text=text)])


def problems(text):
    with pytest.raises(InputError) as caught:
        load(text)
    return caught.value.problems


def test_a_vmi_becomes_a_spec_with_kubevirts_defaults():
    (document,) = load(VMI).documents
    spec = document.spec
    assert (spec.vm, spec.kind, spec.run_strategy) == (VmName(name="vm1"), "VirtualMachineInstance", "Once")
    assert spec.cpu == CpuSpec(topology=GuestTopology(cores=2), dedicated=True)
    assert spec.memory == MemorySpec(guest_bytes=1 << 30, max_guest_bytes=4 << 30)
    assert spec.disks == (Disk(name="root", source=ContainerDisk(image="registry/disk:v1")),)
    assert spec.interfaces == (Interface(name="default"),)
    assert (spec.resources, spec.architecture, spec.machine_type) == (Resources(), "amd64", "q35")
    assert (document.file, document.line, document.text) == ("vm.yaml", 1, VMI)


def test_json_says_the_same_as_yaml():
    import yaml

    assert load(json.dumps(yaml.safe_load(VMI))).documents[0].spec == load(VMI).documents[0].spec


def test_real_time_and_annotations_reach_the_spec():
    annotations = '{quietcore.io/realtime-priority: "50", quietcore.io/strategy: whole, quietcore.io/allow-priority-inversion: "true"}'
    text = VMI.replace("  name: vm1\n", f"  name: vm1\n  annotations: {annotations}\n")
    text = text.replace("cores: 2\n", "cores: 2\n      numa: {guestMappingPassthrough: {}}\n      realtime: {mask: '0-1,^1'}\n")
    text = text.replace("guest: 1Gi\n", "guest: 1Gi\n      hugepages: {pageSize: 2Mi}\n")
    spec = load(text).documents[0].spec
    assert spec.cpu.realtime == Realtime(mask="0-1,^1", vcpus=frozenset({0}), priority=50, allow_inversion=True)
    assert (spec.cpu.numa_passthrough, spec.strategy) == (True, "whole")
    assert spec.memory == MemorySpec(guest_bytes=1 << 30, hugepage_bytes=2 << 20, locked=True)


def test_an_isolated_emulator_thread_asks_for_housekeeping_unless_the_annotation_says_otherwise():
    isolated = VMI.replace("cores: 2\n", "cores: 2\n      isolateEmulatorThread: true\n")
    annotated = isolated.replace("  name: vm1\n", "  name: vm1\n  annotations: {quietcore.io/strategy: dedicated}\n")
    assert [load(text).documents[0].spec.strategy for text in (VMI, isolated, annotated)] == [None, "housekeeping", "dedicated"]


def test_cpu_features_without_a_policy_are_required():
    text = VMI.replace("cores: 2\n", "cores: 2\n      features: [{name: tsc-deadline}, {name: svm, policy: disable}]\n")
    features = load(text).documents[0].spec.cpu.features
    assert features == (CpuFeature(name="tsc-deadline"), CpuFeature(name="svm", policy="disable"))


@pytest.mark.parametrize(
    ("run", "strategy"),
    [
        ("running: true", "Always"),
        ("running: false", "Halted"),
        ("runStrategy: Manual", "Manual"),
        ("runStrategy: RerunOnFailure", "RerunOnFailure"),
    ],
)
def test_a_vm_keeps_its_run_strategy(run, strategy):
    lines = VMI.replace("kind: VirtualMachineInstance", "kind: VirtualMachine").split("spec:\n", 1)
    body = "".join(f"    {line}\n" for line in ("spec:\n" + lines[1]).splitlines())
    spec = load(f"{lines[0]}spec:\n  {run}\n  template:\n{body}").documents[0].spec
    assert (spec.kind, spec.run_strategy, spec.resources.cpu_request) == ("VirtualMachine", strategy, None)


def test_shared_vms_keep_their_requests():
    text = VMI.replace("dedicatedCpuPlacement: true", "dedicatedCpuPlacement: false")
    text = text.replace("    memory:\n", "    resources: {requests: {cpu: 500m}, limits: {cpu: 1}}\n    memory:\n")
    spec = load(text).documents[0].spec
    assert spec.resources == Resources(cpu_request=Quantity.milli(500), cpu_limit=Quantity.of(1))


def test_several_documents_and_lists_come_in_order_with_their_own_text():
    item = "".join(f"  {line}\n" for line in VMI.replace("vm1", "vm2").splitlines())
    listed = f"apiVersion: v1\nkind: List\nitems:\n- {item[2:]}"
    found = load(f"{VMI}---\n{listed}").documents
    assert [document.spec.vm.name for document in found] == ["vm1", "vm2"]
    assert [load(document.text).documents[0].spec for document in found] == [document.spec for document in found]


def test_an_item_with_anchors_still_has_a_text_of_its_own():
    anchored = VMI.replace("name: vm1", "name: vm2").replace("{bus: virtio}", "*target")
    text = VMI.replace("{bus: virtio}", "&target {bus: virtio}")
    listed = "apiVersion: v1\nkind: List\nitems:\n" + "".join("- " + "  ".join(one.splitlines(keepends=True)) for one in (text, anchored))
    second = load(listed).documents[1]
    assert load(second.text).documents[0].spec == second.spec


def test_every_fault_is_reported_at_once_with_its_place():
    text = VMI.replace("cores: 2", "coers: 2").replace("guest: 1Gi", "guest: much").replace("{bus: virtio}", "{bus: virtio, pciAddress: x}")
    assert [str(problem) for problem in problems(text)] == [
        "vm.yaml:8:7: spec.domain.cpu.coers: unknown field (did you mean cores?)",
        (
            "vm.yaml:11:14: spec.domain.memory.guest: quantities must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        ),
        (
            "vm.yaml:15:29: spec.domain.devices.disks[0].disk.pciAddress: known to KubeVirt, not supported here: pciAddress "
            "(libvirt assigns the addresses)"
        ),
    ]


def test_a_field_in_the_wrong_place_is_told_where_it_belongs():
    (problem,) = problems(VMI.replace("cores: 2", "cores: 2\n      ioThreadsPolicy: auto"))
    assert str(problem) == "vm.yaml:9:7: spec.domain.cpu.ioThreadsPolicy: unknown field (ioThreadsPolicy belongs in spec.domain)"


def test_rules_and_unknown_fields_are_reported_together():
    text = VMI.replace("cores: 2", "cores: 2\n      threads: 3\n      quiet: true")
    assert [problem.field for problem in problems(text)] == ["spec.domain.cpu.quiet", "spec.domain.cpu.dedicatedCpuPlacement"]


def test_a_second_vm_of_the_same_name_is_refused():
    (problem,) = problems(f"{VMI}---\n{VMI}")
    assert (problem.message, problem.line, problem.hint) == ("a second VM is called default/vm1", 23, "the first is in vm.yaml:1")


@pytest.mark.parametrize("name", ["VM1", "a_b", "../etc", "-a", "a" * 181, "a/b", "ä"])
def test_names_that_are_unsafe_in_paths_are_refused(name):
    assert {problem.field for problem in problems(VMI.replace("name: vm1", f"name: '{name}'"))} == {"metadata.name"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", ("duplicate", 2, 1)),
        ("a: *b\n", ("alias", 1, 4)),
        ("a: &x {b: *x}\n", ("alias", 1, 11)),
        ("a: !!python/name:os.system x\n", ("tag", 1, 4)),
        ("a: [1\nb: 2", ("syntax", 2, 2)),
        ("a: .inf\n", ("number", 1, 4)),
        ("{[a]: 1}\n", ("key", 1, 2)),
        ("a: \x07\n", ("syntax", 1, 4)),
        ("[" * 100, ("too-big", 1, 66)),
        ("[" + "a," * 400_000, ("too-big", 1, 256_000)),
        ("x" * (2 * 1024 * 1024 + 1), ("too-big", None, None)),
        ("%TAG !a! tag:x,2000:\n" * 30 + "---\n", ("syntax", None, None)),
        ("# nothing\n", ("empty", None, None)),
        ("- a\n", ("invalid", 1, 1)),
    ],
)
def test_text_that_is_no_plain_yaml_is_refused_with_its_place(text, expected):
    problem = problems(text)[0]
    assert (problem.code, problem.line, problem.column) == expected


def test_aliases_that_multiply_are_refused():
    text = "a0: &a0 [x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    (problem,) = problems(text)
    assert (problem.code, problem.message) == ("too-big", "aliases repeat more than 20,000 values")


TINY = "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: a{}}}, spec: {{domain: {}}}}}\n"


def test_more_objects_than_a_file_may_hold_are_refused_without_looking_at_them():
    documents = [TINY.format(number, "{devices: {}}") for number in range(1025)]
    (problem,) = problems("---\n".join(documents))
    assert (problem.code, problem.line, problem.message) == ("too-big", 2049, "more than 1,024 objects in one file")


def test_more_vcpus_than_one_file_may_have_are_refused_and_two_files_may_have_them():
    big = "{devices: {}, memory: {guest: 1Gi}, cpu: {cores: 4096}}"
    documents = ["---\n".join(TINY.format(10 * part + number, big) for number in range(count)) for part, count in ((0, 32), (32, 1))]
    (problem,) = problems("---\n".join(documents))
    assert (problem.code, problem.line, problem.message) == ("too-big", 65, "the VMs of one file have more than 131,072 vCPUs")
    files = [manifest.SourceText(file=str(part), text=text) for part, text in enumerate(documents)]
    assert len(manifest.load(files).documents) == 33


def test_a_file_that_is_too_big_is_not_judged_in_part():
    (problem,) = problems(TINY.format("A", "{devices: {}}") + "--- [" + "a," * 128_000)
    assert problem.code == "too-big"


def test_a_problem_reads_as_editors_expect():
    problem = Problem(message="m", file="f", line=1, column=2, field="a.b", hint="h")
    assert str(problem) == "f:1:2: a.b: m (h)"


def test_kernel_boot_seeds_and_clock_reach_the_spec():
    text = VMI.replace(
        "    memory:\n",
        "    firmware:\n"
        "      serial: abc\n"
        "      kernelBoot: {kernelArgs: console=ttyS0, container: {image: boot:v1, kernelPath: /k, initrdPath: /i}}\n"
        "    clock: {timezone: Europe/Prague}\n"
        "    memory:\n",
    )
    seed = "  - name: seed\n    cloudInitConfigDrive: {userDataBase64: I2Nsb3VkLWNvbmZpZw==, networkData: 'version: 2'}\n"
    spec = load(text + seed).documents[0].spec
    assert spec.kernel_boot == KernelBoot(image="boot:v1", kernel_path="/k", initrd_path="/i", args="console=ttyS0")
    assert (spec.firmware, spec.clock_offset) == (Firmware(serial="abc"), "Europe/Prague")
    source = CloudInit(kind="configdrive", user_data="#cloud-config", network_data="version: 2")
    assert spec.disks[1] == Disk(name="seed", source=source, bus="sata")


def test_merge_keys_fill_in_what_is_not_written():
    text = VMI.replace("{bus: virtio}", "{<<: [{readonly: true, bus: sata}, {bus: usb}], bus: virtio}")
    (disk,) = load(text).documents[0].spec.disks
    assert (disk.bus, disk.readonly) == ("virtio", True)


def test_the_instancetypes_spelling_is_corrected_in_a_vmi():
    (problem,) = problems(VMI.replace("dedicatedCpuPlacement", "dedicatedCPUPlacement"))
    assert problem.hint == "did you mean dedicatedCpuPlacement?"


def test_running_is_accepted_with_kubevirts_warning():
    vm = {
        "apiVersion": "kubevirt.io/v1alpha3",
        "kind": "VirtualMachine",
        "metadata": {"name": "vm1"},
        "spec": {"running": True, "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "1Gi"}}}}},
    }
    assert [warning.message for warning in load(json.dumps(vm)).warnings] == [
        "kubevirt.io/v1alpha3 is deprecated; it is read as kubevirt.io/v1",
        "spec.running is deprecated, please use spec.runStrategy instead.",
    ]
