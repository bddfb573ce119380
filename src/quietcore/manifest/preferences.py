"""Preferences: what they fill in where the VM says nothing, and what they require (KubeVirt's pkg/instancetype/preference)."""

from __future__ import annotations

from typing import Final

from quietcore.manifest.causes import Cause
from quietcore.manifest.instancetypes import ACROSS, DEPRECATED, SUPPORTED, preferred_topology, spread_options
from quietcore.manifest.tree import Tree
from quietcore.manifest.validate_cpu import ZERO

_DEVICES: Final = {
    "preferredBlockMultiQueue": "blockMultiQueue",
    "preferredNetworkInterfaceMultiQueue": "networkInterfaceMultiqueue",
    "preferredRng": "rng",
    "preferredAutoattachGraphicsDevice": "autoattachGraphicsDevice",
    "preferredAutoattachMemBalloon": "autoattachMemBalloon",
    "preferredAutoattachPodInterface": "autoattachPodInterface",
    "preferredAutoattachSerialConsole": "autoattachSerialConsole",
}


def apply_preference(preference: Tree, spec: Tree, annotations: dict[str, str]) -> None:
    """Fill in what the VM leaves open. Changes `spec` and `annotations`."""
    named = {feature.text("name") for feature in spec.items("domain.cpu.features")}
    for feature in preference.copy().items("cpu.preferredCPUFeatures"):
        if feature.text("name") not in named:
            spec.add("domain.cpu.features", feature.data)
    for theirs, ours in _DEVICES.items():
        if preference.has(f"devices.{theirs}") and not spec.has(f"domain.devices.{ours}"):
            spec.put(f"domain.devices.{ours}", preference.get(f"devices.{theirs}"))
    if preference.has("devices"):
        _disks(preference.child("devices"), spec)
        model = preference.text("devices.preferredInterfaceModel")
        for interface in spec.items("domain.devices.interfaces"):
            if model and not interface.text("model"):
                interface.put("model", model)
    if preference.has("firmware"):
        _firmware(preference.child("firmware"), spec)
    if preference.text("machine.preferredMachineType") and not spec.text("domain.machine.type"):
        spec.put("domain.machine.type", preference.text("machine.preferredMachineType"))
    if preference.has("preferredTerminationGracePeriodSeconds") and not spec.has("terminationGracePeriodSeconds"):
        spec.put("terminationGracePeriodSeconds", preference.number("preferredTerminationGracePeriodSeconds"))
    for name, value in preference.mapping("annotations").items():
        annotations.setdefault(name, value)


def _disks(devices: Tree, spec: Tree) -> None:
    buses = {"disk": "preferredDiskBus", "cdrom": "preferredCdromBus"}
    for disk in spec.items("domain.devices.disks"):
        target = next((one for one in buses if disk.has(one)), "disk")
        if not disk.text(f"{target}.bus"):
            disk.put(f"{target}.bus", devices.text(buses[target]))
        if target != "disk":
            continue
        for ours, theirs in (("cache", "preferredDiskCache"), ("io", "preferredDiskIO")):
            if devices.text(theirs) and not disk.text(ours):
                disk.put(ours, devices.text(theirs))
        if devices.has("preferredDiskDedicatedIoThread") and not disk.has("dedicatedIOThread") and disk.text("disk.bus") == "virtio":
            disk.put("dedicatedIOThread", devices.flag("preferredDiskDedicatedIoThread"))


def _firmware(firmware: Tree, spec: Tree) -> None:
    loader = spec.child("domain.firmware.bootloader").copy()
    chosen = loader.has("efi") or loader.has("bios")
    if firmware.flag("preferredUseBios") and not chosen:
        loader.put("bios", {})
    elif firmware.has("preferredEfi") and not chosen:
        loader.put("efi", firmware.copy().get("preferredEfi"))
    else:
        if firmware.flag("preferredUseEfi") and not chosen:
            loader.put("efi", {})
        if firmware.has("preferredUseSecureBoot") and loader.has("efi") and not loader.has("efi.secureBoot"):
            loader.put("efi.secureBoot", firmware.flag("preferredUseSecureBoot"))
    if loader.data:
        spec.put("domain.firmware.bootloader", loader.data)


