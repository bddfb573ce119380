"""`quietcore sandbox`: running domains that host containers and own the union of their CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

from quietcore.cli.context import App
from quietcore.cli.moving import moved_text, plain_name
from quietcore.cli.options import namespace_option, no_such_vm, output_option, print_object, print_value, vm_name
from quietcore.engine import SandboxChange, Wanted
from quietcore.engine.sandbox import GUEST_FILE
from quietcore.errors import ExitCode, InputError, Problem
from quietcore.model import CpuSet, Refusal, VmName
from quietcore.render import json as as_json
from quietcore.render import plans, tables
from quietcore.render.values import Sandbox

_container_option = click.option(
    "--container",
    "containers",
    multiple=True,
    metavar="ID=LIST",
    help="A container and the host CPUs that it owns, such as web=2-3; none (web=) for one on the shared pool. May be repeated.",
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Say which vCPU would back which CPU; change nothing.")


@click.group()
def sandbox() -> None:
    """Give running domains that host containers (as Kata's do) the union of their containers' CPUs.

    \b
    quietcore sandbox create pod7 --container web=2-3
    quietcore sandbox update pod7 --container db=4 --remove web
    quietcore sandbox show pod7 -o json
    quietcore sandbox delete pod7

    The map from host CPUs to vCPUs is in each answer. A guest with a QEMU guest agent gets it after every change as
    /run/quietcore-sandbox.json.
    """


@sandbox.command("create")
@click.argument("domain")
@namespace_option
@click.option("--name", metavar="NAME", help="What quietcore calls it (default: the domain's name in lower case).")
@_container_option
@_dry_run_option
@output_option("table", "json")
@click.pass_obj
def create(app: App, *, domain: str, namespace: str, name: str | None, containers: tuple[str, ...], output: str, dry_run: bool) -> int:
    """Make a running libvirt domain that quietcore did not start a sandbox with its first containers.

    Each CPU backs one vCPU; vCPUs that are left over share the pool. Example: quietcore sandbox create pod7 --container web=2-3
    """
    vm = VmName(namespace=namespace, name=name or plain_name(domain))
    wanted = Wanted(domain=domain, vm=vm, containers=_containers(containers))
    if not dry_run:
        app.need_root("making a sandbox")
    return _answer(app, vm, app.engine.create_sandbox(wanted, dry_run=dry_run), output, "would be created" if dry_run else "created")


@sandbox.command("update")
@click.argument("name")
@namespace_option
@_container_option
@click.option("--remove", "removed", multiple=True, metavar="ID", help="A container that is gone. May be repeated.")
@_dry_run_option
@output_option("table", "json")
@click.pass_obj
def update(
    app: App, *, name: str, namespace: str, containers: tuple[str, ...], removed: tuple[str, ...], output: str, dry_run: bool
) -> int:
    """Say what changed among a sandbox's containers; as few vCPUs as that allows go to other CPUs, without a stop.

    What fails is undone. Without a change the guest is told again. Example: quietcore sandbox update pod7 --container web=4-6
    """
    vm = vm_name(name, namespace)
    put = _containers(containers)
    both = sorted(put.keys() & set(removed))
    if both:
        raise InputError.of(tuple(Problem(message=f"{one} is both given CPUs and removed", field="--remove", code="usage") for one in both))
    if not dry_run:
        app.need_root("changing a sandbox")
    answer = app.engine.update_sandbox(vm, put, frozenset(removed), dry_run=dry_run)
    if answer is None:
        raise no_such_vm(vm)
    return _answer(app, vm, answer, output, "would be updated" if dry_run else "updated")


@sandbox.command("show")
@click.argument("name")
@namespace_option
@output_option("table", "json", "yaml")
@click.pass_obj
def show(app: App, name: str, namespace: str, output: str) -> None:
    """Show a sandbox's containers, and which vCPU backs which CPU.

    Example: quietcore sandbox show pod7 -o json
    """
    found = _sandbox(app, vm_name(name, namespace))
    if output == "table":
        click.echo(_text(found), nl=False)
    else:
        print_value(found, output)


@sandbox.command("delete")
@click.argument("name")
@namespace_option
@click.pass_obj
def delete(app: App, name: str, namespace: str) -> int:
    """End a sandbox: its domain gets back exactly what it had before, and goes on running.

    Example: quietcore sandbox delete pod7
    """
    app.need_root("ending a sandbox")
    vm = vm_name(name, namespace)
    _sandbox(app, vm)
    if not app.engine.release(vm):
        raise no_such_vm(vm)
    click.echo(f"sandbox/{vm.name} deleted")
    return ExitCode.OK


def _sandbox(app: App, vm: VmName) -> Sandbox:
    found = app.engine.sandbox(vm)
    if found is None:
        raise no_such_vm(vm)
    return found


def _containers(given: tuple[str, ...]) -> Mapping[str, CpuSet]:
    """ID=LIST as a table. Raises InputError with everything that is wrong."""
    found: dict[str, CpuSet] = {}
    problems = []
    for text in given:
        name, equals, cpus = text.partition("=")
        if not name or not equals or name in found:
            why = "is given twice" if name in found else "is not ID=LIST, such as web=2-3"
            problems.append(Problem(message=f"{text!r} {why}", field="--container", code="usage"))
            continue
        try:
            found[name] = CpuSet.parse(cpus)
        except ValueError as err:
            problems.append(Problem(message=f"{name}: {err}", field="--container", code="usage"))
    if problems:
        raise InputError.of(tuple(problems))
    return MappingProxyType(found)


def _answer(app: App, vm: VmName, answer: SandboxChange | Refusal, output: str, done: str) -> int:
    if isinstance(answer, Refusal):
        if output == "json":
            print_object("SandboxChange", {"vm": as_json.vm_fields(vm), **as_json.refusal(answer)})
        else:
            click.echo(f"sandbox/{vm.name} refused\n" + plans.plan_text(answer), nl=False)
        return ExitCode.DOES_NOT_FIT
    if output == "json":
        moved = [{"vcpu": vcpu, "from": before, "to": after} for vcpu, before, after in answer.moved]
        guest = None if done.startswith("would") else {"file": GUEST_FILE, "told": not answer.untold, "why": answer.untold}
        fields = {**as_json.to_json(answer.sandbox), "outcome": done, "moved": moved, "guest": guest}
        print_object("SandboxChange", {**fields, "kind": "SandboxChange"})
    else:
        click.echo(f"sandbox/{vm.name} {done}\n" + moved_text(answer.moved) + _text(answer.sandbox), nl=False)
    if answer.untold:
        app.say(f"note: the guest was not told: {answer.untold}")
    return ExitCode.OK


def _text(sandbox: Sandbox) -> str:
    containers = [(name, str(cpus), str(sandbox.backing(cpus))) for name, cpus in sorted(sandbox.containers.items())]
    backed = [(str(one.pcpu), str(one.vcpu)) for one in sorted(sandbox.backed, key=lambda one: one.pcpu or 0)]
    text = tables.table(("CONTAINER", "CPUS", "VCPUS"), containers) + tables.table(("CPU", "VCPU"), backed)
    return text + (f"vCPUs {sandbox.unbacked} share the pool\n" if sandbox.unbacked else "")
