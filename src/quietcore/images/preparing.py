"""Makes the files that one VM starts with: overlays, empty disks, seeds, kernel and initrd, all in the VM's own directory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, assert_never
from urllib.parse import quote

from quietcore.errors import InputError, OperationFailed, PermissionProblem, Problem, UndoFailed
from quietcore.images.files import copy_file
from quietcore.images.formats import DiskFormat
from quietcore.images.reference import canonical
from quietcore.images.runner import Runner
from quietcore.images.seeds import write_seed
from quietcore.images.store import ImageStore, how_to_get
from quietcore.model import CloudInit, ContainerDisk, Disk, EmptyDisk, HostDisk, VmSpec

_DIRECTORY_MODE: Final = 0o711
_PRIVATE: Final = 0o600
"""libvirt gives the files to QEMU's user while the VM runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDisk:
    """One disk as QEMU opens it. A cdrom or read-only disk from the store is the store's own file: it must never be opened for writing."""

    path: Path
    format: Literal["raw", "qcow2"]
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A VM's files: disks by their name in the manifest, kernel and initrd, and everything that was made and `undo` removes."""

    directory: Path
    disks: Mapping[str, PreparedDisk] = field(default_factory=lambda: MappingProxyType({}))
    kernel: Path | None = None
    initrd: Path | None = None
    created: tuple[Path, ...] = ()


def references(spec: VmSpec) -> tuple[str, ...]:
    """The full names of all images that a VM uses, sorted, each once."""
    names = {disk.source.image for disk in spec.disks if isinstance(disk.source, ContainerDisk)}
    if spec.kernel_boot is not None:
        names.add(spec.kernel_boot.image)
    return tuple(sorted({canonical(name) for name in names}))


def missing(spec: VmSpec, store: ImageStore) -> tuple[Problem, ...]:
    """What the VM needs and the host does not have: images, files in them, disks on the host. Writes nothing."""
    absent = {name for name in references(spec) if store.find(name) is None}
    problems = [
        Problem(message=f"image {name} is not in the image store", code="image-missing", hint=how_to_get(name)) for name in sorted(absent)
    ]
    for disk in spec.disks:
        problems += _disk_problems(disk, store, absent)
    boot = spec.kernel_boot
    if boot is not None and canonical(boot.image) not in absent:
        image = store.resolve(boot.image)
        for path in filter(None, (boot.kernel_path, boot.initrd_path)):
            problems += _caught(partial(image.file, path))
    return tuple(problems)


def prepare(spec: VmSpec, store: ImageStore, directory: Path, runner: Runner) -> Prepared:
    """Make the files of a VM that does not run; what an earlier start left in `directory` is replaced.

    Container disks and empty disks begin anew at each start, as KubeVirt's do; host disks stay. When anything is missing nothing is
    made and OperationFailed names all of it; when a step fails, what was made is removed again.
    """
    problems = missing(spec, store)
    if problems:
        raise OperationFailed("\n".join(str(problem) for problem in problems), problems=problems)
    created: list[Path] = []
    try:
        discard(directory)
        directory.mkdir(parents=True)
        created.append(directory)
        directory.chmod(_DIRECTORY_MODE)
        disks = {disk.name: _make(disk, spec, store=store, directory=directory, runner=runner, created=created) for disk in spec.disks}
        boot = spec.kernel_boot
        kernel = initrd = None
        if boot is not None:
            image = store.resolve(boot.image)
            kernel = _copy(image.file(boot.kernel_path), directory / "kernel")
            initrd = _copy(image.file(boot.initrd_path), directory / "initrd") if boot.initrd_path else None
    except BaseException as err:  # Ctrl-C as well must leave nothing behind
        undo(created)
        if isinstance(err, PermissionError):
            raise PermissionProblem(f"{err.filename} cannot be written: {err.strerror}", hint="run as root") from err
        if isinstance(err, OSError):
            raise OperationFailed(f"the files of {spec.vm} could not be made: {err}") from err
        raise
    return Prepared(directory=directory, disks=MappingProxyType(disks), kernel=kernel, initrd=initrd, created=tuple(created))


def undo(created: Sequence[Path]) -> None:
    """Remove what `prepare` made, newest first; a new directory that others use by now stays. Raises UndoFailed with what is left."""
    left = []
    for path in reversed(created):
        try:
            if path.is_dir() and not path.is_symlink():
                _remove_directory(path, own=path == created[0])
            else:
                path.unlink(missing_ok=True)
        except OSError as err:
            left.append(f"{path}: {err.strerror}")
    if left:
        raise UndoFailed("these files could not be removed: " + "; ".join(left), hint="remove them by hand")


def _remove_directory(path: Path, *, own: bool) -> None:
    if own:
        shutil.rmtree(path)
    elif not any(path.iterdir()):
        path.rmdir()


