"""Commands about this host and this program: the ledger, the pass after a boot, shell completion, the version."""

from __future__ import annotations

import os
import platform

import click

from quietcore import __version__
from quietcore.cli.context import App
from quietcore.cli.options import output_option, print_object
from quietcore.errors import ExitCode, InputError, Problem


@click.group()
def ledger() -> None:
    """Look at the books: who owns which CPUs, and what was begun.

    Example: quietcore ledger show
    """


@ledger.command("show")
@output_option("table", "json")
@click.pass_obj
def show(app: App, output: str) -> None:
    """Print the ledger as it is on disk.

    Example: quietcore ledger show -o json
    """
    from quietcore.engine.codec import encode
    from quietcore.render import tables

    books = app.books()
    if output == "json":
        print_object("Ledger", encode(books))
        return
    rows = [
        (
            entry.vm.namespace,
            entry.vm.name,
            entry.phase,
            str(entry.plan.exclusive) if entry.plan else "",
            entry.mechanism if entry.plan else "",
            entry.directory,
        )
        for entry in books.entries
    ]
    click.echo(tables.table(("NAMESPACE", "NAME", "PHASE", "CPUS", "MECHANISM", "FILES"), rows), nl=False)


@ledger.command("rebuild")
@click.option("--force", is_flag=True, help="Also where the ledger can be read; the old one is kept.")
@click.pass_obj
def rebuild(app: App, *, force: bool) -> None:
    """Make the ledger anew from the VMs that run, when it was lost or damaged. VMs that are stopped are forgotten.

    Example: quietcore ledger rebuild
    """
    app.need_root("rebuilding the ledger")
    done = app.engine.rebuild(force=force)
    for note in done.notes:
        app.say(f"note: {note}")
    if done.kept:
        app.say(f"the old ledger is kept as {done.kept}")
    for entry in done.ledger.entries:
        click.echo(f"vm/{entry.vm.name} {entry.domain} on {entry.owned or 'the pool'}")


@click.command()
@click.option("--once", is_flag=True, help="Make one pass and exit.")
@click.pass_obj
def agent(app: App, *, once: bool) -> int:
    """Keep this host as its books say: finish, undo, free, start again what its run strategy wants running.

    Without --once it stays: it puts back what drifts as soon as an event or its slow resync shows it, and answers on its
    socket. SIGTERM ends it; VMs run on. Example: quietcore agent --once
    """
    app.need_root("the agent")
    if not once:
        from quietcore.agent import service  # one pass needs no ears

        service.run(app.world, app.hypervisor, environment=dict(os.environ))
        return ExitCode.OK
    outcomes = app.engine.reconcile()
    for outcome in outcomes:
        click.echo(f"{outcome.vm} {'refused: ' + outcome.refusal.message if outcome.refusal else 'started'}")
    return ExitCode.DOES_NOT_FIT if any(outcome.refusal for outcome in outcomes) else ExitCode.OK


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    Example: source <(quietcore completion bash)
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise InputError.of((Problem(message=f"no completion for {shell}", code="usage"),))
    click.echo(found(click.get_current_context().find_root().command, {}, "quietcore", "_QUIETCORE_COMPLETE").source())


@click.command()
@output_option("table", "json")
def version(output: str) -> None:
    """Print the version of quietcore and of what it runs on.

    Example: quietcore version
    """
    facts = {"quietcore": __version__, "python": platform.python_version(), "kernel": platform.release()}
    if output == "json":
        print_object("Version", facts)
        return
    click.echo("\n".join(f"{name} {value}" for name, value in facts.items()))