def preference_faults(preference: Tree) -> tuple[Cause, ...]:
    """What KubeVirt's webhook for preferences refuses or warns of."""
    path, written = "spec.cpu.preferredCPUTopology", preference.text("cpu.preferredCPUTopology", "sockets")
    if written in DEPRECATED:
        end = f"deprecated for removal in a future release, please use {DEPRECATED[written]} instead"
        return (*_spread_faults(preference), Cause(field=path, message=f"PreferredCPUTopology {written} is {end}", warning=True))
    if written not in SUPPORTED:
        return (Cause(field=path, message=f"unknown preferredCPUTopology {written}"),)
    return _spread_faults(preference)


def _spread_faults(preference: Tree) -> tuple[Cause, ...]:
    if preferred_topology(preference) != "spread":
        return ()
    ratio, across = spread_options(preference)
    path = "spec.cpu.spreadOptions"
    if across not in ACROSS:
        return (Cause(field=f"{path}.across", message=f"across {across} is not supported"),)
    if across == "CoresThreads" and ratio != 2:
        message = "only a ratio of 2 (1 core 2 threads) is allowed when spreading vCPUs over cores and threads"
        return (Cause(field=f"{path}.ratio", message=message),)
    if ratio < 1:
        return (Cause(field=f"{path}.ratio", message="a ratio of 0 spreads nothing", ours=True, hint="the default is 2"),)
    return ()


def unmet_requirement(instancetype: Tree | None, preference: Tree, spec: Tree) -> Cause | None:
    """The first requirement of the preference that the VM does not meet, checked on a spec with its defaults."""
    if preference.has("requirements.cpu"):
        paths, text = _cpu_shortage(instancetype, preference, spec)
        if text:
            return _unmet(paths, text)
    if preference.has("requirements.memory"):
        wanted = preference.quantity("requirements.memory.guest") or ZERO
        given = spec.quantity("domain.memory.guest") or ZERO
        if given < wanted:
            by = "VirtualMachine" if instancetype is None else "instance type"
            path = "spec.template.spec.domain.memory" if instancetype is None else "spec.instancetype"
            return _unmet(path, f"insufficient Memory resources of {given} provided by {by}, preference requires {wanted}")
    return None


def _unmet(paths: str, text: str) -> Cause:
    return Cause(field=paths, message=f"failure checking preference requirements: {text}", type="FieldValueNotFound")


def _cpu_shortage(instancetype: Tree | None, preference: Tree, spec: Tree) -> tuple[str, str]:
    wanted = preference.number("requirements.cpu.guest")
    if instancetype is not None:
        given = instancetype.number("cpu.guest")
        text = f"insufficient CPU resources of {given} vCPU provided by instance type, preference requires {wanted} vCPU"
        return ("spec.instancetype", text) if given < wanted else ("", "")
    parts, provided_as = _counted(preference)
    given = 1
    for part in parts:
        given *= spec.number(f"domain.cpu.{part}")
    if given >= wanted:
        return "", ""
    needed = f"preference requires {wanted} vCPU provided as {provided_as}"
    paths = ", ".join(f"spec.template.spec.domain.cpu.{part}" for part in parts)
    return paths, f"insufficient CPU resources of {given} vCPU provided by VirtualMachine, {needed}"


def _counted(preference: Tree) -> tuple[tuple[str, ...], str]:
    """The parts of the topology whose product has to suffice, and KubeVirt's name for them."""
    preferred = preferred_topology(preference)
    if preferred == "any":
        return ("cores", "sockets", "threads"), "cores, sockets and threads"
    if preferred != "spread":
        return (preferred,), preferred
    across = spread_options(preference)[1]
    parts = {"SocketsCores": ("sockets", "cores"), "CoresThreads": ("cores", "threads")}
    return parts.get(across, ("sockets", "cores", "threads")), across
