"""The ledger and the machine as the agent last read them, read again only when something says that they changed."""

from __future__ import annotations

import os
from pathlib import Path

from quietcore.agent import cpus
from quietcore.engine import World
from quietcore.engine.pool import shared_pool
from quietcore.host.topology import read_machine
from quietcore.model import CpuSet, Ledger, Machine


class HostState:
    """A cache for looks that change nothing; whoever changes something takes the lock and calls `fresh`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stamp: tuple[int, int, int] | None = None
        self._ledger = Ledger()
        self._machine: Machine | None = None
        self._machine_key: object = None
        self.cpus = cpus.read(world.fs)

    @property
    def ledger(self) -> Ledger:
        """The ledger; a changed file is noticed by its inode, size and time, since every write is a new file."""
        try:
            state = os.stat(Path(self._world.config.state_dir) / "ledger.json")  # noqa: PTH116  # one call, no Path of its own
            stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
        except OSError:
            stamp = None
        if stamp is None or stamp != self._stamp:
            self._ledger, self._stamp = self._world.books.load(), stamp
        return self._ledger

    def fresh(self) -> tuple[Ledger, Machine]:
        """The ledger as it is on disk now, and the machine for it. The caller holds the lock."""
        self._stamp = None
        ledger = self.ledger
        self.cpus = cpus.read(self._world.fs)
        return ledger, self.machine(ledger)

    def machine(self, ledger: Ledger) -> Machine:
        """The machine; read again when CPUs came or went or their owners changed."""
        key = (self.cpus.key, ledger.owned)
        if self._machine is None or key != self._machine_key:
            self._machine, self._machine_key = read_machine(self._world.fs, owned=ledger.owned), key
        return self._machine

    def shared(self, ledger: Ledger) -> CpuSet:
        """The shared pool."""
        return shared_pool(self._world, self.machine(ledger), ledger)

    def look_at_cpus(self) -> bool:
        """Read which CPUs there are; True when that changed."""
        before, self.cpus = self.cpus, cpus.read(self._world.fs)
        return before.key != self.cpus.key
