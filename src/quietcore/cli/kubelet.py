"""A kubelet's own books: its `cpu_manager_state`, shown, and counted as taken when a plan is made for that node."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from quietcore.cli.options import output_option, print_object
from quietcore.errors import InputError, PermissionProblem, Problem
from quietcore.model import CpuSet, Machine, union
from quietcore.placement.cpu_state_file import StateFile, read_state
from quietcore.render import tables
from quietcore.render.json import cpu_set

state_option = click.option(
    "--cpu-manager-state", "state_file", metavar="FILE", help="A kubelet's cpu_manager_state: its CPUs count as taken."
)


@click.group()
def kubelet() -> None:
    """Look at what a kubelet has written down; quietcore never writes there.

    Example: quietcore kubelet state /var/lib/kubelet/cpu_manager_state
    """


@kubelet.command("state")
@click.argument("file", default="/var/lib/kubelet/cpu_manager_state")
@output_option("table", "json")
def state(file: str, output: str) -> None:
    """Print a cpu_manager_state (V1 to V3): who has which CPUs; a damaged one is refused with the kubelet's words.

    Example: quietcore kubelet state /var/lib/kubelet/cpu_manager_state -o json
    """
    found = _read(file)
    rows = [
        (pod, container, str(cpus))
        for pod, entries in sorted(found.state.assignments.items())
        for container, cpus in sorted(entries.items())
    ]
    rows += [(pod, "", str(cpus)) for pod, cpus in sorted(found.state.pod_assignments.items())]
    if output == "json":
        entries = [{"pod": pod, "container": container or None, "cpus": cpu_set(CpuSet.parse(cpus))} for pod, container, cpus in rows]
        facts = {"policy": found.policy, "version": found.version, "shared": cpu_set(found.state.default), "items": entries}
        print_object("CpuManagerState", facts)
        return
    click.echo(f"policy {found.policy}, file format V{found.version}, shared pool {found.state.default or '-'}")
    click.echo(tables.table(("POD", "CONTAINER", "CPUS"), rows), nl=False)


def without_taken(machine: Machine, state_file: str | None) -> Machine:
    """The machine without the CPUs that a kubelet gave away. Raises InputError for CPUs that the machine lacks."""
    if state_file is None:
        return machine
    found = _read(state_file).state
    taken = union([*found.pod_assignments.values(), *(cpus for entries in found.assignments.values() for cpus in entries.values())])
    strangers = (taken | found.default) - machine.online
    if strangers:
        message = f"names CPUs {strangers}, which {machine.name} does not have online"
        raise InputError.of((Problem(message=message, file=state_file, hint="give the node's own machine with --machine"),))
    return replace(machine, allowed=machine.usable - taken)


def _read(file: str) -> StateFile:
    try:
        text = Path(file).read_text()
    except PermissionError as err:
        raise PermissionProblem(f"{file} may not be read", hint="run it as root, or give a copy") from err
    except (OSError, UnicodeDecodeError) as err:
        raise InputError.of((Problem(message=f"cannot be read: {err}", file=file),)) from err
    return read_state(text, containers=_v1_containers(text))


def _v1_containers(text: str) -> dict[str, tuple[str, str]]:
    """A V1 file knows container ids only, and the kubelet that wrote it is not asked: each id stands for itself."""
    try:
        entries = json.loads(text).get("entries", {})
    except (ValueError, AttributeError):
        return {}  # read_state says what is wrong with it
    return {one: ("?", one) for one, cpus in entries.items() if isinstance(cpus, str)} if isinstance(entries, dict) else {}
