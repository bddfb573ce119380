"""Good manifests and ways to break them, for the property tests and the longer fuzzing job."""

import copy
from dataclasses import dataclass

_SPEC = {
    "hostname": "guest",
    "nodeSelector": {"zone": "a"},
    "terminationGracePeriodSeconds": 0,
    "domain": {
        "cpu": {"cores": 2, "sockets": 1, "threads": 2, "dedicatedCpuPlacement": True, "features": [{"name": "svm", "policy": "disable"}]},
        "memory": {"guest": "1Gi", "hugepages": {"pageSize": "2Mi"}},
        "ioThreadsPolicy": "supplementalPool",
        "ioThreads": {"supplementalPoolThreadCount": 2},
        "machine": {"type": "q35"},
        "firmware": {"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223", "bootloader": {"efi": {"secureBoot": False}}},
        "devices": {
            "rng": {},
            "blockMultiQueue": True,
            "disks": [
                {"name": "root", "disk": {"bus": "virtio"}, "bootOrder": 1, "dedicatedIOThread": True},
                {"name": "seed", "cdrom": {"bus": "sata"}},
                {"name": "data"},
            ],
            "interfaces": [{"name": "default", "masquerade": {}, "ports": [{"port": 22}]}, {"name": "lan", "bridge": {}}],
        },
    },
    "networks": [{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "br0"}}],
    "volumes": [
        {"name": "root", "containerDisk": {"image": "registry/disk:v1"}},
        {"name": "seed", "cloudInitNoCloud": {"userDataBase64": "I2Nsb3VkLWNvbmZpZw==", "networkData": "version: 2"}},
        {"name": "data", "hostDisk": {"path": "/var/lib/disk.img", "type": "DiskOrCreate", "capacity": "1Gi"}},
    ],
}
_OUTER = {"name": "vm1", "labels": {"a": "b"}}
_META = _OUTER | {"annotations": {"quietcore.io/strategy": "whole"}}


def _object(kind, spec, api="kubevirt.io/v1", meta=_OUTER):
    return {"apiVersion": api, "kind": kind, "metadata": meta, "spec": spec}


_REALTIME = copy.deepcopy(_SPEC)
_REALTIME["domain"]["cpu"] |= {"numa": {"guestMappingPassthrough": {}}, "realtime": {"mask": "0-3,^1"}, "isolateEmulatorThread": True}
_TYPED = {
    "runStrategy": "Always",
    "instancetype": {"kind": "VirtualMachineInstancetype", "name": "vm1"},
    "preference": {"kind": "VirtualMachinePreference", "name": "vm1"},
    "template": {"metadata": _META, "spec": {"domain": {"devices": {"disks": [{"name": "root"}]}}, "volumes": _SPEC["volumes"][:1]}},
}
_CATALOG = [
    _object(
        "VirtualMachineInstancetype",
        {"cpu": {"guest": 4, "dedicatedCPUPlacement": True}, "memory": {"guest": "1Gi", "overcommitPercent": 10}},
        "instancetype.kubevirt.io/v1beta1",
    ),
    _object(
        "VirtualMachinePreference",
        {
            "cpu": {"preferredCPUTopology": "spread", "spreadOptions": {"across": "SocketsCoresThreads", "ratio": 2}},
            "firmware": {"preferredUseEfi": True, "preferredUseSecureBoot": False},
            "devices": {"preferredDiskBus": "virtio", "preferredCdromBus": "sata"},
            "requirements": {"cpu": {"guest": 2}, "memory": {"guest": "1Mi"}},
        },
        "instancetype.kubevirt.io/v1beta1",
    ),
    _object(
        "KubeVirt",
        {"configuration": {"cpuRequest": "200m", "liveUpdateConfiguration": {"maxCpuSockets": 4, "maxGuest": "8Gi"}}},
    ),
]
MANIFESTS = [
    _object("VirtualMachineInstance", _SPEC, meta=_META),
    _object("VirtualMachineInstance", _REALTIME, meta=_META),
    _object("VirtualMachine", {"running": True, "template": {"metadata": _META, "spec": _SPEC}}),
    {"apiVersion": "v1", "kind": "List", "items": [_object("VirtualMachine", _TYPED), *_CATALOG]},
]


@dataclass(frozen=True)
class Mutation:
    """One change at a place that `where` picks: with a name known to KubeVirt or not, and any value."""

    where: int
    name: str
    value: object


def mutated(good, mutations):
    """A copy of a manifest with changes: a value replaced, a key added, or an item repeated."""
    root = copy.deepcopy(good)
    for one in mutations:
        places = list(_places(root))
        container, key = places[one.where % len(places)]
        action = one.where // len(places) % 4
        if action == 0:
            container[key] = one.value
        elif action == 1 and isinstance(container, dict):
            container[one.name] = one.value
        elif action == 2:
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[one.name] = copy.deepcopy(container[key])
        if not root:
            break
    return root


def _places(node):
    for key in node if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])