def discard(directory: Path) -> None:
    """Remove a VM's directory and its files; nothing happens when it does not exist. Host disks lie elsewhere and stay."""
    if directory.is_symlink():
        raise OperationFailed(f"{directory} is a symbolic link, not a VM's directory", hint="remove it by hand")
    try:
        if directory.exists():
            shutil.rmtree(directory)
    except OSError as err:
        raise OperationFailed(f"{err.filename or directory} cannot be removed: {err.strerror or err}") from err


def _disk_problems(disk: Disk, store: ImageStore, absent: set[str]) -> list[Problem]:
    match disk.source:
        case ContainerDisk(image=image, path=path):
            return [] if canonical(image) in absent else _caught(lambda: store.resolve(image).disk(path))
        case HostDisk(path=path) as source:
            return _host_disk_problems(disk.name, Path(path), source)
        case EmptyDisk() | CloudInit():
            return []
        case never:
            assert_never(never)


def _host_disk_problems(name: str, path: Path, source: HostDisk) -> list[Problem]:
    shown = f"host disk {name}: {path}"
    if not path.is_absolute():
        return [Problem(message=f"{shown} is no absolute path", code="host-disk", hint="write the path from / on")]
    if path.is_file() or path.is_block_device():
        return []
    if path.exists() or path.is_symlink():
        return [Problem(message=f"{shown} is neither a file nor a block device", code="host-disk", hint="give a raw disk image")]
    if not source.create:
        hint = f"make it with: truncate -s SIZE {path}, or use type: DiskOrCreate with a capacity"
        return [Problem(message=f"{shown} does not exist", code="host-disk", hint=hint)]
    standing = next(one for one in path.parents if one.exists())
    if not standing.is_dir():
        return [Problem(message=f"{shown}: {standing} is no directory", code="host-disk", hint="give a path below a directory")]
    usage = shutil.disk_usage(standing)
    if usage.free < source.capacity_bytes:
        message = f"{shown} needs {source.capacity_bytes} bytes and its file system has {usage.free} free"
        return [Problem(message=message, code="host-disk", hint="free some space or ask for less")]
    return []


def _caught(look: Callable[[], object]) -> list[Problem]:
    try:
        look()
    except (InputError, OperationFailed) as err:
        return list(err.problems)
    return []


def _make(disk: Disk, spec: VmSpec, *, store: ImageStore, directory: Path, runner: Runner, created: list[Path]) -> PreparedDisk:
    name = quote(disk.name, safe="")  # manifest allows DNS labels only; a path must not depend on that
    match disk.source:
        case ContainerDisk(image=image, path=path):
            return _container_disk(disk, store.resolve(image).disk(path), directory / name, runner)
        case HostDisk(path=path, create=create, capacity_bytes=capacity):
            if create and not Path(path).exists():
                _sparse(Path(path), capacity, created)
            return PreparedDisk(path=Path(path), format="raw", readonly=disk.readonly)
        case EmptyDisk(capacity_bytes=capacity):
            target = directory / f"{name}.qcow2"
            runner.run(["qemu-img", "create", "-q", "-f", "qcow2", str(target), str(capacity)])
            target.chmod(_PRIVATE)
            return PreparedDisk(path=target, format="qcow2", readonly=disk.readonly)
        case CloudInit() as seed:
            target = directory / f"{name}.iso"
            write_seed(seed, spec.vm, spec.hostname, target)
            return PreparedDisk(path=target, format="raw", readonly=True)
        case never:
            assert_never(never)


def _container_disk(disk: Disk, found: tuple[Path, DiskFormat], stem: Path, runner: Runner) -> PreparedDisk:
    image, kind = found
    stored: Literal["raw", "qcow2"] = "qcow2" if kind == "qcow2" else "raw"
    if disk.readonly or disk.device == "cdrom":
        return PreparedDisk(path=image, format=stored, readonly=True)
    base = _own_name(image, stem.with_name(f"{stem.name}-base.{'iso' if kind == 'iso' else stored}"))
    overlay = stem.with_name(f"{stem.name}.qcow2")
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", stored, "-b", str(base), str(overlay)])
    overlay.chmod(_PRIVATE)
    return PreparedDisk(path=overlay, format="qcow2")


def _own_name(image: Path, link: Path) -> Path:
    """Another name of the image's file in the VM's directory, so that it outlives the store's; the store's own on another file system.

    Its suffix is one that libvirt's virt-aa-helper is allowed to read under AppArmor.
    """
    try:
        os.link(image, link)
    except OSError:
        return image
    return link


def _copy(source: Path, target: Path) -> Path:
    """A copy for this VM alone: libvirt gives kernel and initrd to QEMU's user, who must not change another VM's."""
    copy_file(source, target, mode=_PRIVATE)
    return target


def _sparse(path: Path, size_bytes: int, created: list[Path]) -> None:
    # KubeVirt mounts the directory as DirectoryOrCreate (pkg/virt-controller/services/rendervolumes.go).
    for folder in reversed([one for one in path.parents if not one.exists()]):
        folder.mkdir()
        created.append(folder)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)
    try:
        created.append(path)
        os.ftruncate(fd, size_bytes)
    finally:
        os.close(fd)
