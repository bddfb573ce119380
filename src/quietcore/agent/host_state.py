"""The ledger and the machine as the agent last read them, read again only when something says that they changed."""

from __future__ import annotations

import os
from pathlib import Path

from quietcore.agent import cpus
from quietcore.engine import World
from quietcore.engine.shared import shared_pool
from quietcore.host.topology import read_machine
from quietcore.model import CpuSet, Ledger, Machine


class HostState:
    """A cache; whoever changes something takes the lock first and calls `fresh`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._stamp: tuple[int, int, int] | None = None
        self._ledger = Ledger()
        self._machine: tuple[object, Ledger, Machine] | None = None
        self._shared: tuple[Machine, Ledger, CpuSet] | None = None
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
        """The ledger and the machine as they are now. The caller holds the lock."""
        self.cpus = cpus.read(self._world.fs)
        ledger = self.ledger
        return ledger, self.machine(ledger)

    def machine(self, ledger: Ledger) -> Machine:
        """The machine; read again when CPUs came or went or the books changed."""
        key, known = self.cpus.key, self._machine
        if known is None or known[0] != key or known[1] is not ledger:
            if known is not None and known[0] == key and known[1].owned == ledger.owned:
                self._machine = (key, ledger, known[2])
                return known[2]
            known = self._machine = (key, ledger, read_machine(self._world.fs, owned=ledger.owned))
        return known[2]

    def shared(self, ledger: Ledger) -> CpuSet:
        """The shared pool."""
        machine, known = self.machine(ledger), self._shared
        if known is None or known[0] is not machine or known[1] is not ledger:
            known = self._shared = (machine, ledger, shared_pool(self._world, machine, ledger))
        return known[2]

    def look_at_cpus(self) -> bool:
        """Read which CPUs there are; True when that changed."""
        before, self.cpus = self.cpus, cpus.read(self._world.fs)
        return before.key != self.cpus.key
