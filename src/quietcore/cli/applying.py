"""The verbs that take manifests to this host: run, apply, diff."""

from __future__ import annotations

import difflib
import time

import click

from quietcore.cli.context import App
from quietcore.cli.options import files_option, output_option, print_value, read_manifests
from quietcore.engine import Outcome
from quietcore.errors import ExitCode
from quietcore.manifest import Document
from quietcore.render import tables
from quietcore.render.values import PlanList


@click.command()
@files_option
@output_option("table", "json", "yaml", "name")
@click.option("--dry-run", is_flag=True, help="Say what would happen and where each VM would go; change nothing.")
@click.pass_obj
def run(app: App, files: tuple[str, ...], output: str, *, dry_run: bool) -> int:
    """Start the VMs of a manifest: placed, created paused, threads moved, checked, running.

    The same manifest again changes nothing, or puts back what drifted. Example: quietcore run -f examples/quickstart.yaml
    """
    return _apply(app, files, output, dry_run=dry_run)


@click.command()
@files_option
@output_option("table", "json", "yaml", "name")
@click.option("--dry-run", is_flag=True, help="Say what would happen and where each VM would go; change nothing.")
@click.pass_obj
def apply(app: App, files: tuple[str, ...], output: str, *, dry_run: bool) -> int:
    """Make this host hold what the manifests say (the same as `run`).

    Example: quietcore apply -f vms/ --dry-run
    """
    return _apply(app, files, output, dry_run=dry_run)


def _apply(app: App, files: tuple[str, ...], output: str, *, dry_run: bool) -> int:
    if not dry_run:
        app.need_change("starting a VM")
    before = time.monotonic()
    loaded = read_manifests(files, app.say)
    if dry_run:
        from quietcore.cli.placing import chosen_machine, exit_code, fill, print_answers

        answers = fill(app, loaded, *chosen_machine(app, None))
        print_answers(answers, output)
        return exit_code(answers)
    if not app.quiet:
        app.say(f"read {_count(loaded.documents)}  ({(time.monotonic() - before) * 1000:.0f} ms)")
    outcomes = [app.vms.apply(document.spec, document.text, loaded.cluster) for document in loaded.documents]
    _print_outcomes(outcomes, output)
    return ExitCode.DOES_NOT_FIT if any(outcome.refusal for outcome in outcomes) else ExitCode.OK


def _count(documents: tuple[Document, ...]) -> str:
    return "1 VM" if len(documents) == 1 else f"{len(documents)} VMs"


def _print_outcomes(outcomes: list[Outcome], output: str) -> None:
    answers = tuple(answer for outcome in outcomes if (answer := outcome.refusal or outcome.plan) is not None)
    match output:
        case "json" | "yaml":
            print_value(PlanList(items=answers), output)
        case "name":
            click.echo(tables.names("vm", [outcome.vm for outcome in outcomes]), nl=False)
        case _:
            for outcome in outcomes:
                click.echo(f"vm/{outcome.vm.name} {outcome.result}")
                if outcome.refusal is not None:
                    from quietcore.render import plans

                    click.echo(plans.plan_text(outcome.refusal), nl=False)


@click.command()
@files_option
@click.pass_obj
def diff(app: App, files: tuple[str, ...]) -> int:
    """Compare manifests with what this host runs: exit 0 when nothing differs, 1 when something does.

    Example: quietcore diff -f vm.yaml
    """
    differs = False
    views = {view.entry.vm: view for view in app.vms.views()}
    for document in read_manifests(files, app.say).documents:
        view = views.get(document.spec.vm)
        before = view.entry.manifest.splitlines() if view is not None else []
        lines = list(difflib.unified_diff(before, document.text.splitlines(), f"running {document.spec.vm}", document.file, lineterm=""))
        differs = differs or bool(lines)
        click.echo("".join(f"{line}\n" for line in lines), nl=False)
    return ExitCode.FINDINGS if differs else ExitCode.OK
