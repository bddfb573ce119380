"""The verbs that move what runs: repin."""

from __future__ import annotations

import json

import click

from quietcore.cli.context import App
from quietcore.cli.options import namespace_option, no_such_vm, output_option, vm_name
from quietcore.engine import Move
from quietcore.errors import ExitCode, InputError, Problem
from quietcore.model import CpuSet, Refusal, VmName
from quietcore.render import plans, tables

_API_VERSION = "quietcore.io/v1alpha1"


@click.command()
@click.argument("name")
@namespace_option
@click.option("--cpus", "cpu_list", metavar="LIST", help="Exactly these CPUs, such as 4-7,12.")
@click.option("--better", is_flag=True, help="Wherever it would sit better than now; stay where it cannot (the default).")
@click.option("--dry-run", is_flag=True, help="Say which vCPU would go where; change nothing.")
@output_option("table", "json")
@click.pass_obj
def repin(app: App, name: str, namespace: str, cpu_list: str | None, output: str, *, better: bool, dry_run: bool) -> int:
    """Move a running VM's vCPUs to other CPUs, without stopping them; what fails is undone.

    Each thread migrates at most once. Example: quietcore repin rt1 --cpus 4-7 --dry-run
    """
    vm = vm_name(name, namespace)
    cpus = _chosen(cpu_list, better=better)
    if not dry_run:
        app.need_root("moving vCPUs")
    answer = app.engine.plan_move(vm, cpus=cpus) if dry_run else app.engine.repin(vm, cpus=cpus)
    if answer is None:
        raise no_such_vm(vm)
    if output == "json":
        click.echo(json.dumps(_json(vm, answer), indent=2, sort_keys=True))
    else:
        click.echo(_text(vm, answer, dry_run=dry_run), nl=False)
    return ExitCode.DOES_NOT_FIT if isinstance(answer, Refusal) else ExitCode.OK


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
    if not answer.order and answer.here.exclusive == answer.there.exclusive:
        return f"vm/{vm.name} unchanged: it sits on {answer.here.dedicated} as well as it can\n"
    rows = [(str(one["vcpu"]), _place(one["from"]), _place(one["to"])) for one in _moves(answer)]
    done = "would be moved" if dry_run else "moved"
    return f"vm/{vm.name} {done}\n" + tables.table(("VCPU", "FROM", "TO"), rows, indent="  ")


def _place(cpu: int | None) -> str:
    return "the pool" if cpu is None else f"CPU {cpu}"


def _moves(answer: Move) -> list[dict[str, int | None]]:
    before = {vcpu.vcpu: vcpu.pcpu for vcpu in answer.here.vcpus}
    after = {vcpu.vcpu: vcpu.pcpu for vcpu in answer.there.vcpus}
    return [{"vcpu": vcpu, "from": before.get(vcpu), "to": after.get(vcpu)} for vcpu in answer.order]


def _json(vm: VmName, answer: Move | Refusal) -> dict[str, object]:
    head: dict[str, object] = {"apiVersion": _API_VERSION, "kind": "Move", "vm": {"namespace": vm.namespace, "name": vm.name}}
    if isinstance(answer, Refusal):
        reasons = [{"constraint": one.constraint, "wanted": one.wanted, "free": one.free, "message": one.message} for one in answer.reasons]
        return head | {"outcome": "refusal", "message": answer.message, "reasons": reasons}
    outcome = "move" if answer.order or answer.here.exclusive != answer.there.exclusive else "unchanged"
    places = {
        name: {"list": str(cpus), "cpus": list(cpus)} for name, cpus in (("from", answer.here.exclusive), ("to", answer.there.exclusive))
    }
    return head | {"outcome": outcome, "vcpus": _moves(answer), **places}
