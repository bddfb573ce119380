"""The host's file system under an injected root: the only way in which quietcore reads and writes kernel files.

Nothing here knows what the files mean. Writes are one unbuffered write() each, so that the kernel's refusal arrives
at the caller and not at some later flush; a write() that succeeded still proves nothing, so callers read back.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class HostFs:
    """Kernel and state files below one root, "/" on a real host and a temporary folder in tests.

    Paths are absolute ("/sys/fs/cgroup") and mean the same on both. Every method raises OSError as the kernel gave it.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._prefix = str(root).rstrip("/")  # text, because joining paths costs as much as a small read

    def path(self, path: str) -> Path:
        """Where a host path really is."""
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        """The whole text of a file; bytes that are no UTF-8 are replaced."""
        descriptor = os.open(f"{self._prefix}{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(descriptor, 1 << 18):
                chunks.append(chunk)
        finally:
            os.close(descriptor)
        return b"".join(chunks).decode("utf-8", "replace")

    def read_or(self, path: str, default: str) -> str:
        """The text of a file, or the default where there is none or it cannot be read."""
        try:
            return self.read(path)
        except OSError:
            return default

    def write(self, path: str, text: str) -> None:
        """Give the kernel one text in one write(). The file must exist."""
        payload = text.encode()
        descriptor = os.open(f"{self._prefix}{path}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            written = os.write(descriptor, payload)
        finally:
            os.close(descriptor)
        if written != len(payload):
            raise OSError(f"{path}: only {written} of {len(payload)} bytes were taken")

    def empty(self, path: str) -> None:
        """Empty a file that exists; tracefs forgets what it has recorded."""
        os.close(os.open(f"{self._prefix}{path}", os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC))

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        return self.path(path).exists()

    def is_dir(self, path: str) -> bool:
        """Whether a directory is there."""
        try:
            return stat.S_ISDIR(os.stat(f"{self._prefix}{path}").st_mode)  # noqa: PTH116  # asked for every group: see _prefix
        except OSError:
            return False

    def listdir(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        return sorted(os.listdir(f"{self._prefix}{path}"))  # noqa: PTH208  # asked for every group and process: see _prefix

    def mkdir(self, path: str) -> None:
        """Make one directory (a cgroup, say)."""
        self.path(path).mkdir()

    def rmdir(self, path: str) -> None:
        """Remove one empty directory (a cgroup, say)."""
        self.path(path).rmdir()
