"""Asking where VMs would go, on this host or on a machine that was named, and printing the answers; for every command that does."""

from __future__ import annotations

import click

from quietcore.cli.context import App
from quietcore.cli.files import read_text
from quietcore.cli.options import print_value
from quietcore.errors import ExitCode, PermissionProblem
from quietcore.host.topology import read_machine
from quietcore.manifest import Loaded
from quietcore.model import Entry, Ledger, Machine, Plan, Refusal
from quietcore.render import plans, tables
from quietcore.render.values import PlanList

machine_option = click.option(
    "--machine",
    "machine_text",
    metavar="MACHINE",
    help="A machine that need not exist: sockets=2,nodes=4,cores=32,threads=2,mem=512Gi, or a file (YAML, lstopo XML, recording).",
)


def chosen_machine(app: App, text: str | None) -> tuple[Machine, Ledger]:
    """The named machine, empty; or this host with its VMs (without them, said aloud, where the books may not be read)."""
    if text is not None:
        return _described(text), Ledger()
    try:
        books = app.books()
    except PermissionProblem:
        app.say("note: the ledger may not be read without root, so this host counts as empty")
        books = Ledger()
    return read_machine(app.world.fs, owned=books.owned), books


def _described(text: str) -> Machine:
    from quietcore.machines import is_spec, load

    if is_spec(text):
        return load(text)
    return load(read_text(text), file=text)


def fill(app: App, loaded: Loaded, machine: Machine, books: Ledger) -> tuple[Plan | Refusal, ...]:
    """Ask for one VM after the other; each that fits takes its CPUs from the next."""
    answers = []
    for document in loaded.documents:
        answer = app.engine.plan(document.spec, machine, books, loaded.cluster).answer
        answers.append(answer)
        if isinstance(answer, Plan):
            taken = Entry(spec=document.spec, digest="", manifest="", phase="running", plan=answer)
            books = books.with_entry(taken)
    return tuple(answers)


def print_answers(answers: tuple[Plan | Refusal, ...], output: str, *, explain: bool = False) -> None:
    """Print them as a list of values, as the names of the VMs that fit, or in words."""
    match output:
        case "json" | "yaml":
            print_value(PlanList(items=answers), output)
        case "name":
            click.echo(tables.names("vm", [answer.vm for answer in answers if isinstance(answer, Plan)]), nl=False)
        case _:
            click.echo(plans.plans_text(answers, explain=explain), nl=False)


def exit_code(answers: tuple[Plan | Refusal, ...]) -> int:
    """3 where any of them does not fit."""
    return ExitCode.DOES_NOT_FIT if any(isinstance(answer, Refusal) for answer in answers) else ExitCode.OK
