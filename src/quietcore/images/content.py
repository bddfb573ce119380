"""One image's files on disk: a directory that is filled once and described by a record, and the value that callers get of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final

from quietcore.errors import OperationFailed
from quietcore.images.files import copy_stream, sync_directory
from quietcore.images.formats import DiskFormat, disk_format
from quietcore.images.tree import below, follow, inner, inner_parts

DISK_DIRECTORY: Final = "/disk"
"""Where a container disk keeps its image: exactly one file below it (KubeVirt's containerDisk convention)."""


DIRECTORY_MODE: Final = 0o711
"""QEMU's user opens files by name below it; nobody lists it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of an image: its sha256 in hexadecimal digits and its length."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of the store. `files` and `links` are keyed by absolute paths inside the image; `sha256` covers all of them."""

    reference: str
    sha256: str
    directory: Path
    files: Mapping[str, StoredFile]
    links: Mapping[str, str]

    @property
    def size_bytes(self) -> int:
        """The sum of the lengths of its files."""
        return sum(file.size_bytes for file in self.files.values())

    @property
    def disks(self) -> tuple[str, ...]:
        """The files that the containerDisk convention takes for disks, as paths inside the image."""
        return below(self.files, DISK_DIRECTORY)

    def file(self, path: str) -> Path:
        """The file on the host that stands for `path` inside the image; links are followed inside the image only.

        Raises OperationFailed when the image has no such file.
        """
        try:
            real = follow(path, self.links)
        except ValueError as err:
            raise OperationFailed(f"image {self.reference}: {err}") from err
        if real not in self.files:
            near = [one for one in sorted(self.files) if one.rsplit("/", 1)[-1] == real.rsplit("/", 1)[-1]]
            shown = ", ".join((near or sorted(self.files))[:5]) or "no file at all"
            raise OperationFailed(f"image {self.reference} has no file {inner(path)}", hint=f"it has {shown}")
        return self.directory.joinpath(*inner_parts(real))

    def disk(self, path: str = "") -> tuple[Path, DiskFormat]:
        """The disk image at `path`, by default the only file below /disk, and its format. Raises OperationFailed or InputError."""
        if path:
            found = self.file(path)
            return found, disk_format(found, f"{self.reference}:{inner(path)}")
        match self.disks:
            case (only,):
                found = self.file(only)
                return found, disk_format(found, f"{self.reference}:{only}")
            case ():
                hint = "a container disk holds its image below /disk; name another place with containerDisk.path"
                raise OperationFailed(f"image {self.reference} has no disk", hint=hint)
            case several:
                hint = f"name one with containerDisk.path: {', '.join(several[:5])}"
                raise OperationFailed(f"image {self.reference} has {len(several)} files below /disk, not one", hint=hint)


class ContentWriter:
    """Fills a new directory with an image's files; no link of the image is ever made on the host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, StoredFile] = {}
        self._links: dict[str, str] = {}

    def add(self, path: str, stream: IO[bytes]) -> None:
        """Store the file `path` of the image."""
        target = self._target(path)
        sha256, size_bytes = copy_stream(stream, target)
        self._files[inner(path)] = StoredFile(sha256=sha256, size_bytes=size_bytes)

    def same(self, path: str, first: str) -> None:
        """Store the file `path` as another name of `first`, which is stored already."""
        os.link(self._target(first), self._target(path))
        self._files[inner(path)] = self._files[inner(first)]

    def link(self, path: str, target: str) -> None:
        """Remember that `path` is a symbolic link of the image with this text."""
        self._links[inner(path)] = target

    def _target(self, path: str) -> Path:
        *parents, name = inner_parts(path)
        directory = self._directory
        for part in parents:
            directory /= part
            if not directory.is_dir():
                directory.mkdir()
                directory.chmod(DIRECTORY_MODE)  # the umask of the caller must not decide who can open an image
        return directory / name

    def finish(self, reference: str) -> StoredImage:
        """Make everything durable and describe it. Raises InputError when a file below /disk is no disk image."""
        image = StoredImage(
            reference=reference,
            sha256=tree_sha256(self._files, self._links),
            directory=self._directory,
            files=MappingProxyType(dict(sorted(self._files.items()))),
            links=MappingProxyType(dict(sorted(self._links.items()))),
        )
        for path in image.disks:
            disk_format(image.file(path), f"{reference}:{path}")
        for directory, _, _ in os.walk(self._directory):
            sync_directory(Path(directory))
        return image


def tree_sha256(files: Mapping[str, StoredFile], links: Mapping[str, str]) -> str:
    """One sha256 over the names, contents and links of an image, independent of where it came from."""
    lines = [f"file {path!a} {file.sha256}" for path, file in files.items()]
    lines += [f"link {path!a} {target!a}" for path, target in links.items()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
