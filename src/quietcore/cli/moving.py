"""The verbs that move what runs: repin, defrag, adopt, release."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, get_args

import click

from quietcore.cli.context import App
from quietcore.cli.options import (
    files_option,
    namespace_option,
    no_such_vm,
    output_option,
    print_object,
    print_value,
    read_manifests,
    vm_name,
)
from quietcore.engine import Defrag, Move, Wanted
from quietcore.errors import ExitCode, InputError, Problem
from quietcore.manifest import realtime_mask
from quietcore.model import CpuSet, Entry, Refusal, Strategy, VmName
from quietcore.render import json as as_json
from quietcore.render import plans, tables
from quietcore.render.json import cpu_set
from quietcore.render.values import PlanList

if TYPE_CHECKING:
    from quietcore.engine.memory import MemoryMove


@click.command()
@click.argument("name")
@namespace_option
@click.option("--cpus", "cpu_list", metavar="LIST", help="Exactly these CPUs, such as 4-7,12.")
@click.option("--better", is_flag=True, help="Wherever it would sit better than now; stay where it cannot (the default).")
@click.option("--move-memory", "memory", is_flag=True, help="Move its memory to the NUMA nodes of its CPUs as well, as far as it can be.")
@click.option("--dry-run", is_flag=True, help="Say which vCPU would go where; change nothing.")
@output_option("table", "json")
@click.pass_obj
def repin(app: App, *, name: str, namespace: str, cpu_list: str | None, output: str, better: bool, memory: bool, dry_run: bool) -> int:
    """Move a running VM's vCPUs to other CPUs, without stopping them; what fails is undone.

    Each thread migrates at most once. Memory stays where it is unless --move-memory is given, which is refused for a guest that sees its
    nodes, for memory that devices or other processes hold (VFIO, vhost-user), and where the new nodes lack free pages.
    Example: quietcore repin rt1 --cpus 4-7 --dry-run
    """
    vm = vm_name(name, namespace)
    cpus = _chosen(cpu_list, better=better)
    if not dry_run:
        app.need_change("moving vCPUs")
    call = app.vms.plan_move if dry_run else app.vms.repin
    answer = call(vm, cpus=cpus, memory=memory)
    if answer is None:
        raise no_such_vm(vm)
    if output == "json":
        print_object("Move", _json(vm, answer))
    else:
        click.echo(_text(vm, answer, dry_run=dry_run), nl=False)
    return ExitCode.DOES_NOT_FIT if isinstance(answer, Refusal) else ExitCode.OK


@click.command()
@files_option
@click.option("--dry-run", is_flag=True, help="Say which vCPU would go where and why; change nothing.")
@click.option("--yes", is_flag=True, help="Carry it out.")
@output_option("table", "json")
@click.pass_obj
def defrag(app: App, files: tuple[str, ...], output: str, *, dry_run: bool, yes: bool) -> int:
    """Make room for VMs that do not fit, by moving the fewest vCPUs of running ones; all of the moves are made, or none.

    Where they fit as it is, nothing moves. Where no moves make room, the exit code is 3.
    Example: quietcore defrag -f big.yaml --dry-run
    """
    if dry_run == yes:
        hint = "--dry-run shows the moves, --yes makes them"
        raise InputError.of((Problem(message="give either --dry-run or --yes", code="usage", hint=hint),))
    loaded = read_manifests(files, app.say)
    specs = [document.spec for document in loaded.documents]
    if yes:
        app.need_root("moving vCPUs")
    answer = app.engine.defrag(specs, loaded.cluster) if yes else app.engine.plan_defrag(specs, loaded.cluster)
    if output == "json":
        print_object("Defrag", _defrag_json(answer))
    else:
        click.echo(_defrag_text(answer, dry_run=dry_run), nl=False)
    return ExitCode.DOES_NOT_FIT if isinstance(answer, Refusal) else ExitCode.OK


@click.command()
@click.argument("domain")
@namespace_option
@click.option("--name", metavar="NAME", help="What quietcore calls it (default: the domain's name in lower case).")
@click.option("--cpus", "vcpus", type=click.IntRange(min=1), metavar="N", help="CPUs for its first N vCPUs (default: all of them).")
@click.option("--realtime", "mask", metavar="MASK", help="vCPUs that become SCHED_FIFO, such as 0-3,^1.")
@click.option("--priority", type=click.IntRange(1, 98), default=1, show_default=True, help="Their priority.")
@click.option("--strategy", type=click.Choice(get_args(Strategy)), help="How its other threads are kept apart (default: dedicated).")
@click.option("--dry-run", is_flag=True, help="Say which CPUs it would get; change nothing.")
@output_option("table", "json")
@click.pass_obj
def adopt(
    app: App,
    *,
    domain: str,
    namespace: str,
    name: str | None,
    vcpus: int | None,
    mask: str | None,
    priority: int,
    strategy: Strategy | None,
    output: str,
    dry_run: bool,
) -> int:
    """Give a running libvirt domain that quietcore did not make CPUs of its own, while it runs.

    What stood there before is kept, and `quietcore release` gives it back. Example: quietcore adopt win10 --cpus 4
    """
    wanted = Wanted(
        domain=domain,
        vm=VmName(namespace=namespace, name=name or plain_name(domain)),
        vcpus=vcpus,
        realtime=_realtime(mask),
        priority=priority,
        strategy=strategy,
    )
    if not dry_run:
        app.need_change("adopting a domain")
    answer = app.vms.adopt(wanted, dry_run=dry_run)
    plan = answer.plan if isinstance(answer, Entry) else answer
    if plan is None:
        raise AssertionError(f"{domain} was adopted without a plan")
    if output == "json":
        print_value(PlanList(items=(plan,)), output)
    elif isinstance(plan, Refusal):
        click.echo(f"domain/{domain} refused\n" + plans.plan_text(plan), nl=False)
    else:
        done = "would be adopted" if dry_run else "adopted"
        click.echo(f"vm/{wanted.vm.name if wanted.vm else domain} {done} on {tables.cpu_words(plan.dedicated)}")
    return ExitCode.DOES_NOT_FIT if isinstance(plan, Refusal) else ExitCode.OK


@click.command()
@click.argument("names", nargs=-1)
@namespace_option
@click.option("--all", "everything", is_flag=True, help="In an emergency: every CPU of every VM, our own VMs included; all go on running.")
@click.pass_obj
def release(app: App, names: tuple[str, ...], namespace: str, *, everything: bool) -> int:
    """Give adopted domains back exactly what they had: groups, affinities, policies, libvirt's pins. They go on running.

    Example: quietcore release win10
    """
    if bool(names) == everything:
        raise InputError.of((Problem(message="name adopted VMs, or give --all", code="usage", hint="see `quietcore release --help`"),))
    if everything:
        app.need_root("releasing CPUs")  # never through an agent, which may be what hangs
        return _release_all(app)
    app.need_change("releasing CPUs")
    for name in names:
        vm = vm_name(name, namespace)
        if not app.vms.release(vm):
            raise no_such_vm(vm)
        click.echo(f"vm/{vm.name} released")
    return ExitCode.OK


def _release_all(app: App) -> int:
    done = app.engine.release_all()
    for group in done.groups:
        app.say(f"freed         {group}")
    for vm in done.vms:
        click.echo(f"vm/{vm.name} shares the pool; `quietcore repin {vm.name}` gives it CPUs of its own again")
    for problem in done.problems:
        app.say(f"error: {problem}")
    return ExitCode.FAILED_NOT_UNDONE if done.problems else ExitCode.OK


def plain_name(domain: str) -> str:
    """A domain's name as a Kubernetes name: lower case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", domain.lower()).strip("-")[:63].rstrip("-") or "adopted"


