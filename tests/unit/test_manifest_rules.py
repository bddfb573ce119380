"""Rules beyond upstream's table: devices, networks, our own findings, and what is only warned of."""

import copy
import json

import pytest

from quietcore import manifest
from quietcore.errors import InputError

GOOD = {
    "apiVersion": "kubevirt.io/v1",
    "kind": "VirtualMachineInstance",
    "metadata": {"name": "vm1"},
    "spec": {
        "domain": {
            "cpu": {"cores": 4, "dedicatedCpuPlacement": True},
            "memory": {"guest": "1Gi"},
            "devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}], "interfaces": [{"name": "default", "masquerade": {}}]},
        },
        "networks": [{"name": "default", "pod": {}}],
        "volumes": [{"name": "root", "emptyDisk": {"capacity": "1Gi"}}],
    },
}
REALTIME = {"numa": {"guestMappingPassthrough": {}}, "realtime": {}}


def changed(*changes):
    """The good manifest with values put at dotted paths; a number is a list index."""
    result = copy.deepcopy(GOOD)
    for path, value in changes:
        *above, last = path.split("/")
        place = result
        for name in above:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        if isinstance(place, list):
            place[int(last)] = value
        else:
            place[last] = value
    return result


def read(*changes, cluster=manifest.ClusterConfig()):  # noqa: B008  # a frozen value
    return manifest.load([manifest.SourceText(file="f", text=json.dumps(changed(*changes)))], cluster)


def refused(*changes):
    with pytest.raises(InputError) as caught:
        read(*changes)
    return [(problem.field, problem.message, problem.ours) for problem in caught.value.problems]


DISK = "spec/domain/devices/disks/0"
FACE = "spec/domain/devices/interfaces/0"
DISKS, FACES = "spec.domain.devices.disks[0]", "spec.domain.devices.interfaces[0]"


@pytest.mark.parametrize(
    ("path", "value", "field", "message"),
    [
        (f"{DISK}/disk/bus", "ide", f"{DISKS}.disk.bus", "IDE bus is not supported"),
        (
            f"{DISK}/disk/bus",
            "nvme",
            f"{DISKS}.disk.bus",
            f"{DISKS} is set with an unrecognized bus nvme, must be one of: [virtio scsi sata usb]",
        ),
        (f"{DISK}/bootOrder", 0, f"{DISKS}.bootOrder", f"{DISKS} must have a boot order > 0, if supplied"),
        (f"{DISK}/cache", "fast", f"{DISKS}.cache", f"{DISKS}.cache has invalid value fast"),
        (
            f"{DISK}/serial",
            "a b",
            f"{DISKS}.serial",
            f"{DISKS} must be made up of the following characters [A-Za-z0-9_.+-], if specified",
        ),
        (
            f"{DISK}/io",
            "uring",
            f"{DISKS}.io",
            "Disk IO mode for spec.domain.devices.disks is not supported. Supported modes are: native, threads.",
        ),
        (
            "spec/volumes/0/hostDisk",
            {"path": "/a", "type": "Disk"},
            "spec.volumes[0]",
            "spec.volumes[0] must have exactly one source type set",
        ),
        (f"{FACE}/model", "ne3k", f"{FACES}.model", f"interface {FACES}.name uses model ne3k that is not supported."),
        (f"{FACE}/macAddress", "1:2", f"{FACES}.macAddress", f"interface {FACES}.name has malformed MAC address (1:2)."),
        (f"{FACE}/bridge", {}, FACES, "logical default interface must have exactly one binding method or binding plugin"),
        (f"{FACE}/ports", [{"port": 70000}], f"{FACES}.ports[0].port", "Port field must be in range 0 < x < 65536."),
        ("spec/startStrategy", "Running", "spec.startStrategy", "spec.startStrategy is set with an unrecognized option: Running"),
        (
            "spec/domain/firmware",
            {"bootloader": {"efi": {}}},
            "spec.domain",
            "spec.domain has EFI SecureBoot enabled. SecureBoot requires SMM, which is currently disabled.",
        ),
        (
            "spec/domain/firmware",
            {"kernelBoot": {"kernelArgs": "quiet"}},
            "spec.domain.firmware.kernelBoot.kernelArgs",
            "kernel arguments cannot be provided without an external kernel",
        ),
        (
            "spec/domain/machine",
            {"type": "pc"},
            "spec.domain.machine.type",
            "spec.domain.machine.type is not supported: pc (allowed values: [q35* pc-q35*])",
        ),
    ],
)
def test_kubevirt_refuses_it_in_these_words(path, value, field, message):
    assert refused((path, value)) == [(field, message, False)]


CLOUD_INIT = "spec.volumes[0].cloudInitNoCloud"


