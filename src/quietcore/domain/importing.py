"""An existing libvirt domain -> a KubeVirt manifest, and a sentence for everything in it that has no equivalent."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from lxml import etree

from quietcore.domain.reading import facts, parse_domain
from quietcore.domain.to_manifest_cpu import Import, cpu_part
from quietcore.domain.to_manifest_devices import devices_part
from quietcore.errors import InputError
from quietcore.model import DomainFacts, VmName

Manifest: TypeAlias = dict[str, object]
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_UNDERSTOOD: Final = frozenset(
    [
        "name",
        "uuid",
        "metadata",
        "memory",
        "currentMemory",
        "memoryBacking",
        "vcpu",
        "vcpus",
        "iothreads",
        "iothreadids",
        "cputune",
        "numatune",
        "sysinfo",
        "os",
        "features",
        "cpu",
        "clock",
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "devices",
        "title",
        "description",
        "pm",
        "resource",
        "seclabel",
        "genid",
        "maxMemory",
    ]
)
"""Sections that are carried over, noted elsewhere, or say nothing about what the guest is."""
_FEATURES: Final = frozenset({"acpi", "apic", "pae", "pmu", "kvm", "smm", "vmport"})


def to_manifest(xml: str) -> tuple[Manifest, tuple[str, ...]]:
    """Write the manifest of a VirtualMachineInstance and the notes.

    What is written is valid for `manifest.load`; where KubeVirt's rules do not allow what the domain has, the note says what was
    left out. Raises InputError for text that is no domain, or for a number in it that is none.
    """
    root, found = parse_domain(xml), facts(xml)
    if found.memory_bytes <= 0 or found.vcpus < 1:
        raise InputError("the domain has no memory or no vCPU")
    try:
        return _manifest(root, found)
    except ValueError as err:
        raise InputError(f"the domain's XML cannot be read: {err}") from err


def _manifest(root: etree._Element, found: DomainFacts) -> tuple[Manifest, tuple[str, ...]]:
    notes: list[str] = []
    annotations: dict[str, str] = {}
    domain = cpu_part(root, Import(found=found, annotations=annotations, notes=notes))
    devices, networks, volumes = devices_part(root, annotations, notes)
    domain["devices"] = devices
    firmware = _firmware(root, notes)
    if firmware:
        domain["firmware"] = firmware
    machine = _machine(root, notes)
    if machine:
        domain["machine"] = {"type": machine}
    _others(root, notes)
    spec: Manifest = {"domain": domain}
    architecture = _architecture(root, notes)
    if architecture:
        spec["architecture"] = architecture
    if networks:
        spec["networks"] = networks
    if volumes:
        spec["volumes"] = volumes
    vm = _name(found, notes)
    metadata: Manifest = {"name": vm.name, "namespace": vm.namespace}
    if annotations:
        metadata["annotations"] = dict(sorted(annotations.items()))
    made: Manifest = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata, "spec": spec}
    return made, tuple(notes)


def _name(found: DomainFacts, notes: list[str]) -> VmName:
    if found.vm is not None:
        return found.vm
    name = re.sub(r"[^a-z0-9]+", "-", found.name.lower()).strip("-")[:63].rstrip("-") or "imported"
    if name != found.name:
        notes.append(f"the name {found.name!r} becomes {name!r}: Kubernetes allows lower case letters, digits and dashes")
    return VmName(name=name)


def _architecture(root: etree._Element, notes: list[str]) -> str:
    kind = root.find("os/type")
    written = kind.get("arch", "") if kind is not None else ""
    if written and written not in _ARCHITECTURES:
        notes.append(f"the architecture {written} has no equivalent; amd64 is assumed")
    return _ARCHITECTURES.get(written, "")


def _machine(root: etree._Element, notes: list[str]) -> str:
    kind = root.find("os/type")
    written = kind.get("machine", "") if kind is not None else ""
    if written and not written.startswith(("q35", "pc-q35", "virt")):
        notes.append(f"the machine type {written} has no equivalent: KubeVirt allows q35 only, and the guest sees other hardware")
        return ""
    return written


def _firmware(root: etree._Element, notes: list[str]) -> Manifest:
    made: Manifest = {}
    place, loader = root.find("os"), root.find("os/loader")
    if place is not None and (place.get("firmware") == "efi" or (loader is not None and loader.get("type") == "pflash")):
        secure = loader is not None and loader.get("secure") == "yes"
        secure = secure or any(
            one.get("name") == "secure-boot" and one.get("enabled") == "yes" for one in root.findall("os/firmware/feature")
        )
        made["bootloader"] = {"efi": {"secureBoot": secure}}
        if root.find("os/nvram") is not None:
            notes.append("the EFI variables of <nvram> are not carried over: the VM starts with new ones")
    if root.findtext("os/kernel"):
        notes.append("<kernel> and <initrd> are files of the host; kernelBoot takes them from a container image: build one and add it")
    serial = next((one.text for one in root.findall("sysinfo/system/entry") if one.get("name") == "serial"), None)
    if serial:
        made["serial"] = serial
    uuid = root.findtext("uuid", "")
    if re.fullmatch(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", uuid):
        made["uuid"] = uuid.lower()
    return made


def _others(root: etree._Element, notes: list[str]) -> None:
    for section in root:
        name = etree.QName(section).localname
        if name not in _UNDERSTOOD:
            notes.append(f"<{name}> has no equivalent")
    features = (str(feature.tag) for feature in root.findall("features/*"))
    notes.extend(f"the feature <{name}> is not carried over" for name in features if name not in _FEATURES)
    clock = root.find("clock")
    if clock is not None and clock.get("offset", "utc") != "utc":
        notes.append(f"the clock's offset {clock.get('offset')!r} is not carried over; the guest's clock is in UTC")
    if root.find("cputune/shares") is not None:
        notes.append("CPU shares follow from resources.requests.cpu in KubeVirt; add them there")
    if root.find("maxMemory") is not None or root.findtext("currentMemory", "") not in {"", root.findtext("memory", "")}:
        notes.append("the guest gets the whole <memory>; ballooning to <currentMemory> and memory hotplug have no equivalent")
