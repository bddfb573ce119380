"""VMs that ended: their CPUs are freed, and their run strategies say which of them start again, and how soon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quietcore.agent.events import EventLog
from quietcore.agent.host_state import HostState
from quietcore.engine import World
from quietcore.engine.reconcile import Restarted, recover, restart
from quietcore.model import VmName

_LOCK_WAIT_S: Final = 0.05
_FIRST_WAIT_S: Final = 10.0
_LONGEST_WAIT_S: Final = 300.0
_STEADY_S: Final = 60.0
"""A VM that ran for this long was fine: the next start waits for nothing again."""


@dataclass(slots=True)
class _Trial:
    """The starts of one VM that did not last: how long the next one waits, and until when."""

    started_at_s: float = 0.0
    wait_s: float = 0.0
    not_before_s: float = 0.0
    told: str = ""


class Revival:
    """Recovers and restarts. The first start again is at once; then the wait doubles from 10 s to 5 min, as for KubeVirt's VMs."""

    def __init__(self, world: World, state: HostState, log: EventLog) -> None:
        self._world = world
        self._state = state
        self._log = log
        self._trials: dict[VmName, _Trial] = {}
        self._failed: frozenset[VmName] = frozenset()

    @property
    def due_s(self) -> float | None:
        """When a VM that waits for its next start may be tried, if one does."""
        return min((one.not_before_s for one in self._trials.values() if one.not_before_s), default=None)

    def run(self, failed: frozenset[VmName] = frozenset()) -> tuple[Restarted, ...]:
        """One pass: finish, undo, free, start again. `failed` are the VMs whose guest or QEMU crashed.

        Raises TimedOut while another command changes this host, and what libvirt says when it cannot be asked.
        """
        now = self._world.clock()
        self._failed |= failed
        with self._world.books.locked(_LOCK_WAIT_S):
            ledger, machine = self._state.fresh()
            ledger = recover(self._world, machine, ledger)
            machine = self._state.machine(ledger)
            held = frozenset(vm for vm, trial in self._trials.items() if trial.not_before_s > now)
            _ledger, outcomes = restart(self._world, machine, ledger, failed=self._failed, held=held)
        for outcome in outcomes:
            self._note(outcome)
        self._failed &= held  # what waits for its next start is remembered as failed
        tried = {outcome.vm for outcome in outcomes}
        for vm, trial in self._trials.items():
            if trial.not_before_s and trial.not_before_s <= now and vm not in tried:
                trial.not_before_s = 0.0  # it was deleted, or wants to run no more
        return outcomes

    def _note(self, outcome: Restarted) -> None:
        now = self._world.clock()
        trial = self._trials.setdefault(outcome.vm, _Trial())
        if outcome.refusal is None:
            quick = trial.started_at_s and now - trial.started_at_s < _STEADY_S
            trial.wait_s = min(_LONGEST_WAIT_S, trial.wait_s * 2 or _FIRST_WAIT_S) if quick else 0.0
            trial.started_at_s, trial.told = now, ""
            trial.not_before_s = 0.0 if not trial.wait_s else now + trial.wait_s
            self._log.add("started-again", outcome.vm)
            return
        trial.wait_s = min(_LONGEST_WAIT_S, trial.wait_s * 2 or _FIRST_WAIT_S)
        trial.not_before_s = now + trial.wait_s
        if trial.told != outcome.refusal.message:
            trial.told = outcome.refusal.message
            self._log.add("not-started", outcome.vm, message=outcome.refusal.message, next_try_s=trial.wait_s)