@pytest.mark.parametrize(
    ("source", "field", "message"),
    [
        ({}, CLOUD_INIT, f"{CLOUD_INIT} must have at least one userdatasource or one networkdatasource set."),
        ({"userData": "a", "userDataBase64": "YQ=="}, CLOUD_INIT, f"{CLOUD_INIT} must have only one userdatasource set."),
        (
            {"userData": "x" * 2049},
            CLOUD_INIT,
            f"{CLOUD_INIT} userdata exceeds 2048 byte limit. Should use UserDataSecretRef for larger data.",
        ),
        (
            {"userDataBase64": "?"},
            f"{CLOUD_INIT}.userDataBase64",
            f"{CLOUD_INIT}.userDataBase64.cloudInitNoCloud.userDataBase64 is not a valid base64 value.",
        ),
    ],
)
def test_cloud_init_data_is_checked_as_in_kubevirt(source, field, message):
    volumes = [{"name": "root", "cloudInitNoCloud": source}]
    assert refused(("spec/volumes", volumes)) == [(field, message, False)]


def test_cloud_init_data_that_is_no_text_is_refused():
    volumes = [{"name": "root", "cloudInitNoCloud": {"userDataBase64": "/w=="}}]
    assert refused(("spec/volumes", volumes)) == [(f"{CLOUD_INIT}.userDataBase64", "the decoded data is not UTF-8 text", True)]


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("spec/domain/cpu/cores", 5000, "spec.domain.cpu"),
        ("spec/domain/cpu/model", "a b", "spec.domain.cpu.model"),
        ("spec/domain/cpu/features", [{"name": "<x>"}], "spec.domain.cpu.features[0].name"),
        ("spec/domain/firmware", {"uuid": "1234"}, "spec.domain.firmware.uuid"),
        ("spec/domain/memory/guest", "0", "spec.domain.memory.guest"),
        ("spec/domain/clock", {"timezone": "../../etc/passwd"}, "spec.domain.clock.timezone"),
        ("spec/domain/resources", {"requests": {"nvidia.com/gpu": 1}}, "spec.domain.resources.requests.nvidia.com/gpu"),
        ("spec/architecture", "s390x", "spec.architecture"),
        ("spec/volumes/0", {"name": "root", "containerDisk": {"image": "-rf /"}}, "spec.volumes[0].containerDisk.image"),
        ("spec/volumes/0", {"name": "root", "containerDisk": {"image": ""}}, "spec.volumes[0].containerDisk.image"),
        ("spec/volumes/0", {"name": "root", "hostDisk": {"path": "../a", "type": "Disk"}}, "spec.volumes[0].hostDisk.path"),
        ("spec/volumes/0", {"name": "root", "hostDisk": {"path": "/a", "type": "DiskOrCreate"}}, "spec.volumes[0].hostDisk"),
        ("metadata/annotations", {"quietcore.io/strategy": "fast"}, "metadata.annotations.quietcore.io/strategy"),
        ("metadata/annotations", {"quietcore.io/stratgy": "whole"}, "metadata.annotations.quietcore.io/stratgy"),
        ("metadata/annotations", {"quietcore.io/realtime-priority": "5"}, "metadata.annotations.quietcore.io/realtime-priority"),
        ("metadata/annotations", {"quietcore.io/dedicated-vcpus": "4-5"}, "metadata.annotations.quietcore.io/dedicated-vcpus"),
        ("metadata/annotations", {"quietcore.io/single-l3": "yes"}, "metadata.annotations.quietcore.io/single-l3"),
    ],
)
def test_what_would_fail_later_or_is_unsafe_is_refused_as_ours(path, value, field):
    problems = refused((path, value))
    assert [(where, ours) for where, _, ours in problems if ours] == [(field, True)]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("a-b", "invalid mask value 'a-b' in 'a-b'"),
        ("3-1", "invalid mask range `3-1`"),
        ("^3", "the mask '^3' makes none of the 4 vCPUs real-time"),
        ("4-9", "the mask '4-9' makes none of the 4 vCPUs real-time"),
    ],
)
def test_masks_are_judged_at_admission(mask, message):
    changes = [(f"spec/domain/cpu/{name}", value) for name, value in REALTIME.items()]
    problems = refused(*changes, ("spec/domain/cpu/realtime", {"mask": mask}), ("spec/domain/memory/hugepages", {"pageSize": "2Mi"}))
    assert problems == [("spec.domain.cpu.realtime.mask", message, True)]


