"""A fake host for programs that are processes of their own, which may be killed with SIGKILL at any instant.

The host stays in the test's process. The programs reach it through a pipe, as they would reach a kernel and a libvirtd: a call that was
begun is carried out whole, whether or not its caller still lives. Ledger and VM files are real files that the programs write themselves.
"""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

from quietcore.engine import Engine, LedgerFile
from quietcore.host.fs import HostFs
from quietcore.virt import HypervisorError
from quietcore.virt.events import DomainEvents
from tests.shell.fake_host import FakeHost, Faults
from tests.shell.processes import FORK, started


class Calls:
    """The caller's end of the pipe; many threads may call."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._one_at_a_time = threading.Lock()

    def __call__(self, part: str, name: str, *arguments: object, **options: object) -> Any:
        with self._one_at_a_time:
            self._pipe.send((part, name, arguments, options))
            answer, error = self._pipe.recv()
        if isinstance(error, KeyError):
            raise HypervisorError(f"{name}: no domain {error}")
        if error is not None:
            raise error
        return answer


class FarPart:
    """The threads or the hypervisor of the host: every method is a call."""

    def __init__(self, calls: Calls, part: str) -> None:
        self._calls, self._part = calls, part

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments, **options: self._calls(self._part, name, *arguments, **options)

    def listen(self) -> DomainEvents:
        """A libvirt that tells nothing: the resync sees what happens."""
        return DomainEvents()


class FarFs(HostFs):
    """The host's files; those that are read while others write them go through the pipe."""

    def __init__(self, calls: Calls, host: FakeHost) -> None:
        super().__init__(host.root)
        self._calls = calls

    def read(self, path: str) -> str:
        return self._calls("fs", "read", path)

    def write(self, path: str, text: str) -> None:
        self._calls("fs", "write", path, text)

    def exists(self, path: str) -> bool:
        return self._calls("fs", "exists", path)

    def is_dir(self, path: str) -> bool:
        return self._calls("fs", "is_dir", path)

    def listdir(self, path: str) -> list[str]:
        return self._calls("fs", "listdir", path)

    def mkdir(self, path: str) -> None:
        self._calls("fs", "mkdir", path)

    def rmdir(self, path: str) -> None:
        self._calls("fs", "rmdir", path)


class FarHost:
    """The host as a program sees it."""

    def __init__(self, host: FakeHost, pipe: Connection) -> None:
        calls = Calls(pipe)
        self.fs = FarFs(calls, host)
        self.threads, self.hypervisor = FarPart(calls, "threads"), FarPart(calls, "hypervisor")
        self._host = host

    def program(self, _faults: Faults | None = None) -> Engine:
        """A quietcore in this process."""
        books = LedgerFile(self._host.root / "state")
        world = self._host.program().world
        return Engine(replace(world, fs=self.fs, control=self.threads, hypervisor=self.hypervisor, books=books))


@contextmanager
def program_of(host: FakeHost, act: Callable[[FarHost], object]) -> Iterator[tuple[ForkProcess, Connection]]:
    """A process that does something to the host, and the pipe on which its calls come; exit code 70 where it failed."""
    here, there = FORK.Pipe()

    def main() -> None:
        here.close()
        try:
            act(FarHost(host, there))
        except BaseException:  # noqa: BLE001  # whatever it was, nothing of the test may go on in this process
            traceback.print_exc()
            os._exit(70)
        os._exit(0)

    process = started(main)
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


def serve(host: FakeHost, pipes: list[Connection], heard: Callable[[str], None] = lambda _name: None) -> None:
    """Carry out what programs ask for until all of them ended; `heard` is told each call after it was carried out."""
    left = list(pipes)
    while left:
        for pipe in wait(left):
            try:
                _carry_out(host, pipe, heard)
            except (EOFError, ConnectionError):
                left.remove(pipe)


def _carry_out(host: FakeHost, pipe: Connection, heard: Callable[[str], None]) -> None:
    part, name, arguments, options = pipe.recv()
    answer, failure = None, None
    try:
        answer = getattr(getattr(host, part), name)(*arguments, **options)
    except (OSError, KeyError, HypervisorError) as err:
        failure = err
    heard(name)
    with suppress(ConnectionError):  # it was killed meanwhile
        pipe.send((answer, failure))
