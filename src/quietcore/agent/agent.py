"""The agent's loop: woken by events and by a slow resync, it keeps the VMs of one host as its books say.

One selector, one thread; other threads (the socket's) only take the same lock as any command. What cannot be done now, because a
command holds the lock or libvirt does not answer, stays due and is tried again a little later.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Protocol

from quietcore.agent import cpus
from quietcore.agent.caretaker import Caretaker
from quietcore.agent.events import EventLog
from quietcore.agent.host_state import HostState
from quietcore.agent.known import By, Cause, Known
from quietcore.agent.revival import Revival
from quietcore.agent.watching import Concern, FileWatches, ProcessWatches, Watching
from quietcore.engine import World, orphans
from quietcore.engine.pool import interrupts_away
from quietcore.errors import PermissionProblem, QuietcoreError, TimedOut
from quietcore.host import irqs
from quietcore.model import Finding, VmName
from quietcore.render.values import Care
from quietcore.virt.events import DomainEvent

_LOCK_WAIT_S: Final = 0.05
_RETRY_S: Final = 0.1
_LONGEST_RETRY_S: Final = 5.0
_GLANCES_S: Final = 0.5
"""Events about groups that all VMs share may be many: all VMs are looked at no more often than this."""
_NAMING_S: Final = 0.02


class DomainWatches(Protocol):
    """libvirt's events; see `virt.hypervisor.DomainEvents`."""

    def events(self) -> tuple[DomainEvent, ...]:
        """What happened since the last call."""
        ...

    def fileno(self) -> int:
        """For a selector."""
        ...


@dataclass(frozen=True, slots=True)
class NextLook:
    """When a VM is looked at again of whose looks no two agree yet, and after which pause."""

    at_s: float
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ears:
    """Everything that wakes the agent. `books` watches the ledger's directory; `processes` is None where the kernel has no connector."""

    files: FileWatches
    books: FileWatches
    domains: DomainWatches
    processes: ProcessWatches | None = None


