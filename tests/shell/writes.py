"""Every change of a file that this process makes, whoever makes it and however: Python's own audit hook tells, and can forbid it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CALLS = ("mkdir", "rmdir", "remove", "rename", "link", "symlink", "truncate", "chmod", "chown")
_CHANGES = frozenset(f"os.{call}" for call in _CALLS) | {"subprocess.Popen"}
_hearers: list[Callable[[str], None]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _hearers:
        return
    flags = arguments[2] if event == "open" else 0
    if event in _CHANGES or (isinstance(flags, int) and flags & _WRITES and "/dev/" not in str(arguments[0]).replace("/dev/shm/", "")):
        _hearers[-1](f"{event} {os.path.basename(str(arguments[0]))}")  # noqa: PTH119  # no Path in a hook that hears everything


sys.addaudithook(_hook)


@contextmanager
def heard(hearer: Callable[[str], None]) -> Iterator[None]:
    """Tell each change just before it happens; what `hearer` raises keeps it from happening."""
    _hearers.append(hearer)
    try:
        yield
    finally:
        _hearers.pop()
