"""How tests look at a live kernel, in a lab and on this host: wait for a state, and list what may end while it is listed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

PATIENCE_S: Final = 300
"""How long a state, or the end of a process, may take before it is taken for hung. Generous and no measure of anything: a
host whose CPUs others use as well takes minutes for what takes seconds alone."""


def eventually(holds: Callable[[], object], message: str | Callable[[], str] = "") -> None:
    """Wait until a condition holds. Raises AssertionError with the message, or with what `message` returns then."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, message if isinstance(message, str) else message()
        time.sleep(0.02)


def read(path: Path | str) -> str:
    """A kernel file without its last newline."""
    return Path(path).read_text().rstrip("\n")


def tasks(folder: Path | str = "/proc") -> dict[int, str]:
    """Task -> name of what /proc, or /proc/PID/task, lists; what ends while it is listed is left out."""
    found = {}
    for path in Path(folder).iterdir():
        if path.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                found[int(path.name)] = read(path / "comm")
    return found


def lasting_threads(pid: int) -> dict[int, str]:
    """Thread -> name of a QEMU, without the workers of its thread pool: these come and go at any moment."""
    return {tid: comm for tid, comm in tasks(f"/proc/{pid}/task").items() if "worker" not in comm}


def groups_below(folder: Path | str) -> list[Path]:
    """Every cgroup below a folder, the innermost first; what is removed while it is listed is left out."""
    return [Path(path) / name for path, names, _ in os.walk(folder, topdown=False) for name in names]