class Agent:
    """One host's agent. `begin` once, then `step` for ever."""

    def __init__(self, world: World, ears: Ears, log: EventLog, *, resync_s: float = 30.0) -> None:
        self.world = world
        self.log = log
        self.state = HostState(world)
        self.caretaker = Caretaker(world, self.state, log)
        self.host_findings: dict[VmName, tuple[Finding, ...]] = {}
        self._revival = Revival(world, self.state, log)
        self._watching = Watching(world.fs, ears.files, ears.processes)
        self._ears = ears
        self._resync_s = resync_s
        self._smt = self.state.cpus.smt
        self._due: dict[VmName, Cause] = {}
        self._restless: dict[VmName, NextLook] = {}
        self._ended: Cause | None = None
        self._revived = False
        self._failed: frozenset[VmName] = frozenset()
        self._everyone: Cause | None = None
        self._everyone_at_s = 0.0
        self._newborn: dict[int, float] = {}
        self._orphans: frozenset[orphans.Orphan] | None = None
        self._resync_at_s = 0.0
        self._retry_at_s = 0.0
        self._wait_s = _RETRY_S
        self._trouble = ""
        self._unwatched: frozenset[str] = frozenset()
        self._watched: dict[VmName, object] | None = None
        self._selector = selectors.DefaultSelector()
        self._listen(ears.files, self._hear_files)
        self._listen(ears.books, self._hear_books)
        self._listen(ears.domains, self._hear_domains)
        if ears.processes is not None:
            self._listen(ears.processes, self._hear_processes)

    def _listen(self, source: _HasDescriptor, action: Callable[[], None]) -> None:
        self._selector.register(source.fileno(), selectors.EVENT_READ, action)

    def listen(self, source: _HasDescriptor, action: Callable[[], None]) -> None:
        """Call `action` from the loop whenever `source` can be read (the socket, a signal)."""
        self._listen(source, action)

    def begin(self, *, attempts: int = 60, stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait until libvirt answers, finish what was cut off, start what should run, and check everything once.

        It lasts until that pass is complete, however long a command holds the lock meanwhile, or until `stopping`. Raises what libvirt
        says after `attempts` tries, a second apart; PermissionProblem at once.
        """
        for attempt in range(attempts):
            try:
                self.world.hypervisor.domains()
                break
            except PermissionProblem:
                raise
            except QuietcoreError as err:
                if attempt == attempts - 1:
                    raise
                if attempt == 0:
                    self.log.add("waiting-for-libvirt", message=err.message)
                self.world.sleep(1.0)
        self._ears.books.keep((self.world.config.state_dir,))
        now = self.world.clock()
        self._ended = Cause(at_s=now, by="start")
        self._mark_everyone("start", now)
        first = frozenset(self._due)
        self._resync_at_s = now
        self._work()
        while not self._has_seen(first) and not stopping():
            self.world.sleep(max(_RETRY_S, self._retry_at_s - self.world.clock()))
            self.step(0)
        self.log.add("agent-started", vms=len(self.caretaker.vms))

    def _has_seen(self, first: frozenset[VmName]) -> bool:
        """Whether what ended was looked at, and each of the first VMs is right, told to be wrong, or gone. Later ones need not be."""
        here = [self.caretaker.vms.get(vm) for vm in first & {entry.vm for entry in self.caretaker.running()}]
        return self._revived and self._orphans is not None and all(known and (known.right or known.trouble) for known in here)

    def close(self) -> None:
        """Give the selector back; VMs run on."""
        self._selector.close()

    def step(self, timeout_s: float | None = None) -> None:
        """Wait for the next event or deadline, at most `timeout_s`, and do what is due."""
        now = self.world.clock()
        wait = max(0.0, self._deadline_s(now) - now)
        for key, _events in self._selector.select(wait if timeout_s is None else min(wait, timeout_s)):
            self._guarded(key.data)
        self._work()

    def care(self, vm: VmName) -> Care | None:
        """What was done for a VM, and what is wrong with it that cannot be put right."""
        care = self.caretaker.care(vm)
        return None if care is None else replace(care, findings=(*care.findings, *self.host_findings.get(vm, ())))

    # What was heard

    def _hear_files(self) -> None:
        self._concern(self._watching.hear_files(self.world.clock()), "file")

    def _hear_processes(self) -> None:
        self._concern(self._watching.hear_processes(), "thread")

    def _hear_books(self) -> None:
        if any(event.name == "ledger.json" for event in self._ears.books.events()):
            self._mark_everyone("ledger", self.world.clock())

    def _hear_domains(self) -> None:
        now = self.world.clock()
        names = {entry.domain: entry.vm for entry in self.state.ledger.entries}
        for event in self._ears.domains.events():
            vm = names.get(event.name)
            if event.change == "disconnected":
                self.log.add("libvirt-lost")
                self._resync_at_s = now
            elif vm is None or event.change == "other":
                continue
            elif event.change in {"stopped", "failed"}:
                self._ended = self._ended or Cause(at_s=now, by="domain")
                self._failed |= {vm} if event.change == "failed" else set()
            else:
                self._due.setdefault(vm, Cause(at_s=now, by="domain"))

    def _concern(self, concern: Concern, by: By) -> None:
        now = self.world.clock()
        if concern.lost:
            self._resync_at_s = now
        if concern.cpus:
            self._look_at_cpus(now)
        for vm, at_s in concern.vms.items():
            self._due.setdefault(vm, Cause(at_s=at_s, by=by))
        if concern.everyone:
            self._everyone = self._everyone or Cause(at_s=now, by=by)
        self._newborn |= dict.fromkeys(concern.newborn, now + _NAMING_S)

    def _look_at_cpus(self, now: float) -> None:
        if self.state.look_at_cpus():
            self.caretaker.doubt_everyone()
            self._mark_everyone("cpu", now)
        found = cpus.findings(self.state.ledger, self.state.cpus, self._smt)
        for vm, findings in found.items():
            for one in findings:
                if one not in self.host_findings.get(vm, ()):
                    self.log.add("finding", vm, code=one.code, subject=f"{one.kind} {one.id}", expected=one.expected, actual=one.actual)
        self.host_findings = found

    def _mark_everyone(self, by: By, now: float) -> None:
        for entry in self.caretaker.running():
            self._due.setdefault(entry.vm, Cause(at_s=now, by=by))

    # What is due

    def _deadline_s(self, now: float) -> float:
        times = [max(self._resync_at_s, self._retry_at_s), *self._newborn.values()]
        if self._due or self._ended:
            times.append(max(self._retry_at_s, now))
        if self._everyone:
            times.append(self._everyone_at_s)
        times += [max(self._retry_at_s, again.at_s) for again in self._restless.values()]
        if self._revival.due_s is not None:
            times.append(max(self._revival.due_s, self._retry_at_s))
        return min(times)

    def _work(self) -> None:
        self._guarded(self._do_what_is_due)
        self._follow()

    def _guarded(self, action: Callable[[], None]) -> None:
        """What fails now is tried again later; the trouble is told once."""
        try:
            action()
        except TimedOut:
            self._retry_at_s = self.world.clock() + _RETRY_S  # a command changes this host: it will be done soon
        except QuietcoreError as err:
            if err.message != self._trouble:
                self.log.add("trouble", message=err.message)
            self._trouble = err.message
            self._retry_at_s = self.world.clock() + self._wait_s
            self._resync_at_s = min(self._resync_at_s, self._retry_at_s)
            self._wait_s = min(_LONGEST_RETRY_S, self._wait_s * 2)

    def _do_what_is_due(self) -> None:
        now = self.world.clock()
        self._name_newborn(now)
        self._glance_at_everyone(now)
        if now >= self._retry_at_s:
            self._resync(now)
            self._revive(now)
            self._check_due()
            self._wait_s, self._trouble = _RETRY_S, ""

    def _resync(self, now: float) -> None:
        if now < self._resync_at_s:
            return
        self._resync_at_s = now + self._resync_s
        self._look_at_cpus(now)
        self._mark_everyone("resync", now)
        names = {view.name for view in self.world.hypervisor.domains()}
        if any(entry.domain not in names for entry in self.caretaker.running()):
            self._ended = self._ended or Cause(at_s=now, by="resync")
        self._free_orphans()
        self._move_interrupts()

    def _name_newborn(self, now: float) -> None:
        for tid in [tid for tid, at_s in self._newborn.items() if at_s <= now]:
            vm = self._watching.helper_of(tid)
            born = self._newborn.pop(tid) - _NAMING_S
            if vm is not None:
                known = self.caretaker.vms.get(vm)
                if known is not None:
                    known.right = None  # a kernel thread that no glance knows: look at everything
                self._due.setdefault(vm, Cause(at_s=born, by="thread"))

    def _glance_at_everyone(self, now: float) -> None:
        if self._everyone is not None and now >= self._everyone_at_s:
            self._mark_everyone(self._everyone.by, self._everyone.at_s)
            self._everyone, self._everyone_at_s = None, now + _GLANCES_S

    def _revive(self, now: float) -> None:
        due = self._revival.due_s
        if self._ended is None and (due is None or due > now):
            return
        outcomes = self._revival.run(self._failed)
        self.caretaker.note_unfinished()
        self._ended, self._failed, self._revived = None, frozenset(), True
        for outcome in outcomes:
            if outcome.refusal is None:
                self._due.setdefault(outcome.vm, Cause(at_s=now, by="ledger"))

    def _check_due(self) -> None:
        now = self.world.clock()
        for vm, again in self._restless.items():
            if again.at_s <= now:
                self._due.setdefault(vm, Cause(at_s=now, by="retry"))
        refused: QuietcoreError | None = None
        for vm in sorted(self._due):
            cause = self._due[vm]
            known = self.caretaker.vms.get(vm)
            if known is not None and self._is_left_alone(known):
                del self._due[vm]
                self._restless.pop(vm, None)
                continue
            try:
                alive = self.caretaker.check(vm, cause)
            except TimedOut:
                raise
            except QuietcoreError as err:
                refused = err  # the other VMs are looked at all the same
                continue
            del self._due[vm]
            if not alive:
                self._ended = self._ended or cause
            self._look_again(vm)
        if refused is not None:
            raise refused

    def _look_again(self, vm: VmName) -> None:
        """While no two looks agree: at once when the VM's files are watched, then ever later, for it may never come to rest."""
        if self.caretaker.is_sure(vm):
            self._restless.pop(vm, None)
            return
        before = self._restless.get(vm)
        pause_s = 0.0 if before is None else min(_LONGEST_RETRY_S, max(_RETRY_S, 2 * before.pause_s))
        self._restless[vm] = NextLook(at_s=self.world.clock() + pause_s, pause_s=pause_s)

    def _is_left_alone(self, known: Known) -> bool:
        """Somebody rewrites what we repair: such a VM is left until the resync, else we would do nothing else."""
        now = self.world.clock()
        if now >= known.left_alone_until_s and known.contested(now):
            self.log.add("contested", known.vm, message="another program keeps changing this VM; the next look is that of the resync")
            known.recent.clear()
            known.left_alone_until_s = self._resync_at_s
        return now < known.left_alone_until_s

    def _free_orphans(self) -> None:
        """Those of the first look at once, before any CPU is handed out; later only what was one already at the look before."""
        found = frozenset(orphans.find(self.world, self.state.ledger))
        known, self._orphans = self._orphans, found
        if not (found if known is None else found & known):
            return
        with self.world.books.locked(_LOCK_WAIT_S):
            ledger, _machine = self.state.fresh()
            still = orphans.find(self.world, ledger)
            for orphan in orphans.free(self.world, tuple(one for one in still if known is None or one in known)):
                self.log.add("orphan-freed", group=orphan.group, cpus=str(orphan.cpus))

    def _move_interrupts(self) -> None:
        """Interrupts of drivers that were loaded since come with the default mask."""
        ledger = self.state.ledger
        isolated = [entry.plan.dedicated for entry in ledger.entries if entry.plan is not None and entry.mechanism == "partition"]
        if not isolated:
            return
        here = [irq for irq in irqs.irqs(self.world.fs) if not irq.managed and irq.irq not in ledger.unmovable_irqs]
        if not any(not irq.allowed.isdisjoint(cpus_) for irq in here for cpus_ in isolated):
            return
        with self.world.books.locked(_LOCK_WAIT_S):
            interrupts_away(self.world, self.state.fresh()[0])
        self.log.add("interrupts-moved")

    def _follow(self) -> None:
        with suppress(QuietcoreError):
            self.caretaker.forget_others()
        watched: dict[VmName, object] = {
            vm: (one.right.pid, one.right.groups, one.right.facts.quota_groups, one.right.vcpus)
            for vm, one in self.caretaker.vms.items()
            if one.right
        }
        if watched == self._watched:
            return
        self._watched = watched
        unwatched = self._watching.follow(self.caretaker.vms.values())
        if unwatched - self._unwatched:
            self.log.add("unwatched", paths=len(unwatched), message="no inotify watch is left for these: only the resync sees them")
        self._unwatched = unwatched


class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...
