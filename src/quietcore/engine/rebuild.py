"""`quietcore ledger rebuild`: the books once more from the VMs that run, when the ledger was lost or damaged.

Beside each VM's files lies a copy of its entry, written when it started or was adopted. What the copy says of CPUs is believed
only as far as the kernel agrees: a vCPU is where its thread is. Where the copy is lost too, the domain's XML gives the manifest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

from quietcore.domain import facts as domain_facts
from quietcore.domain import to_manifest
from quietcore.engine.adopt import is_same_run
from quietcore.engine.copies import keep_copy, kept_copies
from quietcore.engine.identity import strategy_of, uuid_of
from quietcore.engine.observe import Observation, observe
from quietcore.engine.release import without_cpus
from quietcore.engine.world import World
from quietcore.errors import InputError, OperationFailed, Problem, QuietcoreError
from quietcore.host.topology import read_machine
from quietcore.isolation import mechanism_of
from quietcore.manifest import SourceText, load
from quietcore.model import (
    COMPUTE,
    PLACEHOLDER,
    Assignment,
    CpuSet,
    Entry,
    Ledger,
    Machine,
    Plan,
    VcpuPlacement,
)
from quietcore.virt.hypervisor import DomainView

_RULE: Final = "found there when the ledger was rebuilt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """The new ledger, what could not be recovered, and where the old one was kept ("" where there was none)."""

    ledger: Ledger
    notes: tuple[str, ...] = ()
    kept: str = ""


def rebuild(world: World, *, force: bool = False) -> Rebuilt:
    """Make the ledger anew from the running domains and write it. The caller holds the lock.

    Raises InputError for a ledger that can be read, unless forced: it knows more than can be found out. The old file is kept.
    """
    if not force and _readable(world):
        message = "the ledger can be read, and it knows more than the running VMs show"
        raise InputError.of((Problem(message=message, code="readable", hint="--force rebuilds it all the same; the old one is kept"),))
    kept = world.books.set_aside()
    copies = kept_copies(world)
    ledger, notes = Ledger(), []
    for view in world.hypervisor.domains():
        try:
            entry, told = _entry(world, view, copies)
            notes += told
            if entry is not None:
                ledger, told = _entered(world, ledger, entry)
                notes += told
        except (OSError, QuietcoreError) as err:
            notes.append(f"{view.name}: {err}")
    world.books.save(ledger)
    for entry in ledger.entries:
        keep_copy(world, entry)
    return Rebuilt(ledger=ledger, notes=tuple(notes), kept=kept)


def _readable(world: World) -> bool:
    try:
        return bool(world.books.load().entries)
    except OperationFailed:
        return False


def _entry(world: World, view: DomainView, copies: tuple[Entry, ...]) -> tuple[Entry | None, list[str]]:
    """The entry of one running domain; None for a domain that was never ours."""
    xml = world.hypervisor.xml(view.name)
    found = domain_facts(xml)
    copy = next((one for one in copies if one.domain == view.name and one.domain_uuid == view.uuid), None)
    if found.vm is None:
        if copy is None or not is_same_run(world, copy):
            return None, []
        return _as_seen(world, replace(copy, phase="running", moving=None))
    if copy is None:
        text = json.dumps(to_manifest(xml)[0], indent=2)
        spec = load([SourceText(file=view.name, text=text)]).documents[0].spec
        copy = Entry(
            spec=replace(spec, vm=found.vm, strategy=found.strategy, firmware=replace(spec.firmware, uuid=view.uuid)),
            digest="",
            manifest=text,
            phase="running",
            domain_uuid=view.uuid,
            directory=str(world.vm_directory(found.vm)),
        )
        entry, notes = _as_seen(world, copy)
        return entry, [*notes, f"{found.vm}: its manifest was lost and is made from libvirt's XML"]
    return _as_seen(world, replace(copy, phase="running", moving=None))


def _as_seen(world: World, entry: Entry) -> tuple[Entry, list[str]]:
    """The entry with the placement that the kernel shows."""
    seen = observe(world, entry.vm, domain=entry.domain)
    machine = read_machine(world.fs, owned=CpuSet.from_iterable(_pins(entry, seen).values()))
    pins = _pins(entry, seen)
    plan = entry.plan
    notes = []
    if plan is None or {vcpu.vcpu: vcpu.pcpu for vcpu in plan.vcpus if vcpu.pcpu is not None} != pins:
        if plan is not None:
            notes.append(f"{entry.vm}: its vCPUs are on {CpuSet.from_iterable(pins.values()) or 'the pool'}, not where the copy says")
        plan = _plan(world, entry, machine, seen, pins)
    partitions = any(state == "isolated" for state in seen.facts.partition_states.values())
    mechanism = mechanism_of(plan, replace(seen.facts, partitions=partitions))
    home = seen.facts.home if seen.facts.layout != "none" else ""
    if entry.spec.cpu.realtime is not None and not entry.restore:
        notes.append(f"{entry.vm}: what kernel threads had before they were raised for it is lost; they stay raised")
    return replace(entry, plan=plan, mechanism=mechanism, cgroup_home=home, boot_id=world.boot_id), notes


def _pins(entry: Entry, seen: Observation) -> dict[int, int]:
    """vCPU -> its CPU, for vCPU threads that have exactly one each."""
    single = {thread.vcpu: thread.allowed.lowest for thread in seen.census.vcpus if thread.vcpu is not None and len(thread.allowed) == 1}
    return single if entry.spec.cpu.dedicated and len(set(single.values())) == len(single) else {}


def _plan(world: World, entry: Entry, machine: Machine, seen: Observation, pins: dict[int, int]) -> Plan:
    """A placement that says what the kernel shows. Helper CPUs that the VM pays for are those of QEMU's main thread."""
    strategy = strategy_of(entry.spec, world.config.strategy)
    used = CpuSet.from_iterable(pins.values())
    main = next((thread.allowed for thread in seen.census.threads if thread.tid == seen.census.pid), CpuSet())
    extra = main - used if strategy == "housekeeping" and pins else CpuSet()
    cpus = {cpu.cpu: cpu for cpu in machine.cpus}
    realtime = entry.spec.cpu.realtime.vcpus if entry.spec.cpu.realtime else frozenset()
    placed = []
    for thread in seen.census.vcpus:
        pcpu = pins.get(thread.vcpu or 0)
        known = cpus.get(pcpu) if pcpu is not None else None
        placed.append(
            VcpuPlacement(
                vcpu=thread.vcpu or 0,
                pcpu=pcpu,
                node=known.node if known else None,
                core=known.core if known else None,
                realtime=thread.vcpu in realtime,
                rule=_RULE,
            )
        )
    shared = machine.usable - used - extra
    memory = entry.plan.memory if entry.plan is not None else ()
    return Plan(
        vm=entry.vm,
        uid=uuid_of(entry.spec),
        strategy=strategy,
        vcpus=tuple(placed),
        shared=shared,
        emulator=extra or (used if strategy == "whole" and pins else shared),
        memory=memory,
        cells=entry.plan.cells if entry.plan is not None else (),
        assignments=(Assignment(container=PLACEHOLDER if strategy == "dedicated" else COMPUTE, cpus=used | extra),),
        notes=("the ledger was rebuilt: what the memory manager had booked for it is not known",),
    )


def _entered(world: World, ledger: Ledger, entry: Entry) -> tuple[Ledger, list[str]]:
    """The ledger with one more entry; a VM whose CPUs another one has already keeps none of them in the books."""
    taken = entry.owned & ledger.owned
    if not taken or entry.plan is None:
        return ledger.with_entry(entry), []
    machine = read_machine(world.fs, owned=ledger.owned)
    loose = replace(entry, plan=without_cpus(entry.plan, machine.usable - ledger.owned))
    told = f"{entry.vm}: CPUs {taken} have another owner, so it has none in the books; `quietcore repin {entry.vm.name}` gives it others"
    return ledger.with_entry(loose), [told]
