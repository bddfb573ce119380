"""Small file operations of the image store: whole copies with holes kept, and writes that survive a crash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

_CHUNK_BYTES: Final = 1 << 20
_BLOCK_BYTES: Final = 1 << 16
_SEND_BYTES: Final = 1 << 30


def copy_stream(source: IO[bytes], target: Path, *, mode: int = 0o644) -> tuple[str, int]:
    """Write `source` to the new file `target`, leave holes where whole blocks are zero, and return its sha256 and size.

    Raises FileExistsError when `target` exists: nothing is ever followed or overwritten.
    """
    digest, size = hashlib.sha256(), 0
    with os.fdopen(_new(target, mode), "wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            for start in range(0, len(chunk), _BLOCK_BYTES):
                block = chunk[start : start + _BLOCK_BYTES]
                if block.count(0) == len(block):
                    file.seek(len(block), os.SEEK_CUR)
                else:
                    file.write(block)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def copy_file(source: Path, target: Path, *, mode: int) -> None:
    """Write a regular file's content to the new file `target` within the kernel; it need not outlive a crash. Raises OSError."""
    with opened(source) as reader, os.fdopen(_new(target, mode), "wb") as writer:
        offset = 0
        while sent := os.sendfile(writer.fileno(), reader.fileno(), offset, _SEND_BYTES):
            offset += sent


def _new(target: Path, mode: int) -> int:
    """Create a file that must not exist: nothing is ever followed or overwritten."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    os.fchmod(fd, mode)  # the umask of the caller must not decide who can read an image
    return fd


@contextmanager
def opened(source: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading without following a link in its last component. Raises OSError."""
    with os.fdopen(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        yield file


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `content` so that a crash leaves either the old or the new file: write, fsync, rename, fsync of the directory."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
