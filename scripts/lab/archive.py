"""What is kept of Debian's archive between runs: unpacked packages, in a cache that one process at a time changes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabUnavailableError


def cache_folder() -> Path:
    """Where kernels and what boots them are kept; QUIETCORE_CACHE moves it."""
    return Path(os.environ.get("QUIETCORE_CACHE", "/var/cache/quietcore")) / "kernels"


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Make the cache and hold its lock. Raises LabUnavailableError where it cannot be written."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".lock").open("w")
    except OSError as err:
        raise LabUnavailableError(
            f"the kernel cache {cache} cannot be written ({err.strerror}): set QUIETCORE_CACHE to a folder that can"
        ) from err
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
