"""The local store of container images' files: import, pull, look up, list, remove; a crash leaves the old state or the new one.

ROOT/refs/KEY.json      one record per image name: its files with their sha256, and the directory that holds them
ROOT/content/NAME/      the files; written under a new name each time, then the record is replaced by rename
ROOT/.lock              held while the store changes; what no record names is removed at the next change
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from quietcore.errors import InputError, OperationFailed, PermissionProblem, Problem
from quietcore.images.content import DIRECTORY_MODE, DISK_DIRECTORY, ContentWriter, StoredFile, StoredImage
from quietcore.images.files import opened, write_whole
from quietcore.images.formats import disk_format
from quietcore.images.reference import canonical
from quietcore.images.runner import Runner
from quietcore.images.tree import inner

_SCHEMA: Final = 1
_PULL_TIMEOUT_S: Final = 3600
_ROOT_MODE: Final = 0o755


class ImageStore:
    """A store below `root`, by default /var/lib/quietcore/images. Reading needs no lock and writes nothing."""

    def __init__(self, root: Path, runner: Runner) -> None:
        self._root = root
        self._runner = runner

    def resolve(self, reference: str) -> StoredImage:
        """The image of this name. Raises OperationFailed with the command that would bring it."""
        image = self.find(reference)
        if image is None:
            raise OperationFailed(f"image {canonical(reference)} is not in the image store", hint=how_to_get(reference))
        return image

    def find(self, reference: str) -> StoredImage | None:
        """The image of this name, or None. Raises InputError for a text that is no image name."""
        return self._load(self._record(canonical(reference)))

    def list(self) -> tuple[StoredImage, ...]:
        """Every image, by name."""
        records = sorted((self._root / "refs").glob("*.json"))
        return tuple(sorted((image for image in map(self._load, records) if image is not None), key=lambda one: one.reference))

    def import_path(self, reference: str, source: Path, *, member: str = "") -> StoredImage:
        """Store a disk image, or a directory's files, under an image name; what had that name before is replaced.

        A file is a disk image and becomes /disk/NAME, unless `member` names another place inside the image. The files of a directory
        keep their paths, below `member` when that is given. Links are kept as text and never lead out of the image.
        Raises InputError for a source that cannot be one.
        """
        name = canonical(reference)
        try:
            real = source.resolve(strict=True)
        except OSError as err:
            raise _unusable(f"{source}: {err.strerror}") from err
        if real.is_file() and (not member or inner(member).startswith(f"{DISK_DIRECTORY}/")):
            disk_format(real, str(source))
        with self._changing() as directory:
            writer = ContentWriter(directory)
            try:
                if real.is_dir():
                    _add_directory(writer, real, inner(member))
                elif real.is_file():
                    with opened(real) as stream:
                        writer.add(member or f"{DISK_DIRECTORY}/{source.name}", stream)
                else:
                    raise _unusable(f"{source} is neither a file nor a directory")
            except OSError as err:
                raise OperationFailed(f"{source} could not be imported: {err}") from err
            return self._keep(writer.finish(name))

    def pull(self, reference: str, *, tls_verify: bool = True, timeout_s: float = _PULL_TIMEOUT_S) -> StoredImage:
        """Bring an image from its registry with skopeo, for this machine's architecture, and store all of its files.

        Raises OperationFailed with skopeo's own words.
        """
        from quietcore.images.layers import unpack  # noqa: PLC0415  # brings tarfile, which no other use of the store needs

        name = canonical(reference)
        with self._changing() as directory, tempfile.TemporaryDirectory(prefix=".pull-", dir=self._root) as work:
            oci = Path(work) / "oci"
            hint = f"check the name and the way to the registry with: skopeo inspect docker://{name}"
            options = [] if tls_verify else ["--src-tls-verify=false"]
            self._runner.run(
                ["skopeo", "copy", "--quiet", *options, f"docker://{name}", f"oci:{oci}:image"], timeout_s=timeout_s, hint=hint
            )
            writer = ContentWriter(directory)
            unpack(oci, writer, self._runner)
            image = writer.finish(name)
            if not image.files:
                raise OperationFailed(f"image {name} holds no files")
            return self._keep(image)

    def remove(self, reference: str, *, used: Collection[str] = ()) -> StoredImage:
        """Take an image out of the store. `used` are the names that VMs use: one of them is refused with OperationFailed."""
        name = canonical(reference)
        if name in {canonical(one) for one in used}:
            raise OperationFailed(f"image {name} is in use by a VM", hint="quietcore get vms shows them; delete the VM first")
        with self._changing():
            image = self.resolve(name)
            self._record(name).unlink()
        return image

    def _record(self, name: str) -> Path:
        return self._root / "refs" / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"

    def _load(self, record: Path) -> StoredImage | None:
        try:
            return _described(json.loads(record.read_bytes()), self._root / "content")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            hint = f"remove {record} and import or pull the image again"
            raise OperationFailed(f"the image store's record {record} cannot be read: {err}", hint=hint) from err

    def _keep(self, image: StoredImage) -> StoredImage:
        """Make a finished content directory the image of its name; equal content is stored once."""
        record = self._record(image.reference)
        old = self._load(record) if record.exists() else None
        if old is not None and old.sha256 == image.sha256 and old.directory.is_dir():
            return old
        files = {path: {"sha256": file.sha256, "size_bytes": file.size_bytes} for path, file in image.files.items()}
        content = {
            "schema": _SCHEMA,
            "reference": image.reference,
            "sha256": image.sha256,
            "content": image.directory.name,
            "files": files,
            "links": dict(image.links),
        }
        write_whole(record, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
        return image

    @contextmanager
    def _changing(self) -> Iterator[Path]:
        """Hold the store's lock and hand out a new content directory; what no record names is gone afterwards."""
        try:
            folders = (self._root.parent, self._root, self._root / "refs", self._root / "content")
            for directory, mode in zip(folders, (_ROOT_MODE, _ROOT_MODE, _ROOT_MODE, DIRECTORY_MODE), strict=True):
                if not directory.is_dir():
                    directory.mkdir(parents=True)
                    directory.chmod(mode)
            lock = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as err:
            raise PermissionProblem(f"{self._root} cannot be written: {err.strerror}", hint="run as root") from err
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel when its holder dies
            directory = Path(tempfile.mkdtemp(dir=self._root / "content"))
            directory.chmod(DIRECTORY_MODE)
            try:
                yield directory
            finally:
                self._sweep()
        finally:
            os.close(lock)

    def _sweep(self) -> None:
        named = {image.directory.name for image in self.list()}
        for directory in sorted((self._root / "content").iterdir()):
            if directory.name not in named:
                shutil.rmtree(directory, ignore_errors=True)
        for leftover in sorted(self._root.glob(".pull-*")):
            shutil.rmtree(leftover, ignore_errors=True)


