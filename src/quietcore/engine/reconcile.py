"""Finishing or undoing what a killed command left, and bringing the VMs of a host to what their run strategies say.

books say    domain is    then
creating     running      it had been resumed: checked and kept
creating     else         the start is undone
deleting     any          the deletion is finished
any          adopted, gone or anew        its entry goes: it is not ours to start again
creating     adopted, running             everything is given back, and so when `deleting`
running      on the move                  its vCPUs are brought to the placement that holds, the other one's CPUs are free
running      to be halted the stop is finished: the manifest says that it shall not run
running      gone         it ended, or the host rebooted: its CPUs are free; started again where its strategy says so
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from quietcore.engine.copies import keep_copy
from quietcore.engine.observe import findings_of, observe
from quietcore.engine.pool import follow_pool, interrupts_away
from quietcore.engine.shared import current_plan
from quietcore.engine.start import start
from quietcore.engine.teardown import ask_to_end, tear_down
from quietcore.engine.world import Event, World
from quietcore.errors import InputError, OperationFailed, TimedOut, UndoFailed
from quietcore.host import cgroups
from quietcore.model import Entry, Ledger, Machine, Refusal, VmName

Ending: TypeAlias = Literal["ended", "rebooted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restarted:
    """One VM that was started again, or why it could not be."""

    vm: VmName
    refusal: Refusal | None = None


def recover(world: World, machine: Machine, ledger: Ledger) -> Ledger:
    """Finish or undo every intent, and free the CPUs of VMs that ended. The caller holds the lock. The result is on disk."""
    cgroups.sweep_probe(world.fs, cgroups.hierarchy(world.fs))
    changed = False
    for entry in ledger.entries:
        if entry.adopted is not None:
            from quietcore.engine import adopt  # noqa: PLC0415  # few hosts have adopted domains

            looked_at = adopt.recovered(world, ledger, entry)
            changed = changed or looked_at is not ledger
            if looked_at is not ledger:
                ledger = looked_at
                world.books.save(ledger)
            continue
        view = world.hypervisor.find(entry.domain) if entry.phase != "stopped" else None
        match entry.phase:
            case "stopped":
                continue
            case "creating" if view is not None and view.state == "running" and _is_sound(world, machine, ledger, entry):
                running = replace(entry, phase="running", earlier=None)
                keep_copy(world, running)
                ledger = ledger.with_entry(running)
                _tell(world, entry.vm, "finished", "a start that had been cut off")
            case "creating":
                tear_down(world, entry.vm, ledger.without(entry.vm))
                ledger = ledger.with_entry(entry.earlier or _stopped(entry)) if entry.known else ledger.without(entry.vm)
                _tell(world, entry.vm, "undone", "a start that had been cut off")
            case "deleting":
                tear_down(world, entry.vm, ledger.without(entry.vm))
                ledger = ledger.without(entry.vm)
                _tell(world, entry.vm, "deleted", "a deletion that had been cut off")
            case "running" if view is None or not entry.spec.starts:
                tear_down(world, entry.vm, ledger.without(entry.vm))
                ledger = ledger.with_entry(_stopped(entry))
                ended = "the host rebooted" if entry.boot_id != world.boot_id else "it ended"
                _tell(world, entry.vm, "stopped", ended if view is None else "a stop that had been cut off")
            case "running":
                continue
        changed = True
        world.books.save(ledger)
    if any(entry.moving for entry in ledger.entries):
        from quietcore.engine import repin  # noqa: PLC0415  # few moves are cut off

        ledger = repin.recovered(world, machine, ledger)
    if changed:
        ledger = interrupts_away(world, ledger)
        follow_pool(world, machine, ledger)
    return ledger


def restart(
    world: World,
    machine: Machine,
    ledger: Ledger,
    *,
    failed: frozenset[VmName] = frozenset(),
    held: frozenset[VmName] = frozenset(),
) -> tuple[Ledger, tuple[Restarted, ...]]:
    """Start every stopped VM whose run strategy wants it to run. The caller holds the lock and has recovered.

    `Always` always; `RerunOnFailure` after a failure: of the guest or QEMU (`failed`), or a reboot of the host; a bare
    VirtualMachineInstance never, as in KubeVirt, where it ends with its node. Those that are `held` wait for another time.
    """
    outcomes = []
    for entry in ledger.entries:
        if entry.phase != "stopped" or entry.vm in held or not _wants_to_run(world, entry, failed):
            continue
        try:
            answer = start(world, machine, ledger, replace(entry, known=True))
        except (OperationFailed, UndoFailed, TimedOut, InputError) as err:
            _tell(world, entry.vm, "failed", str(err))
            outcomes.append(Restarted(vm=entry.vm, refusal=Refusal(message=str(err), vm=entry.vm, reason="StartFailed")))
            continue
        if isinstance(answer, Refusal):
            outcomes.append(Restarted(vm=entry.vm, refusal=answer))
        else:
            ledger = answer[0]
            outcomes.append(Restarted(vm=entry.vm))
    return ledger, tuple(outcomes)


def _wants_to_run(world: World, entry: Entry, failed: frozenset[VmName]) -> bool:
    strategy = entry.spec.run_strategy
    rebooted = bool(entry.boot_id) and entry.boot_id != world.boot_id
    return strategy == "Always" or (strategy == "RerunOnFailure" and (rebooted or entry.vm in failed))


def _stopped(entry: Entry) -> Entry:
    """The entry of a VM that owns nothing any more; the boot of its last start stays, to tell a reboot from an end."""
    return replace(
        entry,
        phase="stopped",
        plan=None,
        moving=None,
        restore=(),
        settings=(),
        limits=(),
        cgroup_home="",
        directory="",
        mechanism="affinity",
    )


def _is_sound(world: World, machine: Machine, ledger: Ledger, entry: Entry) -> bool:
    if entry.plan is None:
        return False
    plan = current_plan(world, machine, ledger, entry.plan)
    findings = findings_of(world, entry, plan, observe(world, entry.vm, domain=entry.domain), ledger)
    return not any(finding.severity == "error" for finding in findings)


def _tell(world: World, vm: VmName, step: str, detail: str) -> None:
    world.report(Event(vm=vm, step=step, detail=detail, seconds=0.0))


def stop(world: World, machine: Machine, ledger: Ledger, entry: Entry, *, keep: bool, grace_s: int) -> Ledger:
    """Stop one VM and free what it owns; with `keep` it stays in the books. The caller holds the lock. The result is on disk.

    A stop that is cut off is finished: as a deletion, or where it is to be kept, because its manifest says so already.
    """
    if not keep:
        ledger = ledger.with_entry(replace(entry, phase="deleting"))
        world.books.save(ledger)
    ask_to_end(world, entry.vm, grace_s)
    tear_down(world, entry.vm, ledger.without(entry.vm))
    ledger = ledger.with_entry(_stopped(entry)) if keep else ledger.without(entry.vm)
    world.books.save(ledger)
    ledger = interrupts_away(world, ledger)
    follow_pool(world, machine, ledger)
    return ledger
