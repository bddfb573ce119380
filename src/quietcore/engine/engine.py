"""The engine: what every front end calls. Each method is one transaction under the host's lock, or reads without it.

Each imports the modules of its story when it is called: who only reads does not wait for the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from quietcore.engine.shared import current_plan
from quietcore.engine.views import Outcome, Result, VmView
from quietcore.engine.world import World
from quietcore.errors import InputError, Problem
from quietcore.host.topology import read_machine
from quietcore.model import KUBEVIRT_DEFAULTS, ClusterConfig, CpuSet, Entry, Finding, Ledger, Machine, Plan, Refusal, VmName, VmSpec
from quietcore.render.values import Sandbox, Verification

if TYPE_CHECKING:
    from quietcore.engine.adopt import Wanted
    from quietcore.engine.defrag import Defrag
    from quietcore.engine.observe import Observation
    from quietcore.engine.rebuild import Rebuilt
    from quietcore.engine.reconcile import Restarted
    from quietcore.engine.release import Released
    from quietcore.engine.repin import Move
    from quietcore.engine.sandbox import SandboxChange
    from quietcore.engine.start import Decision
    from quietcore.virt.hypervisor import DomainView

_EMERGENCY_S: Final = 5.0
"""Longer than that an emergency does not wait for another quietcore: packaging/release-cpus.sh needs no lock."""


class Engine:
    """One host's VMs."""

    def __init__(self, world: World) -> None:
        self.world = world

    def machine(self, ledger: Ledger) -> Machine:
        """The host as it is now. CPUs inside our own partitions are hidden from everybody, yet ours to give."""
        return read_machine(self.world.fs, owned=ledger.owned)

    def apply(self, spec: VmSpec, text: str, cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Outcome:
        """Make one VM be as its manifest says. The same manifest again changes nothing, or repairs what drifted.

        `cluster` is the KubeVirt configuration that came with the manifest; a VM that runs meets a new one at its next start.
        """
        with self._changing() as (machine, ledger):
            entry = ledger.find(spec.vm)
            wanted = Entry(spec=spec, digest=_digest(text), manifest=text, phase="stopped", cluster=cluster)
            if entry is None:
                return self._first(machine, ledger, wanted)
            if entry.adopted is not None:
                raise _not_for(entry, "is a domain of somebody else's", f"`quietcore release {spec.vm.name}` first")
            if entry.phase == "running":
                return self._again(machine, ledger, entry, wanted)
            if not spec.starts:
                self.world.books.save(ledger.with_entry(replace(wanted, boot_id=entry.boot_id)))
                return Outcome(vm=spec.vm, result="unchanged" if entry.digest == wanted.digest else "stored")
            return self._started(machine, ledger, replace(wanted, known=True, earlier=entry, boot_id=entry.boot_id), "started")

    def delete(self, vm: VmName, *, grace_s: int | None = None) -> bool:
        """End a VM and remove all traces of it. False when there is no such VM."""
        from quietcore.engine.reconcile import stop

        with self._changing() as (machine, ledger):
            entry = ledger.find(vm)
            if entry is None:
                return False
            if entry.adopted is not None:
                raise _not_for(entry, "is a domain of somebody else's", f"`quietcore release {vm.name}` gives it back what it had")
            grace = entry.spec.termination_grace_seconds if grace_s is None else grace_s
            stop(self.world, machine, ledger, entry, keep=False, grace_s=grace)
            return True

    def reconcile(self) -> tuple[Restarted, ...]:
        """What runs once after a boot: finish, undo, free, and start what its run strategy wants running."""
        from quietcore.engine import orphans
        from quietcore.engine.reconcile import restart
        from quietcore.engine.settle import settle

        with self._changing() as (known, ledger):
            freed = orphans.free(self.world, orphans.find(self.world, ledger))
            machine = self.machine(ledger) if freed else known
            for entry in ledger.entries:
                if entry.phase == "running" and entry.plan is not None:
                    settle(self.world, entry, current_plan(self.world, machine, ledger, entry.plan))
            return restart(self.world, machine, ledger)[1]

    def adopt(self, wanted: Wanted, *, dry_run: bool = False) -> Entry | Plan | Refusal:
        """Give a running domain that is not ours CPUs of its own; gives its entry, or with `dry_run` the plan alone."""
        from quietcore.engine.adopt import adopt, place, wanted_entry

        if dry_run:
            ledger = self.world.books.load()
            return place(self.world, self.machine(ledger), ledger, wanted_entry(self.world, ledger, wanted), wanted.domain)
        with self._changing() as (machine, ledger):
            answer = adopt(self.world, machine, ledger, wanted_entry(self.world, ledger, wanted), wanted.domain)
            return answer if isinstance(answer, Refusal) else answer[1]

    def release(self, vm: VmName) -> bool:
        """Give an adopted domain back what it had. False when there is no such VM."""
        from quietcore.engine.adopt import release

        with self._changing() as (machine, ledger):
            entry = ledger.find(vm)
            if entry is None:
                return False
            if entry.adopted is None:
                raise _not_for(entry, "is quietcore's own: there is nothing to give it back", f"`quietcore delete {vm.name}` ends it")
            release(self.world, machine, ledger, entry)
            if entry.sandbox is not None:
                from quietcore.engine.sandbox import tell_end

                tell_end(self.world, entry)
            return True

    def sandbox(self, vm: VmName) -> Sandbox | None:
        """A sandbox as the books have it. None when there is no such VM; raises InputError for one that is no sandbox."""
        from quietcore.engine.sandbox import sandbox_of

        entry = self.world.books.load().find(vm)
        return None if entry is None else sandbox_of(entry)

    def create_sandbox(self, wanted: Wanted, *, dry_run: bool = False) -> SandboxChange | Refusal:
        """Make a running domain that is not ours a sandbox: it gets the CPUs of its containers, and can be updated."""
        from quietcore.engine.sandbox import create

        if dry_run:
            ledger = self.world.books.load()
            return create(self.world, self.machine(ledger), ledger, wanted, dry_run=True)
        with self._changing() as (machine, ledger):
            return create(self.world, machine, ledger, wanted, dry_run=False)

    def update_sandbox(
        self, vm: VmName, put: Mapping[str, CpuSet], remove: frozenset[str] = frozenset(), *, dry_run: bool = False
    ) -> SandboxChange | Refusal | None:
        """Containers of a sandbox come, change or go, and its vCPUs follow their CPUs. None when there is no such VM."""
        from quietcore.engine.repin import Move
        from quietcore.engine.sandbox import changed, described, plan_update, update

        def step(machine: Machine, ledger: Ledger) -> Move | Refusal | None:
            entry = ledger.find(vm)
            return None if entry is None else plan_update(self.world, machine, ledger, entry, changed(entry, put, remove))

        if dry_run:
            ledger = self.world.books.load()
            planned = step(self.machine(ledger), ledger)
            return described(planned) if isinstance(planned, Move) else planned
        with self._changing() as (machine, ledger):
            planned = step(machine, ledger)
            return update(self.world, machine, ledger, planned) if isinstance(planned, Move) else planned

    def release_all(self) -> Released:
        """Give every CPU back in an emergency; all VMs go on running on the shared pool."""
        from quietcore.engine.release import release_all

        with self.world.books.locked(timeout_s=_EMERGENCY_S):
            return release_all(self.world)

    def rebuild(self, *, force: bool = False) -> Rebuilt:
        """Make the ledger anew from the VMs that run, when it was lost or damaged."""
        from quietcore.engine.rebuild import rebuild

        with self.world.books.locked():
            return rebuild(self.world, force=force)

    def plan_move(self, vm: VmName, *, cpus: CpuSet | None = None, memory: bool = False) -> Move | Refusal | None:
        """Where `repin` would put a running VM: on these CPUs, or somewhere better. Changes nothing; None when there is no such VM."""
        from quietcore.engine.repin import plan_move

        ledger = self.world.books.load()
        entry = ledger.find(vm)
        return None if entry is None else plan_move(self.world, self.machine(ledger), ledger, entry, cpus=cpus, memory=memory)

    def repin(self, vm: VmName, *, cpus: CpuSet | None = None, memory: bool = False) -> Move | Refusal | None:
        """Move a running VM's vCPUs to these CPUs, or somewhere better, and its memory with them. None when there is no such VM."""
        from quietcore.engine.repin import Move, plan_move, repin

        with self._changing() as (machine, ledger):
            entry = ledger.find(vm)
            if entry is None:
                return None
            step = plan_move(self.world, machine, ledger, entry, cpus=cpus, memory=memory)
            if isinstance(step, Move):
                repin(self.world, machine, ledger, (step,))
                if step.memory is not None:
                    from quietcore.engine.memory import bring_memory, memory_elsewhere  # brings lxml, which no other move needs

                    if step.there == step.here:  # the books say so already, but pages were left behind
                        bring_memory(self.world, entry, step.here, step.there)
                    after = memory_elsewhere(self.world, entry, step.memory.nodes)
                    step = replace(step, memory=replace(step.memory, after=after))
            return step

    def plan_defrag(self, specs: Sequence[VmSpec], cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Defrag | Refusal:
        """Which running vCPUs would have to move so that all of these VMs fit. Changes nothing."""
        from quietcore.engine.defrag import plan_defrag

        ledger = self.world.books.load()
        return plan_defrag(self.world, self.machine(ledger), ledger, specs, cluster)

    def defrag(self, specs: Sequence[VmSpec], cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Defrag | Refusal:
        """Move as few running vCPUs as can be so that all of these VMs fit; all of the moves are made, or none."""
        from quietcore.engine.defrag import Defrag, plan_defrag
        from quietcore.engine.repin import repin

        with self._changing() as (machine, ledger):
            answer = plan_defrag(self.world, machine, ledger, specs, cluster)
            if isinstance(answer, Defrag):
                repin(self.world, machine, ledger, answer.steps)
            return answer

    def plan(self, spec: VmSpec, machine: Machine, ledger: Ledger, cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Decision:
        """Where a VM would go. Needs neither rights nor libvirt."""
        from quietcore.engine.start import decide

        return decide(spec, machine, ledger, self.world, cluster)

    def views(self) -> tuple[VmView, ...]:
        """Every VM of the books beside what libvirt says, without the lock."""
        ledger = self.world.books.load()
        if not ledger.entries:
            return ()
        domains = {view.name: view for view in self.world.hypervisor.domains()} if _any_active(ledger) else {}
        machine = self.machine(ledger)
        return tuple(self._view(entry, domains, machine, ledger) for entry in ledger.entries)

    def view(self, vm: VmName) -> VmView | None:
        """One VM, or None."""
        return next((view for view in self.views() if view.entry.vm == vm), None)

    def observation(self, vm: VmName) -> Observation:
        """The threads and cgroups of a running VM."""
        from quietcore.engine.observe import observe

        entry = self.world.books.load().find(vm)
        return observe(self.world, vm, domain=entry.domain if entry is not None else "")

    def verify(self, view: VmView) -> Verification:
        """Read the kernel back and compare it with the plan."""
        from quietcore.engine.observe import findings_of, observe

        vm = view.entry.vm
        if view.entry.phase == "stopped":
            return Verification(vm=vm, findings=())
        if view.domain is None or view.plan is None:
            gone = Finding(
                code="domain-missing",
                severity="error",
                kind="domain",
                id=view.entry.domain,
                expected="a running domain",
                actual="none",
                hint="the guest ended or was ended from outside; `quietcore agent --once` acts on its run strategy",
            )
            return Verification(vm=vm, findings=(gone,))
        ledger = self.world.books.load()
        seen = observe(self.world, vm, domain=view.entry.domain)
        return Verification(vm=vm, findings=findings_of(self.world, view.entry, view.plan, seen, ledger))

    @contextmanager
    def _changing(self) -> Iterator[tuple[Machine, Ledger]]:
        """Hold the lock over what others left finished or undone: every operation that changes the host begins so."""
        from quietcore.engine.reconcile import recover

        with self.world.books.locked():
            ledger = self.world.books.load()
            machine = self.machine(ledger)
            yield machine, recover(self.world, machine, ledger)

    def _first(self, machine: Machine, ledger: Ledger, wanted: Entry) -> Outcome:
        stranger = self.world.hypervisor.find(wanted.vm.domain)
        if stranger is not None:
            raise InputError.of(
                (
                    Problem(
                        message=f"libvirt already has a domain {wanted.vm.domain} that is not in our books",
                        code="domain-exists",
                        hint=f"end it first (virsh destroy {wanted.vm.domain}) or give the VM another name",
                    ),
                )
            )
        if not wanted.spec.starts:
            self.world.books.save(ledger.with_entry(wanted))
            return Outcome(vm=wanted.vm, result="stored")
        return self._started(machine, ledger, wanted, "created")

    def _again(self, machine: Machine, ledger: Ledger, entry: Entry, wanted: Entry) -> Outcome:
        from quietcore.engine.observe import observe
        from quietcore.engine.pool import kernel_tasks_away
        from quietcore.engine.reconcile import stop
        from quietcore.engine.settle import settle

        told = replace(entry, spec=wanted.spec, digest=wanted.digest, manifest=wanted.manifest, cluster=wanted.cluster)
        if not wanted.spec.starts:
            ledger = ledger.with_entry(told)
            self.world.books.save(ledger)  # the intent: a stop that is cut off is finished, and the VM is not started again
            stop(self.world, machine, ledger, told, keep=True, grace_s=entry.spec.termination_grace_seconds)
            return Outcome(vm=wanted.vm, result="stopped")
        if replace(wanted.spec, run_strategy=entry.spec.run_strategy) != entry.spec:
            raise InputError.of(
                (
                    Problem(
                        message=f"{wanted.vm} runs with another manifest, and a running VM cannot be changed",
                        code="changed-while-running",
                        hint=f"`quietcore diff -f FILE` shows what differs; `quietcore delete {wanted.vm.name}` first to replace it",
                    ),
                )
            )
        if entry.plan is None:
            raise AssertionError(f"{entry.vm} runs without a plan")
        self.world.books.save(ledger.with_entry(told))
        plan = current_plan(self.world, machine, ledger, entry.plan)
        seen = observe(self.world, entry.vm, domain=entry.domain)
        writes = settle(self.world, entry, plan, seen) + kernel_tasks_away(self.world, entry, plan, seen.census)
        return Outcome(vm=wanted.vm, result="repaired" if writes else "unchanged", plan=entry.plan)

    def _started(self, machine: Machine, ledger: Ledger, wanted: Entry, result: Result) -> Outcome:
        from quietcore.engine.start import start

        answer = start(self.world, machine, ledger, wanted)
        if isinstance(answer, Refusal):
            return Outcome(vm=wanted.vm, result="refused", refusal=answer)
        return Outcome(vm=wanted.vm, result=result, plan=answer[1].plan)

    def _view(self, entry: Entry, domains: Mapping[str, DomainView], machine: Machine, ledger: Ledger) -> VmView:
        plan = current_plan(self.world, machine, ledger, entry.plan) if entry.plan is not None else None
        return VmView(entry=entry, domain=domains.get(entry.domain), plan=plan)


def _not_for(entry: Entry, why: str, hint: str) -> InputError:
    return InputError.of((Problem(message=f"{entry.vm} {why}", code="adopted" if entry.adopted else "not-adopted", hint=hint),))


def _any_active(ledger: Ledger) -> bool:
    return any(entry.phase != "stopped" for entry in ledger.entries)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
