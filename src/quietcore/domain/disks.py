"""Disks, CD-ROMs and cloud-init seeds, and the controllers that they need."""

from __future__ import annotations

from typing import Final

from lxml import etree

from quietcore.domain.build import DiskFile
from quietcore.domain.draft import Draft, add
from quietcore.domain.iothreads import IoLayout, io_layout
from quietcore.errors import Problem
from quietcore.model import CloudInit, Disk

MULTI_IOTHREAD: Final = 10_000_000
"""libvirt 10.0.0 learned to give one disk several I/O threads (<iothreads> in <driver>)."""
_PREFIX: Final = {"virtio": "vd", "sata": "sd", "scsi": "sd", "usb": "sd"}


def contribute(draft: Draft) -> None:
    """Write a <disk> for each disk; a cloud-init seed is a read-only raw image like any other."""
    layout = io_layout(draft.spec)
    if layout.pool and draft.build.libvirt_version < MULTI_IOTHREAD and any(disk.bus == "virtio" for disk in draft.spec.disks):
        draft.notes.append(
            "this libvirt gives a disk one I/O thread only (several from 10.0.0): the disks take turns in the supplemental pool"
        )
    count = dict.fromkeys(_PREFIX.values(), 0)
    for disk in draft.spec.disks:
        prefix = _PREFIX[disk.bus]
        target = prefix + letters(count[prefix])
        count[prefix] += 1
        file = draft.build.disks.get(disk.name)
        if file is None:
            draft.problems.append(Problem(message=f"no image file was given for disk {disk.name}", code="disk-without-file", ours=True))
            continue
        _disk(draft, disk, file, target, layout)
    _controllers(draft, layout)


def letters(number: int) -> str:
    """The suffix of a disk's target: 0 is "a", 25 is "z", 26 is "aa"."""
    suffix = ""
    while number >= 0:
        number, letter = divmod(number, 26)
        suffix = chr(ord("a") + letter) + suffix
        number -= 1
    return suffix


def _disk(draft: Draft, disk: Disk, file: DiskFile, target: str, layout: IoLayout) -> None:
    made = add(draft.section("devices"), "disk", type="file", device=disk.device)
    _driver(draft, made, disk, file, layout)
    add(made, "source", file=file.path)
    add(made, "target", dev=target, bus=disk.bus)
    if disk.readonly or file.readonly or disk.device == "cdrom" or isinstance(disk.source, CloudInit):
        add(made, "readonly")
    if disk.serial:
        add(made, "serial", disk.serial)
    if disk.boot_order is not None:
        add(made, "boot", order=disk.boot_order)
    add(made, "alias", name=f"ua-{disk.name}")  # libvirt leaves aliases with this prefix to the user


def _driver(draft: Draft, made: etree._Element, disk: Disk, file: DiskFile, layout: IoLayout) -> None:
    virtio = disk.bus == "virtio"
    thread = layout.of_disk.get(disk.name)
    several = layout.pool and draft.build.libvirt_version >= MULTI_IOTHREAD
    driver = add(
        made,
        "driver",
        name="qemu",
        type=file.format,
        cache=disk.cache or ("none" if disk.io == "native" else None),  # native I/O is refused with the page cache
        error_policy="stop",
        io=disk.io or None,
        discard="unmap",
        iothread=None if several else thread,
        queues=draft.spec.cpu.topology.vcpus if virtio and draft.spec.block_multiqueue else None,
    )
    if several and virtio:
        threads = add(driver, "iothreads")
        for number in range(1, layout.total + 1):
            add(threads, "iothread", id=number)


def _controllers(draft: Draft, layout: IoLayout) -> None:
    devices, buses = draft.section("devices"), {disk.bus for disk in draft.spec.disks}
    # An emulated USB controller polls; without a USB disk there is none.
    add(devices, "controller", type="usb", index=0, model="qemu-xhci" if "usb" in buses else "none")
    if "scsi" in buses:
        scsi = add(devices, "controller", type="scsi", index=0, model="virtio-scsi")
        if layout.scsi is not None:
            add(scsi, "driver", iothread=layout.scsi, queues=draft.spec.cpu.topology.vcpus)
