"""The story of `quietcore defrag`: others' running vCPUs move, as few as can be, so that VMs fit that did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quietcore.engine.repin import Move, move_to, pod_of
from quietcore.engine.start import decide
from quietcore.engine.world import World
from quietcore.errors import InputError, Problem
from quietcore.model import ClusterConfig, Entry, Ledger, Machine, Refusal, VmSpec
from quietcore.placement import Newcomer, Room, Tenant, make_room


@dataclass(frozen=True, slots=True, kw_only=True)
class Defrag:
    """What is to be moved, as `repin` takes it, and the room that this makes; no step where the VMs fit as it is."""

    room: Room
    steps: tuple[Move, ...]


def plan_defrag(world: World, machine: Machine, ledger: Ledger, specs: Sequence[VmSpec], cluster: ClusterConfig) -> Defrag | Refusal:
    """Decide which vCPUs would have to move so that all of these VMs fit. Changes nothing.

    Raises InputError for VMs that run already: they have their room.
    """
    active = [entry.vm for entry in ledger.entries if entry.phase != "stopped" and entry.vm in {spec.vm for spec in specs}]
    if active:
        hint = "name manifests of VMs that do not run; `quietcore repin --better` moves one that does"
        raise InputError.of(tuple(Problem(message=f"{vm} runs, so it has its room", code="running", hint=hint) for vm in active))
    newcomers = [
        Newcomer(
            entry=Entry(spec=spec, digest="", manifest="", phase="stopped", cluster=cluster),
            pod=decide(spec, machine, ledger, world, cluster).pod,
        )
        for spec in specs
    ]
    tenants = [
        Tenant(pod=pod_of(world, entry, entry.plan), plan=entry.plan)
        for entry in ledger.entries
        if entry.phase == "running" and entry.moving is None and entry.plan is not None and entry.plan.dedicated and entry.sandbox is None
    ]
    room = make_room(newcomers, tenants, machine, ledger, world.config.options)
    if isinstance(room, Refusal):
        return room
    entries = {entry.vm: entry for entry in ledger.entries}
    return Defrag(room=room, steps=tuple(move_to(entries[one.vm], one.here, one.there) for one in room.moves))
