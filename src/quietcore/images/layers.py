"""Reads the layers of an OCI image directory as one tree of files, by the rules of the OCI image specification.

Nothing is unpacked by tarfile: `tarfile.data_filter` is missing from Debian 12's Python, and a filter that refuses absolute links would
refuse most images. A first pass over all layers only decides which entry each path finally has (upper layers win, whiteouts hide); a
second pass copies those regular files to names of ours. Devices, owners and modes are dropped.
https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from quietcore.errors import OperationFailed
from quietcore.images.content import ContentWriter
from quietcore.images.runner import Runner
from quietcore.images.tree import follow, inner_parts

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_ZSTD_TIMEOUT_S: Final = 1800
_Entry: TypeAlias = tuple[int, int]
"""Which layer, and which entry of it."""


class _Merged:
    """The tree that the layers make: for every path the entry that holds its content, and every link's text."""

    def __init__(self) -> None:
        self.files: dict[str, _Entry] = {}
        self.links: dict[str, str] = {}
        self._parents: set[str] = set()

    def place(self, name: str) -> str:
        """Where an entry of this name lands: links in its directory are followed, its last component is not."""
        parts = inner_parts(name)
        if not parts:
            return "/"
        parent = follow("/".join(parts[:-1]), self.links)
        above = inner_parts(parent)
        self._parents.update("/" + "/".join(above[:depth]) for depth in range(len(above) + 1))
        return f"{parent.rstrip('/')}/{parts[-1]}"

    def drop(self, path: str) -> None:
        """Remove a path and everything below it."""
        self.drop_below(path)
        self.files.pop(path, None)
        self.links.pop(path, None)

    def drop_below(self, path: str) -> None:
        """Remove everything below a path."""
        if path not in self._parents:
            return  # most entries are no directories; without this, each of them would look at all the others
        prefix = path.rstrip("/") + "/"
        for table in (self.files, self.links):
            for one in [one for one in table if one.startswith(prefix)]:
                del table[one]


def unpack(oci: Path, writer: ContentWriter, runner: Runner) -> None:
    """Copy the files of the image in the OCI directory `oci` to `writer`. Raises OperationFailed when it is damaged."""
    try:
        layers = [_plain(oci, descriptor, runner) for descriptor in _layers(oci)]
        merged = _Merged()
        for number, layer in enumerate(layers):
            _read(number, layer, merged)
        for number, layer in enumerate(layers):
            _copy(number, layer, merged, writer)
    except (OSError, EOFError, tarfile.TarError, ValueError, KeyError, TypeError) as err:
        raise OperationFailed(f"the image is damaged or of an unknown kind: {type(err).__name__}: {err}") from err
    for path, target in merged.links.items():
        writer.link(path, target)


def _read(number: int, layer: Path, merged: _Merged) -> None:
    """First pass: whiteouts of a layer hide what lower layers have, never what the layer itself brings."""
    with _opened(layer) as archive:
        members = list(archive)
    for member in members:
        directory, _, base = member.name.rpartition("/")
        if base == _OPAQUE:
            merged.drop_below(merged.place(directory))
        elif base.startswith(_WHITEOUT):
            merged.drop(merged.place(f"{directory}/{base.removeprefix(_WHITEOUT)}"))
    for ordinal, member in enumerate(members):
        if not member.name.rpartition("/")[2].startswith(_WHITEOUT):
            _enter((number, ordinal), member, merged)


def _enter(entry: _Entry, member: tarfile.TarInfo, merged: _Merged) -> None:
    path = merged.place(member.name)
    if path == "/":
        return
    if member.isdir():
        merged.files.pop(path, None)
        merged.links.pop(path, None)
    elif member.issym():
        merged.drop(path)
        merged.links[path] = member.linkname
    elif member.islnk():
        first = merged.place(member.linkname)
        content = merged.files.get(first)
        if first == path or content is None:
            return  # a hard link to itself, to a device or to nothing has no content of its own
        merged.drop(path)
        merged.files[path] = content
    elif member.isreg():
        merged.drop(path)
        merged.files[path] = entry
    else:
        merged.drop(path)  # a device or pipe: it hides what was there and has nothing that a VM could boot from


def _copy(number: int, layer: Path, merged: _Merged, writer: ContentWriter) -> None:
    """Second pass: the regular files of this layer that the merged tree still wants."""
    wanted: dict[int, list[str]] = {}
    for path, (where, ordinal) in sorted(merged.files.items()):
        if where == number:
            wanted.setdefault(ordinal, []).append(path)
    if not wanted:
        return
    with _opened(layer) as archive:
        for ordinal, member in enumerate(archive):
            if ordinal not in wanted:
                continue
            first, *others = wanted[ordinal]
            stream = archive.extractfile(member)
            if stream is None:
                raise ValueError(f"{member.name} has no content")
            writer.add(first, stream)
            for other in others:
                writer.same(other, first)


@contextmanager
def _opened(layer: Path) -> Iterator[tarfile.TarFile]:
    with tarfile.open(layer, "r|*") as archive:  # a stream: read once from front to back, whatever the compression
        yield archive


def _layers(oci: Path) -> list[dict[str, Any]]:  # Any: JSON of another program, checked where it is used
    index = json.loads((oci / "index.json").read_bytes())
    (manifest,) = index["manifests"]  # skopeo copies the one image that fits this machine
    layers: list[dict[str, Any]] = json.loads(_blob(oci, manifest).read_bytes())["layers"]  # Any: as above
    return layers


def _blob(oci: Path, descriptor: dict[str, Any]) -> Path:  # Any: as above
    match = _DIGEST.fullmatch(descriptor["digest"])
    if match is None:
        raise ValueError(f"{descriptor['digest']!r} is no sha256 digest")
    return oci / "blobs" / "sha256" / match[1]


def _plain(oci: Path, descriptor: dict[str, Any], runner: Runner) -> Path:  # Any: as above
    """The layer as a file that tarfile reads; zstd is unpacked by its own program, which Python's library learns in 3.14."""
    blob = _blob(oci, descriptor)
    if not str(descriptor.get("mediaType", "")).endswith("+zstd"):
        return blob
    unpacked = blob.with_name(f"{blob.name}.tar")
    if not unpacked.exists():
        runner.run(["zstd", "--decompress", "--quiet", "--force", str(blob), "-o", str(unpacked)], timeout_s=_ZSTD_TIMEOUT_S)
    return unpacked
