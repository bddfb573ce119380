"""Disks, interfaces and switches of a libvirt domain in KubeVirt's words."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from lxml import etree

Part: TypeAlias = dict[str, object]
_SILENT: Final = frozenset(
    [
        "emulator",
        "disk",
        "interface",
        "controller",
        "input",
        "serial",
        "console",
        "graphics",
        "video",
        "audio",
        "sound",
        "memballoon",
        "rng",
        "hub",
    ]
)
"""Devices that are handled here, or that no guest misses."""
_MODELS: Final = frozenset({"e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "virtio"})
_VHOSTUSER: Final = "quietcore.io/vhostuser-"


def devices_part(root: etree._Element, annotations: dict[str, str], notes: list[str]) -> tuple[Part, list[Part], list[Part]]:
    """`spec.domain.devices`, `spec.networks` and `spec.volumes`; adds annotations and notes."""
    devices: Part = {}
    _switches(root, devices)
    disks, volumes = _disks(root, notes)
    if disks:
        devices["disks"] = disks
    interfaces, networks = _interfaces(root, annotations, notes)
    if interfaces:
        devices["interfaces"] = interfaces
    else:
        devices["autoattachPodInterface"] = False
    for device in root.findall("devices/*"):
        if str(device.tag) not in _SILENT:
            kind = device.get("type") or device.get("model") or ""
            notes.append(f"the device <{device.tag!s}{f' type={kind!r}' if kind else ''}> has no equivalent")
    return devices, networks, volumes


def _switches(root: etree._Element, devices: Part) -> None:
    balloon = root.find("devices/memballoon")
    if root.find("devices/graphics") is None:
        devices["autoattachGraphicsDevice"] = False
    if root.find("devices/serial") is None and root.find("devices/console") is None:
        devices["autoattachSerialConsole"] = False
    if balloon is not None and balloon.get("model") == "none":
        devices["autoattachMemBalloon"] = False
    if root.find("devices/rng") is not None:
        devices["rng"] = {}
    drivers = [disk.find("driver") for disk in root.findall("devices/disk")]
    if any(driver is not None and driver.get("queues") for driver in drivers):
        devices["blockMultiQueue"] = True
    if root.find("devices/interface/driver[@queues]") is not None:
        devices["networkInterfaceMultiqueue"] = True


def _disks(root: etree._Element, notes: list[str]) -> tuple[list[Part], list[Part]]:
    disks: list[Part] = []
    volumes: list[Part] = []
    threads = [_iothread(disk) for disk in root.findall("devices/disk")]
    for disk in root.findall("devices/disk"):
        target = disk.find("target")
        name = target.get("dev", "disk") if target is not None else "disk"
        source = disk.find("source")
        file = source.get("file") if source is not None else None
        if disk.get("device", "disk") not in {"disk", "cdrom"} or not file:
            what = "is empty" if source is None else f"is of type {disk.get('type', '')!r}, which needs a volume of the cluster"
            notes.append(f"disk {name} is not carried over: it {what if disk.get('device', 'disk') in {'disk', 'cdrom'} else 'is no disk'}")
            continue
        _format(disk, name, file, notes)
        thread = _iothread(disk)
        own = thread is not None and threads.count(thread) == 1 and len(set(threads) - {None}) > 1
        disks.append(_disk(disk, name, notes, own_thread=own))
        volumes.append({"name": name, "hostDisk": {"path": file, "type": "Disk"}})
    return disks, volumes


def _disk(disk: etree._Element, name: str, notes: list[str], *, own_thread: bool) -> Part:
    device, target, driver, boot = disk.get("device", "disk"), disk.find("target"), disk.find("driver"), disk.find("boot")
    bus = target.get("bus", "virtio") if target is not None else "virtio"
    if bus not in {"virtio", "sata", "scsi", "usb"} or (device == "cdrom" and bus == "virtio"):
        notes.append(f"disk {name}: the bus {bus} has no equivalent; sata takes its place")
        bus = "sata"
    how: Part = {"bus": bus}
    if disk.find("readonly") is not None:
        how["readonly"] = True
    made: Part = {"name": name, device: how}
    optional: tuple[tuple[str, object], ...] = (
        ("cache", driver.get("cache") if driver is not None else None),
        ("io", driver.get("io") if driver is not None else None),
        ("serial", disk.findtext("serial")),
        ("bootOrder", int(boot.get("order", "1")) if boot is not None else None),
        ("dedicatedIOThread", own_thread or None),
    )
    return made | {key: value for key, value in optional if value is not None}


def _iothread(disk: etree._Element) -> str | None:
    driver = disk.find("driver")
    return driver.get("iothread") if driver is not None else None


def _format(disk: etree._Element, name: str, file: str, notes: list[str]) -> None:
    driver = disk.find("driver")
    written = driver.get("type", "raw") if driver is not None else "raw"
    if written != "raw":
        notes.append(f"disk {name}: {file} is {written}, and a hostDisk is raw: convert it (qemu-img convert -O raw) and change the path")


def _interfaces(root: etree._Element, annotations: dict[str, str], notes: list[str]) -> tuple[list[Part], list[Part]]:
    interfaces: list[Part] = []
    networks: list[Part] = []
    makers: dict[str, Callable[[etree._Element], tuple[Part, str]]] = {
        "bridge": _bridge,
        "user": _user,
        "network": _network,
        "vhostuser": _socket,
    }
    for number, interface in enumerate(root.findall("devices/interface")):
        name, kind = f"net{number}", interface.get("type", "")
        maker = makers.get(kind)
        if maker is None:
            notes.append(f"interface {name} of type {kind!r} has no equivalent")
            continue
        binding, target = maker(interface)
        if "masquerade" in binding and any("pod" in network for network in networks):
            notes.append(f"interface {name} is not carried over: a VM has one masqueraded interface")
            continue
        if kind == "network":
            notes.append(f"interface {name}: libvirt's network {target!r} has no equivalent; it becomes a masqueraded interface")
        if kind == "vhostuser":
            annotations[f"{_VHOSTUSER}{name}"] = target
        interfaces.append({"name": name} | binding | _hardware(interface, name, notes))
        networks.append({"name": name, "pod": {}} if "masquerade" in binding else {"name": name, "multus": {"networkName": _label(target)}})
    return interfaces, networks


def _bridge(interface: etree._Element) -> tuple[Part, str]:
    return {"bridge": {}}, _source(interface, "bridge")


def _user(_interface: etree._Element) -> tuple[Part, str]:
    return {"masquerade": {}}, ""


def _network(interface: etree._Element) -> tuple[Part, str]:
    return {"masquerade": {}}, _source(interface, "network")


def _socket(interface: etree._Element) -> tuple[Part, str]:
    return {"binding": {"name": "vhostuser"}}, _source(interface, "path")


def _source(interface: etree._Element, attribute: str) -> str:
    source = interface.find("source")
    return source.get(attribute, "") if source is not None else ""


def _label(target: str) -> str:
    # A socket's path is no name of a network; its last part is.
    return re.sub(r"[^A-Za-z0-9_.-]", "-", target.rpartition("/")[2]) or "none"


def _hardware(interface: etree._Element, name: str, notes: list[str]) -> Part:
    made: Part = {}
    mac, model, boot = interface.find("mac"), interface.find("model"), interface.find("boot")
    if mac is not None:
        made["macAddress"] = mac.get("address", "")
    kind = model.get("type", "virtio") if model is not None else "virtio"
    if kind in _MODELS:
        made["model"] = kind
    else:
        notes.append(f"interface {name}: the model {kind} has no equivalent; virtio takes its place")
    if boot is not None:
        made["bootOrder"] = int(boot.get("order", "1"))
    return made