def _described(record: dict[str, Any], content: Path) -> StoredImage:  # Any: JSON of a file, checked by the caller's except
    if record["schema"] != _SCHEMA:
        raise ValueError(f"schema {record['schema']}, expected {_SCHEMA}")
    return StoredImage(
        reference=record["reference"],
        sha256=record["sha256"],
        directory=content / Path(record["content"]).name,
        files=MappingProxyType({path: StoredFile(**file) for path, file in record["files"].items()}),
        links=MappingProxyType(record["links"]),
    )


def how_to_get(reference: str) -> str:
    """The commands that bring an image into the store."""
    return f"quietcore image pull {reference}, or from a local file: quietcore image import {reference} FILE"


def _add_directory(writer: ContentWriter, source: Path, prefix: str) -> None:
    found = False
    for directory, names, files in os.walk(source):
        for name in sorted((*names, *files)):
            path = Path(directory, name)
            place = f"{prefix}/{path.relative_to(source)}"
            if path.is_symlink():
                writer.link(place, str(path.readlink()))
            elif path.is_file():
                with opened(path) as stream:
                    writer.add(place, stream)
                found = True
            elif not path.is_dir():
                raise _unusable(f"{path} is neither a file, a directory nor a link")
    if not found:
        raise _unusable(f"{source} holds no files")


def _unusable(message: str) -> InputError:
    return InputError.of((Problem(message=message, code="image-source", hint="give a disk image or a directory"),))
