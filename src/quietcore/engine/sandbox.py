"""The stories of `quietcore sandbox`: a running domain hosts containers and owns the union of their CPUs, as these come and go.

A sandbox is an adopted domain, an update is a move of its vCPUs, its end is a release: what is written here is which CPUs, and how
the guest hears of it. The guest hears last, when all is true; that it could not be told undoes nothing, and is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from quietcore.engine.adopt import Wanted, adopt, place, wanted_entry
from quietcore.engine.copies import keep_copy
from quietcore.engine.observe import observe
from quietcore.engine.repin import Move, grow, move_to, repin
from quietcore.engine.world import World
from quietcore.errors import InputError, Problem, QuietcoreError
from quietcore.model import CpuSet, Entry, Ledger, Machine, Plan, Refusal, VcpuPlacement, union
from quietcore.placement import sandbox_plan, with_running
from quietcore.render import json as as_json
from quietcore.render.values import Sandbox

GUEST_FILE: Final = "/run/quietcore-sandbox.json"
"""Where the guest finds which of its CPUs back which of the host's; complete when it ends with a newline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxChange:
    """What became of a sandbox: as it is now (or would be), and the vCPUs that moved with their old and new CPUs.

    `untold` is why the guest was not told; "" where it was, or where nothing was to be told.
    """

    sandbox: Sandbox
    moved: tuple[tuple[int, int | None, int | None], ...] = ()
    untold: str = ""


def sandbox_of(entry: Entry) -> Sandbox:
    """The sandbox of an entry. Raises InputError for a VM that is none."""
    if entry.sandbox is None or entry.plan is None:
        raise _refused("not-sandbox", f"{entry.vm} is no sandbox", "`quietcore sandbox create DOMAIN` makes a running domain one")
    return Sandbox(vm=entry.vm, domain=entry.domain, containers=entry.sandbox, vcpus=entry.plan.vcpus)


def create(world: World, machine: Machine, ledger: Ledger, wanted: Wanted, *, dry_run: bool) -> SandboxChange | Refusal:
    """Make a running domain a sandbox with its first containers. The caller holds the lock, or wants to know only."""
    if not union((wanted.containers or {}).values()):
        raise _refused("no-cpus", "a sandbox begins with a container that has CPUs of its own", "--container ID=LIST, such as web=2-3")
    entry = wanted_entry(world, ledger, wanted)
    if dry_run:
        answer = place(world, machine, ledger, entry, wanted.domain)
        if isinstance(answer, Refusal):
            return answer
        entry = replace(entry, plan=answer)
        return SandboxChange(sandbox=replace(sandbox_of(entry), domain=wanted.domain), moved=_moved(None, answer))
    made = adopt(world, machine, ledger, entry, wanted.domain)
    if isinstance(made, Refusal):
        return made
    entry = made[1]
    return SandboxChange(sandbox=sandbox_of(entry), moved=_moved(None, entry.plan), untold=_tell_guest(world, sandbox_of(entry)))


def changed(entry: Entry, put: Mapping[str, CpuSet], remove: frozenset[str]) -> Mapping[str, CpuSet]:
    """The containers of a sandbox after some came or changed and others went. Raises InputError for one that is not there."""
    before = sandbox_of(entry).containers
    strangers = sorted(remove - before.keys())
    if strangers:
        hint = f"`quietcore sandbox show {entry.vm.name}` lists its containers"
        raise InputError.of(tuple(Problem(message=f"{entry.vm} has no container {one}", code="not-found", hint=hint) for one in strangers))
    kept = {name: cpus for name, cpus in before.items() if name not in remove}
    return MappingProxyType(dict(sorted({**kept, **put}.items())))


def plan_update(world: World, machine: Machine, ledger: Ledger, entry: Entry, containers: Mapping[str, CpuSet]) -> Move | Refusal:
    """Which vCPU goes where when a sandbox has these containers. Changes nothing."""
    plan = entry.plan
    if plan is None:
        raise AssertionError(f"the sandbox {entry.vm} has no plan")
    here = with_running(plan, observe(world, entry.vm, domain=entry.domain).census.running_vcpus)
    answer = sandbox_plan(here, machine, ledger, world.config.options, union(containers.values()))
    if isinstance(answer, Refusal):
        return answer
    there = here if (answer.vcpus, answer.exclusive) == (here.vcpus, here.exclusive) else answer
    return replace(move_to(replace(entry, plan=here), here, there), containers=containers)


def described(step: Move) -> SandboxChange:
    """What a planned update comes to."""
    entry = replace(step.entry, plan=step.there, sandbox=step.containers)
    return SandboxChange(sandbox=sandbox_of(entry), moved=_moved(step.here, step.there))


def update(world: World, machine: Machine, ledger: Ledger, step: Move) -> SandboxChange:
    """Carry out a planned update; the caller holds the lock and has recovered. Raises what `repin` raises.

    The guest is told also where nothing changed: it may have booted since.
    """
    entry = step.entry
    known = ledger.find(entry.vm)
    if known is not None and known.plan != step.here:  # vCPUs were plugged meanwhile: they get a place on the pool before one on a CPU
        seen = observe(world, entry.vm, domain=entry.domain)
        ledger = grow(world, machine, ledger, known, there=step.here, seen=seen)
        entry = ledger.find(entry.vm) or entry
    if step.there == step.here:
        entry = replace(entry, sandbox=step.containers)
        keep_copy(world, entry)
        world.books.save(ledger.with_entry(entry))
    else:
        repin(world, machine, ledger, (replace(step, entry=entry),))
    change = described(step)
    return replace(change, untold=_tell_guest(world, change.sandbox))


def _moved(here: Plan | None, there: Plan | None) -> tuple[tuple[int, int | None, int | None], ...]:
    before = {one.vcpu: one.pcpu for one in here.vcpus} if here is not None else {}
    after = {one.vcpu: one.pcpu for one in there.vcpus} if there is not None else {}
    return tuple((vcpu, before.get(vcpu), pcpu) for vcpu, pcpu in after.items() if before.get(vcpu) != pcpu)


def tell_end(world: World, entry: Entry) -> None:
    """The guest of a sandbox that was given back reads that none of its CPUs backs a container's."""
    gone = sandbox_of(entry)
    _tell_guest(world, replace(gone, containers={}, vcpus=tuple(VcpuPlacement(vcpu=one.vcpu) for one in gone.vcpus)))


def _tell_guest(world: World, sandbox: Sandbox) -> str:
    """Write the map where the guest can read it; gives why that failed, "" where it did not."""
    try:
        world.hypervisor.write_guest_file(sandbox.domain, GUEST_FILE, as_json.line(sandbox))
    except QuietcoreError as err:
        return err.message
    return ""


def _refused(code: str, message: str, hint: str) -> InputError:
    return InputError.of((Problem(message=message, code=code, hint=hint),))
