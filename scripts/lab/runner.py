"""Boots a lab machine, runs one command in it and says how it ended.

A boot that dies before the shell is reached is repeated twice at most and counted. After the shell nothing is ever repeated. A lab that
outlives its limit is killed by its own process id.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Final, Self

from lab import initramfs, kernels, qemu
from lab.errors import LabUnavailableError
from lab.machines import LabMachine, Row

EXIT_BROKEN, EXIT_TIMED_OUT = 125, 124
"""The lab's own exit statuses, as timeout(1) and env(1) use them; every other one is the command's."""
BOOTS: Final = 3
SPARE_MIB: Final = 1024
"""What QEMU itself needs beside the machine's memory: translated code and buffers."""
CONSOLE_TAIL: Final = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run: `command` is a bash script, started in `folder`; `shared` appears read-write at /out.

    `limit_s` bounds the time from the shell, or from the last call of Lab.heard, to the end of the command, `boot_limit_s` each boot up to
    the shell.
    """

    row: Row
    command: str
    folder: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    shared: Path | None = None
    limit_s: float = 600
    boot_limit_s: float = 240
    terminal: str = "-opost -echo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a lab ended. `failure` is "" when the command ran to its end; `console` is the end of the kernel's log."""

    status: int
    failure: str
    console: str
    release: str
    boots: int
    shell_s: float | None
    total_s: float


class Lab:
    """One running lab: a context manager that is asked to `advance` until it has an outcome. Nothing outlives it.

    `output` receives what the command prints. Raises LabUnavailableError from the constructor when a prerequisite is missing.
    """

    def __init__(self, job: Job, *, output: IO[bytes] | None = None, interactive: bool = False) -> None:
        check_prerequisites(job.row.machine)
        self.job = job
        self.kernel = kernels.obtain(job.row.series, kernels.cache_folder())
        self._output = output
        self._input = sys.stdin if interactive else subprocess.DEVNULL
        self._scratch = Path(tempfile.mkdtemp(prefix="quietcore-lab-"))
        self._files = qemu.BootFiles(
            initramfs=self._scratch / "initramfs",
            console=self._scratch / "console",
            status=self._scratch / "status",
            shared=job.shared,
        )
        self._boots = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._began = self._booted = time.monotonic()
        self._shell: float | None = None
        self._heard = self._began
        self._outcome: Outcome | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    @property
    def pid(self) -> int | None:
        """QEMU's process id, None before the first boot."""
        return None if self._process is None else self._process.pid

    def run(self) -> Outcome:
        """Wait for the end."""
        while (outcome := self.advance()) is None:
            time.sleep(0.1)
        return outcome

    def advance(self) -> Outcome | None:
        """Look once: start or repeat the boot, note the shell, enforce the limits. The outcome, or None while the lab runs."""
        if self._outcome is not None:
            return self._outcome
        if self._process is None:
            self._boot()
            return None
        ended = self._process.poll() is not None
        status = self._status()
        if self._shell is None and "shell" in status:
            self._shell = self._heard = time.monotonic()
        if ended and "exit" in status:
            return self._end(int(status["exit"].split()[0]), "")
        if ended and self._shell is not None:
            return self._end(EXIT_BROKEN, "the lab's kernel died while the command ran")
        if self._shell is not None:
            return (
                self._end(EXIT_TIMED_OUT, f"the lab hung: killed after {self.job.limit_s:.0f} s")
                if self._late(self._heard, self.job.limit_s)
                else None
            )
        if ended or self._late(self._booted, self.job.boot_limit_s):
            return self._boot_again(
                f"QEMU ended with status {self._process.poll()}" if ended else f"killed after {self.job.boot_limit_s:.0f} s"
            )
        return None

    def heard(self) -> None:
        """Note a sign that the command goes on: its limit begins anew."""
        self._heard = time.monotonic()

    def _boot(self) -> None:
        self._boots += 1
        self._booted = time.monotonic()
        busybox = shutil.which("busybox")
        assert busybox is not None, "checked as a prerequisite"
        job = self.job
        initial = initramfs.build(
            self.kernel,
            Path(busybox),
            init=job.row.machine.init,
            command=job.command,
            folder=job.folder,
            environment={"QUIETCORE_LAB": str(job.row), **job.environment},
            shared=job.shared is not None,
            terminal=job.terminal,
        )
        self._files.initramfs.write_bytes(initial)
        self._files.console.write_bytes(b"")
        self._files.status.write_bytes(b"")
        words = qemu.command_line(job.row.machine, self.kernel, self._files)
        self._process = subprocess.Popen(words, stdin=self._input, stdout=self._output, stderr=subprocess.STDOUT if self._output else None)

    def _boot_again(self, why: str) -> Outcome | None:
        self._kill()
        if self._boots >= BOOTS:
            return self._end(EXIT_BROKEN, f"the lab died before its shell was reached, {self._boots} times ({why})")
        self._process = None
        return None

    def _status(self) -> dict[str, str]:
        lines = self._files.status.read_text(errors="replace").splitlines(keepends=True)
        return dict(line.rstrip("\n").split(" ", 1) for line in lines if line.endswith("\n") and " " in line)

    def _late(self, since: float, limit_s: float) -> bool:
        return time.monotonic() - since > limit_s

    def _end(self, status: int, failure: str) -> Outcome:
        self._kill()
        self._outcome = Outcome(
            status=status,
            failure=failure,
            console=self._files.console.read_text(errors="replace")[-CONSOLE_TAIL:],
            release=self.kernel.release,
            boots=self._boots,
            shell_s=None if self._shell is None else self._shell - self._booted,
            total_s=time.monotonic() - self._began,
        )
        return self._outcome

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def check_prerequisites(machine: LabMachine) -> None:
    """Raise LabUnavailableError, one sentence with the fix, when this host cannot boot the machine."""
    for program, package in ((qemu.QEMU, "qemu-system-x86"), ("busybox", "busybox-static"), ("depmod", "kmod")):
        if shutil.which(program) is None:
            raise LabUnavailableError(f"the lab needs {program}: run `apt-get install {package}` (or `bash scripts/setup.sh lab`)")
    available, needed = free_memory_mib(), needed_mib(machine)
    if available < needed:
        raise LabUnavailableError(f"lab machine {machine.name} needs {needed} MiB of memory and {available} MiB are available: free some")
    if os.geteuid() != 0:
        raise LabUnavailableError("the lab shares the host's root file system and needs root: run it as root")


def needed_mib(machine: LabMachine) -> int:
    """What a lab takes of this host's memory."""
    return machine.memory_mib + SPARE_MIB


def free_memory_mib() -> int:
    """What this host could give to labs now."""
    return available_memory_mib(Path("/proc/meminfo").read_text())


def available_memory_mib(meminfo: str) -> int:
    """What the kernel says could be used without swapping."""
    line = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) // 1024
