"""Commands that only think: where would it go, why not, what would be made of it. They need neither root nor libvirt."""

from __future__ import annotations

import platform
from dataclasses import replace

import click

from quietcore.cli.context import App
from quietcore.cli.kubelet import state_option, without_taken
from quietcore.cli.options import files_option, output_option, print_value, read_manifests
from quietcore.cli.placing import chosen_machine, exit_code, fill, machine_option, print_answers
from quietcore.errors import ExitCode
from quietcore.host.topology import record_tree
from quietcore.machines import dump_recording, dump_yaml
from quietcore.model import Plan, Refusal
from quietcore.placement import reserved_cpus
from quietcore.render import plans
from quietcore.render.topology_svg import topology_svg
from quietcore.render.topology_text import topology_text
from quietcore.render.values import HostMap


@click.command()
@files_option
@machine_option
@state_option
@click.option("--explain", is_flag=True, help="Say for each CPU which rule took it.")
@output_option("table", "json", "yaml", "svg")
@click.pass_obj
def plan(app: App, files: tuple[str, ...], machine_text: str | None, state_file: str | None, output: str, *, explain: bool) -> int:
    """Say where VMs would go, or why they do not fit and what would; on this host or on any machine.

    Example: quietcore plan -f a.yaml -f b.yaml --machine sockets=2,nodes=4,cores=32,threads=2,mem=512Gi --explain
    """
    loaded = read_manifests(files, app.say)
    machine, books = chosen_machine(app, machine_text)
    machine = without_taken(machine, state_file)
    answers = fill(app, loaded, machine, books)
    placed = tuple(answer for answer in answers if isinstance(answer, Plan))
    picture = HostMap(machine=machine, plans=(*books.plans, *placed), reserved=reserved_cpus(machine, app.config.options))
    if output == "svg":
        click.echo(topology_svg(picture), nl=False)
        return exit_code(answers)
    print_answers(answers, output, explain=explain)
    if output == "table":
        click.echo(f"\n{topology_text(picture)}", nl=False)
    return exit_code(answers)


@click.command()
@files_option
@machine_option
@click.pass_obj
def domain(app: App, files: tuple[str, ...], machine_text: str | None) -> int:
    """Print the libvirt domain of each VM as it would be created; files appear under the paths that they would have.

    An element that the installed libvirt's schema does not accept is named, with exit code 1.
    Example: quietcore domain -f vm.yaml --machine sockets=1,cores=8,threads=2,mem=32Gi
    """
    from quietcore.engine.domain_xml import against_schema, preview  # brings lxml, which no other command here needs

    loaded = read_manifests(files, app.say)
    machine, books = chosen_machine(app, machine_text)
    answers, spoilt = fill(app, loaded, machine, books), False
    for document, answer in zip(loaded.documents, answers, strict=True):
        if isinstance(answer, Refusal):
            app.say(plans.plan_text(answer))
        else:
            rendered = preview(app.world, machine, document.spec, answer)
            for note in rendered.notes:
                app.say(f"note: {note}")
            for problem in against_schema(app.world, rendered.xml):
                app.say(f"error: {replace(problem, file=document.spec.vm.domain)}")
                spoilt = True
            click.echo(rendered.xml, nl=False)
    return ExitCode.FINDINGS if spoilt else exit_code(answers)


@click.command()
@machine_option
@output_option("table", "json", "yaml", "svg")
@click.option("--color/--no-color", "color", default=None, help="Colour the owners (default: on a terminal, unless NO_COLOR is set).")
@click.pass_obj
def topology(app: App, machine_text: str | None, output: str, *, color: bool | None) -> None:
    """Draw the machine: packages, NUMA nodes, caches, cores and threads, and who owns which.

    Example: quietcore topology -o svg > host.svg
    """
    machine, books = chosen_machine(app, machine_text)
    picture = HostMap(machine=machine, plans=books.plans, reserved=reserved_cpus(machine, app.config.options))
    match output:
        case "json" | "yaml":
            print_value(picture, output)
        case "svg":
            click.echo(topology_svg(picture), nl=False)
        case _:
            coloured = app.colored(color)
            click.echo(topology_text(picture, colour=coloured), nl=False, color=coloured)  # else click takes the colours out of a pipe


@click.group()
def machine() -> None:
    """Machines as files: record this host, or show what a description means.

    Example: quietcore machine record > host.json
    """


@machine.command("record")
@click.pass_obj
def record(app: App) -> None:
    """Print this host's topology files as one recording that `--machine` takes.

    Example: quietcore machine record > host.json
    """
    click.echo(dump_recording(record_tree(app.world.fs), name=platform.node() or "host"), nl=False)


@machine.command("show")
@click.argument("machine_text", metavar="MACHINE")
@click.pass_obj
def show(app: App, machine_text: str) -> None:
    """Print a machine as YAML: what a spec, a file or a recording means.

    Example: quietcore machine show sockets=2,nodes=4,cores=16,threads=2,mem=64Gi
    """
    found, _ = chosen_machine(app, machine_text)
    click.echo(dump_yaml(found), nl=False)
