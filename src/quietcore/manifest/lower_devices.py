"""Disks with their volumes, and interfaces with their networks -> the model's devices."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Literal, assert_never

from quietcore.manifest.tree import Tree
from quietcore.manifest.validate_cpu import ZERO
from quietcore.model.spec import Bus, CloudInit, ContainerDisk, Disk, EmptyDisk, HostDisk, Interface, Source

_BUSES: Mapping[str, Bus] = {"virtio": "virtio", "sata": "sata", "scsi": "scsi", "usb": "usb"}


def disks(spec: Tree) -> tuple[Disk, ...]:
    """The disks in the order of the manifest."""
    volumes = {volume.text("name"): volume for volume in spec.items("volumes")}
    return tuple(_disk(disk, volumes[disk.text("name")]) for disk in spec.items("domain.devices.disks"))


def _disk(disk: Tree, volume: Tree) -> Disk:
    device: Literal["disk", "cdrom"] = "cdrom" if disk.has("cdrom") else "disk"
    return Disk(
        name=disk.text("name"),
        source=_source(volume),
        bus=_BUSES[disk.text(f"{device}.bus")],
        device=device,
        readonly=disk.flag(f"{device}.readonly", default=device == "cdrom"),
        boot_order=disk.number("bootOrder") or None,
        dedicated_iothread=disk.flag("dedicatedIOThread"),
        cache=disk.text("cache"),
        io=disk.text("io"),
        serial=disk.text("serial"),
    )


def _source(volume: Tree) -> Source:
    if volume.has("containerDisk"):
        return ContainerDisk(image=volume.text("containerDisk.image"), path=volume.text("containerDisk.path"))
    if volume.has("hostDisk"):
        return HostDisk(
            path=volume.text("hostDisk.path"),
            create=volume.text("hostDisk.type") == "DiskOrCreate",
            capacity_bytes=(volume.quantity("hostDisk.capacity") or ZERO).value,
        )
    if volume.has("emptyDisk"):
        return EmptyDisk(capacity_bytes=(volume.quantity("emptyDisk.capacity") or ZERO).value)
    if volume.has("cloudInitNoCloud"):
        return _cloud_init(volume.child("cloudInitNoCloud"), "nocloud")
    return _cloud_init(volume.child("cloudInitConfigDrive"), "configdrive")


def _cloud_init(source: Tree, kind: Literal["nocloud", "configdrive"]) -> CloudInit:
    return CloudInit(kind=kind, user_data=_data(source, "userData"), network_data=_data(source, "networkData"))


def _data(source: Tree, name: str) -> str:
    encoded = source.text(f"{name}Base64")
    return base64.b64decode(encoded).decode() if encoded else source.text(name)


def interfaces(spec: Tree, sockets: Mapping[str, str]) -> tuple[Interface, ...]:
    """The interfaces in the order of the manifest; `sockets` maps a vhost-user interface to its socket."""
    networks = {network.text("name"): network for network in spec.items("networks")}
    return tuple(_interface(one, networks[one.text("name")], sockets) for one in spec.items("domain.devices.interfaces"))


def _interface(interface: Tree, network: Tree, sockets: Mapping[str, str]) -> Interface:
    name = interface.text("name")
    binding: Literal["masquerade", "bridge", "vhostuser"]
    binding = "vhostuser" if interface.has("binding") else "bridge" if interface.has("bridge") else "masquerade"
    match binding:
        case "vhostuser":
            source = sockets[name]
        case "bridge":
            source = network.text("multus.networkName").rpartition("/")[2]
        case "masquerade":
            source = ""
        case _:
            assert_never(binding)
    return Interface(
        name=name,
        binding=binding,
        model=interface.text("model") or "virtio",
        mac=interface.text("macAddress").lower().replace("-", ":"),
        source=source,
        ports=tuple(port.number("port") for port in interface.items("ports")),
        boot_order=interface.number("bootOrder") or None,
    )