def _realtime(mask: str | None) -> frozenset[int]:
    if mask is None:
        return frozenset()
    try:
        named = realtime_mask.parse(mask)
    except ValueError as err:
        raise InputError.of((Problem(message=str(err), field="--realtime", code="usage"),)) from err
    return frozenset(vcpu for vcpu in named if named[vcpu])


def _chosen(cpu_list: str | None, *, better: bool) -> CpuSet | None:
    if cpu_list is None:
        return None
    if better:
        raise InputError.of((Problem(message="--cpus names the place, --better asks for one: give one of them", code="usage"),))
    try:
        return CpuSet.parse(cpu_list)
    except ValueError as err:
        raise InputError.of((Problem(message=str(err), field="--cpus", code="usage"),)) from err


def _text(vm: VmName, answer: Move | Refusal, *, dry_run: bool) -> str:
    if isinstance(answer, Refusal):
        return f"vm/{vm.name} refused\n" + plans.plan_text(answer)
    pages = f"  {_memory_words(answer.memory)}\n" if answer.memory is not None else ""
    if not _moves_cpus(answer):
        return f"vm/{vm.name} unchanged: it sits on {answer.here.dedicated} as well as it can\n{pages}"
    done = "would be moved" if dry_run else "moved"
    return f"vm/{vm.name} {done}\n" + moved_text((one["vcpu"], one["from"], one["to"]) for one in _moves(answer)) + pages


def moved_text(moves: Iterable[tuple[int | None, int | None, int | None]]) -> str:
    """A table of vCPUs with their old and new CPUs; nothing where none moved."""
    rows = [(str(vcpu), _place(before), _place(after)) for vcpu, before, after in moves]
    return tables.table(("VCPU", "FROM", "TO"), rows, indent="  ") if rows else ""


