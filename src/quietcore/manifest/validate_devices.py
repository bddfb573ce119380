"""KubeVirt's admission rules for disks, volumes, firmware and start, with its texts (vmi-create-admitter.go, storage/admitters)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from quietcore.manifest.causes import Check
from quietcore.manifest.names import label_faults
from quietcore.manifest.tree import Tree

_SOURCES: Final = ("cloudInitConfigDrive", "cloudInitNoCloud", "containerDisk", "emptyDisk", "hostDisk")
_BUSES: Final = ("virtio", "scsi", "sata", "usb")
_SERIAL: Final = re.compile(r"[A-Za-z0-9_.+-]+")
_LONGEST_SERIAL: Final = 256
_LONGEST_CLOUD_INIT: Final = 2048
_DISKS: Final = "domain.devices.disks"


def check_devices(check: Check) -> None:
    """Every rule of this file."""
    if check.spec.text("hostname"):
        for fault in label_faults(check.spec.text("hostname")):
            check.invalid("hostname", f"{check.at('hostname')} does not conform to the kubernetes DNS_LABEL rules : {fault}")
    _start_strategy(check)
    _boot_orders(check)
    _disks(check)
    _firmware(check)
    _volumes(check)


def _start_strategy(check: Check) -> None:
    strategy = check.spec.text("startStrategy", "Paused")
    if strategy != "Paused":
        check.invalid("startStrategy", f"{check.at('startStrategy')} is set with an unrecognized option: {strategy}")


def _boot_orders(check: Check) -> None:
    volumes = {volume.text("name") for volume in check.spec.items("volumes")}
    taken: set[int] = set()
    for index, disk in enumerate(check.spec.items(_DISKS)):
        path = f"{_DISKS}[{index}]"
        if disk.text("name") not in volumes:
            if disk.has("cdrom"):
                message = "DeclarativeHotplugVolumes feature gate not enabled, cannot define an empty CD-ROM disk"
                check.invalid(f"{path}.name", message)
            else:
                check.invalid(f"{path}.name", f"{check.at(path)}.Name '{disk.text('name')}' not found.")
        _boot_order(check, disk, path, taken)
    for index, interface in enumerate(check.spec.items("domain.devices.interfaces")):
        path = f"domain.devices.interfaces[{index}]"
        if interface.has("bootOrder") and interface.number("bootOrder") < 1:
            check.invalid(f"{path}.bootOrder", f"{check.at(path)} must have a boot order > 0, if supplied")
        _boot_order(check, interface, path, taken)


def _boot_order(check: Check, device: Tree, path: str, taken: set[int]) -> None:
    order = device.number("bootOrder")
    if order < 1:
        return
    if order in taken:
        check.invalid(f"{path}.bootOrder", f"Boot order for {check.at(path)}.bootOrder already set for a different device.")
    taken.add(order)


def _disks(check: Check) -> None:
    seen: dict[str, int] = {}
    for index, disk in enumerate(check.spec.items(_DISKS)):
        path, here = f"{_DISKS}[{index}]", check.at(f"{_DISKS}[{index}]")
        name = disk.text("name")
        if name in seen:
            check.invalid(f"{path}.name", f"{here} and {check.at(_DISKS)}[{seen[name]}] must not have the same Name.")
        seen.setdefault(name, index)
        if disk.has("disk") and disk.has("cdrom"):
            check.invalid(path, f"{here} can only have a single target type defined")
        if disk.has("bootOrder") and disk.number("bootOrder") < 1:
            check.invalid(f"{path}.bootOrder", f"{here} must have a boot order > 0, if supplied")
        _bus(check, disk, path)
        _disk_values(check, disk, path)
        for fault in label_faults(name):
            check.invalid(f"{path}.name", fault)


def _bus(check: Check, disk: Tree, path: str) -> None:
    target = next((one for one in ("disk", "cdrom") if disk.has(one)), "")
    bus = disk.text(f"{target}.bus") if target else ""
    if not bus:
        return
    where = f"{path}.{target}.bus"
    if bus == "ide":
        check.invalid(where, "IDE bus is not supported")
    elif bus == "virtio" and target == "cdrom":
        check.invalid(where, f"Bus type {bus} is invalid for CD-ROM device")
    elif bus == "sata" and target == "disk" and disk.flag("disk.readonly"):
        check.invalid(where, f"{bus} hard-disks do not support read-only.")
    elif bus not in _BUSES:
        check.invalid(where, f"{check.at(path)} is set with an unrecognized bus {bus}, must be one of: [{' '.join(_BUSES)}]")
    if disk.flag("dedicatedIOThread") and bus != "virtio":
        check.invalid(path, f"IOThreads are not supported for disks on a {bus} bus", "FieldValueNotSupported")
    if check.spec.text("architecture") == "arm64" and bus not in {"virtio", "scsi"}:
        check.invalid(where, "Arm64 not support this disk bus type, please use virtio or scsi", "FieldValueNotSupported")


def _disk_values(check: Check, disk: Tree, path: str) -> None:
    here = check.at(path)
    serial, cache, io = disk.text("serial"), disk.text("cache"), disk.text("io")
    if serial and not _SERIAL.fullmatch(serial):
        check.invalid(f"{path}.serial", f"{here} must be made up of the following characters [A-Za-z0-9_.+-], if specified")
    if len(serial) > _LONGEST_SERIAL:
        check.invalid(f"{path}.serial", f"{here} must be less than or equal to {_LONGEST_SERIAL} in length, if specified")
    if cache not in {"", "none", "writethrough", "writeback"}:
        check.invalid(f"{path}.cache", f"{here}.cache has invalid value {cache}")
    if io not in {"", "native", "threads"}:
        message = f"Disk IO mode for {check.at(_DISKS)} is not supported. Supported modes are: native, threads."
        check.invalid(f"{path}.io", message, "FieldValueNotSupported")


def _firmware(check: Check) -> None:
    spec, loader = check.spec, "domain.firmware.bootloader"
    if spec.has(f"{loader}.efi") and spec.has(f"{loader}.bios"):
        check.invalid(loader, f"{check.at(loader)} has both EFI and BIOS configured, but they are mutually exclusive.")
    if spec.text("architecture") == "arm64" and spec.has(f"{loader}.bios"):
        check.invalid(f"{loader}.bios", "Arm64 does not support bios boot, please change to uefi boot", "FieldValueNotSupported")
    secure = spec.has(f"{loader}.efi") and spec.flag(f"{loader}.efi.secureBoot", default=True)
    if secure and not (spec.has("domain.features.smm") and spec.flag("domain.features.smm.enabled", default=True)):
        check.invalid(
            "domain",
            f"{check.at('domain')} has EFI SecureBoot enabled. SecureBoot requires SMM, which is currently disabled.",
        )
    _kernel_boot(check)


def _kernel_boot(check: Check) -> None:
    path = "domain.firmware.kernelBoot"
    boot = check.spec.child(path)
    if not boot.has("container"):
        if boot.text("kernelArgs"):
            check.invalid(f"{path}.kernelArgs", "kernel arguments cannot be provided without an external kernel")
        return
    container, here = boot.child("container"), check.at(f"{path}.container")
    if not container.text("image"):
        check.invalid(f"{path}.container.image", f"{here} must be defined with an image", "FieldValueRequired")
    if not container.text("initrdPath") and not container.text("kernelPath"):
        message = f"{here} must be defined with at least one of the following: kernelPath, initrdPath"
        check.invalid(f"{path}.container", message, "FieldValueRequired")
    for name in ("kernelPath", "initrdPath"):
        if container.text(name):
            _image_path(check, f"{path}.container.{name}", container.text(name))


def _image_path(check: Check, path: str, written: str) -> None:
    parts = written.removesuffix("/").split("/")
    if written == "/":
        check.invalid(path, f"{check.at(path)} must not point to root")
    elif parts[0] or any(part in {"", ".", ".."} for part in parts[1:]):
        check.invalid(path, f"{check.at(path)} must be an absolute path to a file without relative components")


def _volumes(check: Check) -> None:
    seen: dict[str, int] = {}
    for index, volume in enumerate(check.spec.items("volumes")):
        path, here = f"volumes[{index}]", check.at(f"volumes[{index}]")
        name = volume.text("name")
        if name in seen:
            check.invalid(f"{path}.name", f"{here} and {check.at('volumes')}[{seen[name]}] must not have the same Name.")
        seen.setdefault(name, index)
        if sum(volume.has(source) for source in _SOURCES) != 1:
            check.invalid(path, f"{here} must have exactly one source type set")
        for source in ("cloudInitNoCloud", "cloudInitConfigDrive"):
            if volume.has(source):
                _cloud_init(check, volume.child(source), f"{path}.{source}")
                break
        if volume.text("containerDisk.path"):
            _image_path(check, f"{path}.containerDisk", volume.text("containerDisk.path"))
        if volume.has("hostDisk"):
            _host_disk(check, volume.child("hostDisk"), f"{path}.hostDisk")


def _cloud_init(check: Check, source: Tree, path: str) -> None:
    here, kind = check.at(path), path.rpartition(".")[2]
    counts: list[int] = []
    for name, words in (("userData", "userdatasource"), ("networkData", "networkdata source")):
        plain, encoded = source.text(name), source.text(f"{name}Base64")
        size = len(plain.encode())
        if encoded:
            try:
                decoded = len(base64.b64decode(encoded, validate=True))
            except (binascii.Error, ValueError):
                decoded = 0
                check.invalid(f"{path}.{name}Base64", f"{here}.{name}Base64.{kind}.{name}Base64 is not a valid base64 value.")
            size = size or decoded
        counts.append(bool(plain) + bool(encoded))
        if counts[-1] > 1:
            check.invalid(path, f"{here} must have only one {words} set.")
        if size > _LONGEST_CLOUD_INIT:
            lower, secret = name.lower(), f"{name[0].upper()}{name[1:]}SecretRef"
            reference = "UserDataSecretRef" if name == "userData" else secret
            message = f"{here} {lower} exceeds {_LONGEST_CLOUD_INIT} byte limit. Should use {reference} for larger data."
            check.invalid(path, message, hint="there are no secrets on a host: let the guest fetch the rest itself")
    if not any(counts):
        check.invalid(path, f"{here} must have at least one userdatasource or one networkdatasource set.")


def _host_disk(check: Check, disk: Tree, path: str) -> None:
    here, kind = check.at(path), disk.text("type")
    if not disk.text("path"):
        check.invalid(f"{path}.path", f"{here}.path is required for hostDisk volume", "FieldValueNotFound")
    if kind not in {"Disk", "DiskOrCreate"}:
        check.invalid(f"{path}.type", f"{here}.type has invalid value '{kind}', allowed are 'Disk' or 'DiskOrCreate'")
    capacity = disk.quantity("capacity")
    if kind == "Disk" and capacity is not None and capacity.amount:
        check.invalid(f"{path}.capacity", f"{here}.capacity is allowed to pass only with {here}.type equal to 'DiskOrCreate'")
