"""Runs the few programs that the image store needs (qemu-img, skopeo, zstd): argument lists only, never a shell."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, Protocol

from quietcore.errors import OperationFailed, TimedOut

PACKAGES: Final = MappingProxyType({"qemu-img": "qemu-utils", "skopeo": "skopeo", "zstd": "zstd"})
"""The distribution's package that holds each program (the names are the same on Debian and Ubuntu)."""


class Runner(Protocol):
    """Runs one program to its end and returns what it wrote to standard output."""

    def run(self, argv: Sequence[str], *, timeout_s: float = 60, hint: str = "") -> str:
        """Raises OperationFailed with the program's own words and `hint`, or TimedOut."""
        ...


class SubprocessRunner:
    """The runner of every host: a child process without a shell, without standard input and with English messages."""

    def run(self, argv: Sequence[str], *, timeout_s: float = 60, hint: str = "") -> str:
        """Run `argv` and return its standard output; see `Runner`."""
        program = argv[0]
        try:
            done = subprocess.run(
                list(argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError as err:
            package = PACKAGES.get(program, program)
            raise OperationFailed(f"{program} is not installed", hint=f"apt-get install --no-install-recommends {package}") from err
        except subprocess.TimeoutExpired as err:
            raise TimedOut(f"{program} did not end within {timeout_s:g} seconds", hint=hint) from err
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or "it said nothing"
            raise OperationFailed(f"{program} failed with exit code {done.returncode}: {said}", hint=hint)
        return done.stdout
