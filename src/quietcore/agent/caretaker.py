"""The care for running VMs: a glance at each, and where it differs from what was right, the repair, under the lock.

observe -> plan -> diff -> apply -> verify, with the glance before it, so that a host where nothing happens costs next to nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from quietcore.agent import hotplug
from quietcore.agent.events import EventLog
from quietcore.agent.host_state import HostState
from quietcore.agent.known import Cause, Known, Right, role_names, told
from quietcore.engine import World
from quietcore.engine.observe import Observation, observe
from quietcore.engine.pool import kernel_tasks_away
from quietcore.engine.realtime import has_drifted
from quietcore.engine.repin import grow
from quietcore.engine.settle import settle
from quietcore.errors import OperationFailed, QuietcoreError
from quietcore.host import cgroups, glance
from quietcore.isolation import refreshed, verify, waiting
from quietcore.model import Applied, Entry, Finding, Ledger, Machine, Plan, VmName
from quietcore.placement import reserved_cpus
from quietcore.render.values import Care

_LOCK_WAIT_S: Final = 0.05
"""A command that changes the host holds the lock: the agent comes again a moment later."""


class Caretaker:
    """Keeps every running VM as its plan says. Everything that it raises is a QuietcoreError: then the VM is tried again later."""

    def __init__(self, world: World, state: HostState, log: EventLog) -> None:
        self.world = world
        self.state = state
        self.log = log
        self.vms: dict[VmName, Known] = {}

    def running(self) -> tuple[Entry, ...]:
        """The VMs of the books that run."""
        return tuple(entry for entry in self.state.ledger.entries if entry.phase == "running" and entry.plan is not None)

    def forget_others(self) -> None:
        """Drop what is known of VMs that no longer run."""
        names = {entry.vm for entry in self.running()}
        self.vms = {vm: known for vm, known in self.vms.items() if vm in names}

    def care(self, vm: VmName) -> Care | None:
        """What was done for a VM."""
        known = self.vms.get(vm)
        return None if known is None else known.care

    def check(self, vm: VmName, cause: Cause) -> bool:
        """Look at one VM and put it right where it is not; False when it ended, or its last command was cut off.

        Raises TimedOut while another command changes this host, OperationFailed when a repair is refused.
        """
        ledger = self.state.ledger
        entry = ledger.find(vm)
        if entry is None or entry.plan is None or entry.phase != "running":
            self.vms.pop(vm, None)
            return True
        known = self.vms.setdefault(vm, Known(vm=vm))
        try:
            plan = refreshed(entry.plan, self.state.shared(ledger))
            plan = waiting(plan, self.state.cpus.online)
            announced = cause.by != "resync" or not has_drifted(self.world, entry, plan)
            if announced and not known.trouble and self._is_right(known, entry.domain, plan):
                return True
        except ProcessLookupError:
            return False
        with self.world.books.locked(_LOCK_WAIT_S):
            return self._repair(vm, known, cause)

    def note_unfinished(self) -> None:
        """After a recovery: a VM that is still on the move cannot be looked at, and that is its trouble. Why it is so was told then."""
        for entry in self.running():
            if entry.moving is not None:
                message = "a move of its vCPUs that had been cut off cannot be finished yet"
                self._failed(self.vms.setdefault(entry.vm, Known(vm=entry.vm)), OperationFailed(message))

    def doubt_everyone(self) -> None:
        """Look at all of each VM the next time: at any CPU that comes online the kernel allows some of its threads everywhere again."""
        for known in self.vms.values():
            if known.right is not None:
                known.right = replace(known.right, sure=False)

    def is_sure(self, vm: VmName) -> bool:
        """Whether nothing can have happened to the VM that neither the last look nor an event tells; else it is to be looked at again."""
        known = self.vms.get(vm)
        return known is None or known.right is None or known.right.sure

    def _is_right(self, known: Known, domain: str, plan: Plan) -> bool:
        """Whether the VM looks as it did when it was right, or has only helper threads that differ and stand well."""
        right = known.right
        if right is None or not right.sure or right.plan != plan:
            return False
        now = glance.look(
            self.world.fs, self.world.control, right.pid, helpers=right.helpers, files=right.files, version=right.facts.version
        )
        if not self._is_alike(domain, right, now):
            return False
        known.right = right.at(self.world.clock(), now)
        return True

    def _is_alike(self, domain: str, right: Right, now: glance.Look) -> bool:
        """QEMU's workers come and go; a new one that stands where its like stand needs no repair. Whether it is one, QEMU says."""
        if now == right.look:
            return True
        before = right.look
        came, went = now.threads.keys() - before.threads.keys(), before.threads.keys() - now.threads.keys()
        if now.files != before.files or went & (right.vcpus | right.iothreads | right.helpers):
            return False
        if any(now.threads[tid] != seen for tid, seen in before.threads.items() if tid in now.threads):
            return False
        places = {before.threads[tid] for tid in right.others}
        if not all(now.threads[tid] in places for tid in came):
            return False
        if not came:
            return True
        answer = self.world.hypervisor.threads(domain)
        return answer.vcpus.keys() == right.vcpus and answer.iothreads.keys() == right.iothreads

    def _repair(self, vm: VmName, known: Known, cause: Cause) -> bool:
        ledger, machine = self.state.fresh()
        entry = ledger.find(vm)
        if entry is None or entry.plan is None or entry.phase != "running":
            self.vms.pop(vm, None)
            return True
        if entry.moving is not None or self.world.hypervisor.find(entry.domain) is None:
            return False  # ended, or a move was cut off: to be recovered
        seen = observe(self.world, vm, domain=entry.domain)
        adjusted = self._plugged(entry, seen, ledger, machine)
        changed = adjusted != entry.plan
        writes: list[Applied] = []
        try:
            if changed:
                ledger = grow(self.world, machine, ledger, entry, there=adjusted, seen=seen)
                entry, seen = ledger.find(vm) or entry, observe(self.world, vm, domain=entry.domain)
            plan = refreshed(adjusted, self.state.shared(ledger))
            settle(self.world, entry, plan, seen, tell=writes.append)
            kernel_tasks_away(self.world, entry, plan, seen.census, writes.append)
        except OperationFailed as err:
            self._tell(known, cause, writes, seen)
            self._failed(known, err)
            raise
        if writes or changed:
            seen = observe(self.world, vm, domain=entry.domain)
        self._tell(known, cause, writes, seen, changed=changed)
        self._remember(known, entry, plan, seen)
        return True

    def _plugged(self, entry: Entry, seen: Observation, ledger: Ledger, machine: Machine) -> Plan:
        """The plan for the vCPUs that run now."""
        reserved = reserved_cpus(machine, self.world.config.options)
        answer = hotplug.adjust(entry, seen.census.running_vcpus, machine, ledger, reserved)
        for one in answer.came:
            self.log.add("vcpu-plugged-in", entry.vm, vcpu=one.vcpu, cpu=one.pcpu if one.pcpu is not None else "shared pool")
        for one in answer.went:
            self.log.add("vcpu-plugged-out", entry.vm, vcpu=one.vcpu, cpu=one.pcpu if one.pcpu is not None else "shared pool")
        known = self.vms[entry.vm]
        for vcpu, why in answer.refused:
            if not any(one.code == "vcpu-unplanned" and one.id == str(vcpu) for one in known.care.findings):
                self.log.add("vcpu-not-placed", entry.vm, vcpu=vcpu, why=why)
        assert answer.entry.plan is not None  # `adjust` never takes a plan away
        return answer.entry.plan

    def _tell(self, known: Known, cause: Cause, writes: list[Applied], seen: Observation, *, changed: bool = False) -> None:
        """Say who was where for how long."""
        if not writes and not changed:
            return
        now = self.world.clock()
        reaction = known.repaired(cause, now)
        right = known.right
        roles = dict(right.roles if right else {}) | dict(role_names(seen.census))
        since_good = None if right is None else now - right.good_at_s
        for applied in writes:
            fields = told(applied, roles)
            born = right is not None and fields.get("tid") in roles and fields["tid"] not in right.look.threads
            self.log.add(
                "thread-placed" if born else "drift-repaired",
                known.vm,
                **fields,
                seconds_since_good=since_good,
                reaction_s=reaction,
                by=cause.by,
            )

    def _failed(self, known: Known, err: QuietcoreError) -> None:
        if known.trouble != err.message:
            self.log.add("repair-failed", known.vm, message=err.message)
        known.trouble = err.message
        finding = Finding(
            code="repair-failed", severity="error", kind="vm", id=str(known.vm), expected="everything in its place", actual=err.message
        )
        known.found((finding,))

    def _remember(self, known: Known, entry: Entry, plan: Plan, seen: Observation) -> None:
        """Verify, and keep how it looks; what is still wrong is told once."""
        realtime = entry.spec.cpu.realtime
        priority = realtime.priority if realtime else 1
        findings = verify(plan, seen.census, seen.facts, entry.mechanism, priority=priority)
        errors = tuple(one for one in findings if one.severity == "error")
        for one in errors:
            if one not in known.care.findings:
                self.log.add("finding", known.vm, code=one.code, subject=f"{one.kind} {one.id}", expected=one.expected, actual=one.actual)
        if known.trouble:
            self.log.add("recovered", known.vm)
            known.trouble = ""
        known.found(errors)
        before, right = known.right, self._as_right(waiting(plan, self.state.cpus.online), seen)
        # What was verified stands between two looks: where they agree, nothing changed meanwhile.
        sure = before is not None and before.plan == right.plan and self._is_alike(entry.domain, before, right.look)
        known.right = replace(right, sure=sure)

    def _as_right(self, plan: Plan, seen: Observation) -> Right:
        census, facts = seen.census, seen.facts
        helpers = frozenset(one.tid for one in census.threads if not self.world.fs.is_dir(f"/proc/{census.pid}/task/{one.tid}"))
        files = glance.files_of(facts, census)
        version = cgroups.hierarchy(self.world.fs).version
        look = glance.look(self.world.fs, self.world.control, census.pid, helpers=helpers, files=files, version=version)
        return Right(
            plan=plan,
            pid=census.pid,
            look=look,
            good_at_s=self.world.clock(),
            roles=role_names(census),
            vcpus=frozenset(one.tid for one in census.vcpus),
            iothreads=frozenset(one.tid for one in census.threads if one.iothread is not None),
            helpers=helpers,
            facts=replace(facts, version=version),
            groups=glance.own_groups(facts, census),
            files=files,
        )