def _moves_cpus(answer: Move) -> bool:
    return bool(answer.order) or answer.here.exclusive != answer.there.exclusive


def _memory_words(move: MemoryMove) -> str:
    """What moves, or has moved and has stayed, in pages of each size."""
    if not move.before:
        return f"memory: all of it is on node {move.nodes}"
    after = move.after
    if after is None:
        return f"memory: {_pages(move.before)} would move to node {move.nodes}"
    moved = {size: max(count - after.get(size, 0), 0) for size, count in move.before.items()}
    return f"memory: {_pages(moved)} moved to node {move.nodes}, {_pages(after) if after else 'nothing'} stayed elsewhere"


def _pages(counts: Mapping[int, int]) -> str:
    sizes = ((f"{size >> 10} KiB" if size < 1 << 20 else f"{size >> 20} MiB", count) for size, count in sorted(counts.items()))
    return " and ".join(f"{count} page{'' if count == 1 else 's'} of {size}" for size, count in sizes)


def _defrag_text(answer: Defrag | Refusal, *, dry_run: bool) -> str:
    if isinstance(answer, Refusal):
        return "no room can be made\n" + plans.plan_text(answer)
    room = answer.room
    fits = plans.plans_text(room.plans)
    if not room.moves:
        return "nothing has to move\n" + fits
    rows = [
        (str(move.entry.vm), str(one["vcpu"]), _place(one["from"]), _place(one["to"]), room.why(one["from"] or 0))
        for move in answer.steps
        for one in _moves(move)
    ]
    proved = (
        "the fewest that make room" if room.at_least == room.cost else f"the search was given up; no way moves fewer than {room.at_least}"
    )
    head = f"{len(rows)} vCPU{'' if len(rows) == 1 else 's'} {'would move' if dry_run else 'moved'} ({proved})\n"
    away = "".join(f"  note: {note}\n" for note in map(_far_memory, answer.steps) if note)
    return head + tables.table(("VM", "VCPU", "FROM", "TO", "WHY"), rows, indent="  ") + away + "then\n" + fits


def _far_memory(move: Move) -> str:
    """Which memory the moved vCPUs are away from."""
    before = {vcpu.node for vcpu in move.here.vcpus}
    nodes = CpuSet.from_iterable(vcpu.node for vcpu in move.there.vcpus if vcpu.node is not None and vcpu.node not in before)
    return f"{move.entry.vm} then also runs on node {nodes}; its memory stays where it is" if nodes else ""


def _place(cpu: int | None) -> str:
    return "the pool" if cpu is None else f"CPU {cpu}"


def _moves(answer: Move) -> list[dict[str, int | None]]:
    before = {vcpu.vcpu: vcpu.pcpu for vcpu in answer.here.vcpus}
    after = {vcpu.vcpu: vcpu.pcpu for vcpu in answer.there.vcpus}
    return [{"vcpu": vcpu, "from": before.get(vcpu), "to": after.get(vcpu)} for vcpu in answer.order]


def _defrag_json(answer: Defrag | Refusal) -> dict[str, object]:
    if isinstance(answer, Refusal):
        return {"outcome": "refusal", "moves": [], "items": as_json.to_json(PlanList(items=(answer,)))["items"]}
    room = answer.room
    moves = [
        {
            "vm": as_json.vm_fields(move.entry.vm),
            "vcpus": [one | {"why": room.why(one["from"] or 0)} for one in _moves(move)],
            "from": cpu_set(move.here.exclusive),
            "to": cpu_set(move.there.exclusive),
        }
        for move in answer.steps
    ]
    head = {"outcome": "moves" if moves else "fits", "cost": room.cost, "atLeast": room.at_least, "trials": room.trials}
    return head | {"moves": moves, "items": as_json.to_json(PlanList(items=room.plans))["items"]}


def _json(vm: VmName, answer: Move | Refusal) -> dict[str, object]:
    head: dict[str, object] = {"vm": {"namespace": vm.namespace, "name": vm.name}}
    if isinstance(answer, Refusal):
        return head | as_json.refusal(answer)
    outcome = "move" if _moves_cpus(answer) else "unchanged"
    if answer.memory is not None:
        before, after = answer.memory.before, answer.memory.after
        pages = [
            {"pageBytes": size, "elsewhere": count, "stayed": None if after is None else after.get(size, 0)}
            for size, count in sorted(before.items())
        ]
        head |= {"memory": {"nodes": list(answer.memory.nodes), "pages": pages}}
    places = {"from": cpu_set(answer.here.exclusive), "to": cpu_set(answer.there.exclusive)}
    return head | {"outcome": outcome, "vcpus": _moves(answer), **places}