def test_real_time_vcpus_need_dedicated_cpus_in_mixed_mode():
    changes = [(f"spec/domain/cpu/{name}", value) for name, value in REALTIME.items()]
    mixed = ("metadata/annotations", {"quietcore.io/dedicated-vcpus": "0-1"})
    assert refused(*changes, mixed, ("spec/domain/memory/hugepages", {"pageSize": "2Mi"})) == [
        ("spec.domain.cpu.realtime.mask", "real-time vCPUs 2, 3 have no dedicated CPU", True)
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([("spec/domain/cpu/cores", 3)], "3 vCPUs make 3 CPUs, an odd number"),
        ([("spec/domain/cpu/isolateEmulatorThread", True)], "4 vCPUs and 1 emulator CPU make 5 CPUs, an odd number"),
        (
            [("metadata/annotations", {"quietcore.io/strategy": "whole"}), ("spec/domain/ioThreadsPolicy", "auto")],
            "with strategy 'whole' the I/O threads run on the vCPUs' dedicated CPUs",
        ),
        ([("spec/tolerations", [{"key": "a"}])], "ignored: it chooses among the nodes of a cluster"),
        ([("spec/domain/memory/maxGuest", "2Gi")], "memory is not hot-plugged"),
    ],
)
def test_what_costs_something_is_warned_of(changes, words):
    (warning,) = read(*changes).warnings
    assert words in warning.message


def test_one_dedicated_vcpu_is_not_worth_a_warning():
    assert read(("spec/domain/cpu/cores", 1)).warnings == ()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("status", {"phase": "Running"}),
        ("metadata/creationTimestamp", None),
        ("metadata/resourceVersion", "12"),
        ("metadata/managedFields", [{"manager": "kubectl"}]),
        ("spec/domain/devices/autoattachInputDevice", False),
        ("spec/domain/devices/gpus", []),
        ("spec/domain/features", {"acpi": {}, "apic": {}}),
        ("spec/domain/machine", {"type": ""}),
    ],
)
def test_what_changes_nothing_is_accepted_without_a_word(path, value):
    assert read((path, value)).warnings == ()


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("spec/domain/devices/autoattachInputDevice", True, "spec.domain.devices.autoattachInputDevice"),
        ("spec/domain/features", {"acpi": {"enabled": False}}, "spec.domain.features.acpi"),
        ("spec/domain/devices/tpm", {}, "spec.domain.devices.tpm"),
        ("spec/livenessProbe", {"tcpSocket": {"port": 1}}, "spec.livenessProbe"),
    ],
)
def test_what_kubevirt_knows_and_we_do_not_is_refused_by_name(path, value, field):
    ((where, message, _),) = refused((path, value))
    assert (where, message.startswith("known to KubeVirt, not supported here: ")) == (field, True)


def test_arm_guests_get_their_own_defaults():
    spec = read(("spec/architecture", "arm64"), (f"{DISK}/disk", {})).documents[0].spec
    assert (spec.machine_type, spec.cpu.model, spec.cpu.max_sockets) == ("virt", "host-passthrough", 0)
    assert (spec.disks[0].bus, spec.firmware.efi, spec.firmware.secure_boot) == ("virtio", True, False)


def test_the_hotplug_ceiling_follows_the_sockets():
    assert read().documents[0].spec.cpu.max_sockets == 0
    assert read(("spec/domain/cpu", {"sockets": 2})).documents[0].spec.cpu.max_sockets == 8
    assert read(("spec/domain/cpu", {"sockets": 2, "cores": 1, "threads": 1})).documents[0].spec.cpu.max_sockets == 8
    assert read(("spec/domain/cpu", {"sockets": 200, "cores": 1, "threads": 1})).documents[0].spec.cpu.max_sockets == 512
    assert (
        read(("spec/domain/cpu", {"sockets": 2}), cluster=manifest.ClusterConfig(live_update=False)).documents[0].spec.cpu.max_sockets == 0
    )


def test_hook_sidecars_need_kubevirts_gate():
    annotation = ("metadata/annotations", {"hooks.kubevirt.io/hookSidecars": '[{"image": "hook:v1"}]'})
    ((field, message, ours),) = refused(annotation)
    assert (field, ours) == ("metadata.annotations", False)
    assert message.startswith("sidecar feature gate is not enabled in kubevirt-config, invalid entry metadata.annotations.hooks")
    loaded = read(annotation, cluster=manifest.ClusterConfig(feature_gates=frozenset({"Sidecar"})))
    assert loaded.documents[0].spec.sidecars == ("hook:v1",)


def test_a_vhost_user_interface_names_its_socket():
    plugin = {"name": "default", "binding": {"name": "vhostuser"}}
    assert refused(("spec/domain/devices/interfaces", [plugin]))[0][:2] == (f"{FACES}.binding", "a vhost-user interface needs a socket")
    annotation = ("metadata/annotations", {"quietcore.io/vhostuser-default": "/run/ovs/vhu0"})
    (interface,) = read(("spec/domain/devices/interfaces", [plugin]), annotation).documents[0].spec.interfaces
    assert (interface.binding, interface.source) == ("vhostuser", "/run/ovs/vhu0")
