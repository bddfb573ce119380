"""Tells the format of a disk image by its first bytes and refuses those that reach outside themselves or cannot boot as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeAlias

from quietcore.errors import InputError, Problem

DiskFormat: TypeAlias = Literal["raw", "qcow2", "iso"]

_HEAD_BYTES: Final = 0x8001 + 5
_SECTOR_BYTES: Final = 512
_EXTERNAL_DATA_FILE: Final = 1 << 2
"""Incompatible feature bit 2 of qcow2: the guest's data lies in another file (QEMU, docs/interop/qcow2.txt)."""

_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"PK\x03\x04", "zip", "unzip"),
)
_OTHER_DISKS: Final = (
    (0, b"KDMV", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"QED\x00", "qed"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0x40, b"\x7f\x10\xda\xbe", "vdi"),
)


def disk_format(path: Path, shown: str = "") -> DiskFormat:
    """The format of the disk image at `path`, called `shown` in messages.

    A qcow2 file that names a backing file or an external data file is refused: it would let an image read any file of the host.
    Raises InputError with what to do instead.
    """
    name = shown or str(path)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    size = path.stat().st_size
    if head.startswith(b"QFI\xfb"):
        _check_qcow2(head, name)
        return "qcow2"
    if head[0x8001:] == b"CD001":
        return "iso"
    for magic, what, tool in _COMPRESSED:
        if head.startswith(magic):
            raise _refused(f"{name} is compressed with {what}", f"unpack it first: {tool} {name}")
    for offset, magic, what in _OTHER_DISKS:
        if head[offset : offset + len(magic)] == magic:
            raise _refused(f"{name} is a {what} image", f"convert it first: qemu-img convert -O qcow2 {name} disk.qcow2")
    if not size or size % _SECTOR_BYTES:
        hint = "a raw disk is a whole number of 512-byte sectors; is it really a disk image?"
        raise _refused(f"{name} is no disk image: {size} bytes, and no format that is known", hint)
    return "raw"


def _check_qcow2(head: bytes, name: str) -> None:
    version = int.from_bytes(head[4:8], "big")
    if version not in (2, 3):
        raise _refused(f"{name} is a qcow2 image of the unknown version {version}", "versions 2 and 3 are known")
    if int.from_bytes(head[8:16], "big"):
        hint = f"make it stand alone: qemu-img convert -O qcow2 {name} standalone.qcow2"
        raise _refused(f"{name} is a qcow2 image that names a backing file", hint)
    if version == 3 and int.from_bytes(head[72:80], "big") & _EXTERNAL_DATA_FILE:
        hint = f"make it stand alone: qemu-img convert -O qcow2 {name} standalone.qcow2"
        raise _refused(f"{name} is a qcow2 image that keeps its data in another file", hint)


def _refused(message: str, hint: str) -> InputError:
    return InputError(message, hint=hint, problems=(Problem(message=message, code="image-content", hint=hint),))
