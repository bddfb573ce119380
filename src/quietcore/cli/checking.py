"""Commands that look at manifests alone: are they right, and which pod would they become."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Final

import click
import yaml

from quietcore.cli.context import App
from quietcore.cli.options import files_option, output_option, print_object, read_manifests
from quietcore.cli.placing import chosen_machine, machine_option
from quietcore.engine.identity import strategy_of, uuid_of
from quietcore.errors import ExitCode, Problem
from quietcore.manifest import Loaded
from quietcore.model import LauncherPod, Ledger, Machine, Refusal, VmName
from quietcore.pod import Cluster, cpu_weight, differences, images_of, launcher_pod, manifest, shares_of
from quietcore.render import tables

_CONTAINER: Final = ("VM", "QOS", "CONTAINER", "CPU", "CPU LIMIT", "MEMORY", "MEMORY LIMIT", "SHARES", "WEIGHT")


@click.command()
@files_option
@machine_option
@output_option("table", "json")
@click.pass_obj
def validate(app: App, files: tuple[str, ...], machine_text: str | None, output: str) -> int:
    """Check manifests: every fault at once, with its place in the file.

    With --machine also whether each VM can ever run there: alone, on the empty machine. Exit 2 for faults, 3 for a VM that no
    such machine can hold. Example: quietcore validate -f vm.yaml --machine sockets=1,cores=8,threads=2,mem=32Gi
    """
    loaded = read_manifests(files, app.say)
    impossible = _impossible(app, loaded, chosen_machine(app, machine_text)[0]) if machine_text is not None else {}
    if output == "json":
        print_object("Validation", _as_json(loaded, impossible))
    else:
        for document in loaded.documents:
            if document.spec.vm not in impossible:
                click.echo(f"{document.file}: {document.spec.vm} is valid")
        for problem in impossible.values():
            app.say(f"error: {problem.marked}")
    return ExitCode.DOES_NOT_FIT if impossible else ExitCode.OK


def _impossible(app: App, loaded: Loaded, machine: Machine) -> dict[VmName, Problem]:
    found = {}
    for document in loaded.documents:
        answer = app.engine.plan(document.spec, machine, Ledger(), loaded.cluster).answer
        if isinstance(answer, Refusal):
            why = "; ".join(dict.fromkeys(reason.message for reason in answer.reasons)) or answer.message
            message = f"{document.spec.vm} can never run on {machine.name or 'this machine'}: {why}"
            hint = f"it would: {answer.nearest.change}" if answer.nearest is not None else ""
            found[document.spec.vm] = Problem(
                file=document.file, line=document.line, message=message, code="never-fits", hint=hint, ours=True
            )
    return found


def _as_json(loaded: Loaded, impossible: dict[VmName, Problem]) -> dict[str, object]:
    return {
        "ok": not impossible,
        "vms": [{"namespace": one.spec.vm.namespace, "name": one.spec.vm.name} for one in loaded.documents],
        "errors": [asdict(problem) for problem in impossible.values()],
        "warnings": [asdict(warning) for warning in loaded.warnings],
    }


@click.command()
@files_option
@output_option("yaml", "json", "table")
@click.pass_obj
def pod(app: App, files: tuple[str, ...], output: str) -> None:
    """Print the launcher pod of each VM, as Kubernetes would admit it; where it is not KubeVirt's is told on standard error.

    The table shows what every container weighs: CPU shares (cgroup v1) and weights (v2). Example: quietcore pod -f vm.yaml -o table
    """
    launchers, pods = [], []
    loaded = read_manifests(files, app.say)
    for document in loaded.documents:
        spec = document.spec
        strategy = strategy_of(spec, app.config.strategy)
        made = launcher_pod(spec, strategy=strategy, uid=uuid_of(spec), cluster=Cluster.of(loaded.cluster))
        launchers.append(made)
        pods.append(manifest(made, images_of(spec), grace_seconds=spec.termination_grace_seconds))
        for sentence in differences(spec, strategy):
            app.say(f"note: {spec.vm}: {sentence}")
    if output == "json":
        click.echo(json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}, indent=2))
    elif output == "table":
        click.echo(tables.table(_CONTAINER, [row for made in launchers for row in _containers(made)]), nl=False)
    else:
        click.echo(yaml.safe_dump_all(pods, sort_keys=False), nl=False)


def _containers(pod: LauncherPod) -> list[tuple[str, ...]]:
    shares = shares_of(pod)
    return [
        (
            str(pod.vm),
            pod.qos,
            one.name,
            *(str(amounts[name]) if name in amounts else "" for name in ("cpu", "memory") for amounts in (one.requests, one.limits)),
            str(shares[one.name]),
            str(cpu_weight(shares[one.name])),
        )
        for one in pod.containers
    ]
