"""`quietcore import`: what somebody already has, a libvirt domain or an OpenStack flavor, as a KubeVirt manifest."""

from __future__ import annotations

import json
from typing import TypeAlias

import click
import yaml

from quietcore.cli.context import App
from quietcore.cli.files import read_text
from quietcore.cli.options import output_option
from quietcore.errors import InputError, Problem
from quietcore.manifest import SourceText, problems_and_warnings

Imported: TypeAlias = tuple[dict[str, object], tuple[str, ...]]


@click.command("import")
@click.argument("file", required=False, metavar="[FILE.xml]")
@click.option("--domain", "domain_name", metavar="NAME|FILE.xml", help="A domain of this host's libvirt, or a file with a domain's XML.")
@click.option("--flavor", "flavor_file", metavar="FILE", help="An OpenStack flavor, as `openstack flavor show -f json` prints it.")
@output_option("yaml", "json")
@click.pass_obj
def import_(app: App, file: str | None, domain_name: str | None, flavor_file: str | None, output: str) -> None:
    """Print the manifest of a VM that runs elsewhere; what has no equivalent is told on standard error.

    Nothing is changed. A flavor that contradicts itself is refused as Nova refuses it.

    \b
    quietcore import --domain web1 > web1.yaml
    quietcore import web1.xml
    quietcore import --flavor flavor.json
    """
    given = [one for one in (file, domain_name, flavor_file) if one is not None]
    if len(given) != 1:
        raise InputError.of(
            (Problem(message="name one domain, one XML file or one flavor", code="usage", hint="see `quietcore import -h`"),)
        )
    made, notes = _flavor(flavor_file) if flavor_file is not None else _domain(app, given[0], is_file=file is not None)
    text = json.dumps(made, indent=2) + "\n" if output == "json" else yaml.safe_dump(made, sort_keys=False)
    problems, warnings = problems_and_warnings([SourceText(file="the manifest", text=text)])
    for note in notes:
        app.say(f"note: {note}")
    for problem in problems:
        app.say(f"note: before it can run: {problem}")
    for warning in warnings:
        app.say(f"warning: {warning}")
    click.echo(text, nl=False)


def _domain(app: App, name: str, *, is_file: bool) -> Imported:
    from quietcore.domain import to_manifest  # brings lxml, which flavors do not need

    if is_file or name == "-" or "/" in name or name.endswith(".xml"):
        return to_manifest(read_text(name))
    if app.hypervisor.find(name) is None:
        listed = ", ".join(view.name for view in app.hypervisor.domains()) or "none"
        problem = Problem(message=f"libvirt has no domain {name}", code="not-found", hint=f"running at {app.config.uri}: {listed}")
        raise InputError.of((problem,))
    return to_manifest(app.hypervisor.xml(name))


def _flavor(file: str) -> Imported:
    from quietcore.manifest.flavor import flavor_to_manifest, read_flavor  # domains do not need it

    return flavor_to_manifest(*read_flavor(read_text(file), file))
