"""Options and small steps that many commands share."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quietcore.cli.files import read_all
from quietcore.errors import InputError, Problem
from quietcore.model import VmName

if TYPE_CHECKING:
    from quietcore.manifest import Loaded
    from quietcore.render.values import Printable

_Command = TypeVar("_Command", bound=Callable[..., Any])

files_option = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="Manifest, directory of manifests, or - for standard input.",
)
namespace_option = click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of the VM.")


def output_option(*formats: str) -> Callable[[_Command], _Command]:
    """`-o` with the formats that a command knows; the first is the default."""
    return click.option(
        "-o", "--output", "output", type=click.Choice(formats), default=formats[0], show_default=True, help="How to print the result."
    )


def read_manifests(files: tuple[str, ...], say: Callable[[str], None]) -> Loaded:
    """Read every VM of every file and KubeVirt's configuration for them; warnings are told, also beside problems.

    Raises InputError with all problems of all files.
    """
    from quietcore.manifest import SourceText, examine

    examined = examine([SourceText(file=name, text=text) for name, text in read_all(files)])
    for warning in examined.loaded.warnings:
        say(f"warning: {warning.marked}")
    if examined.problems:
        raise InputError.of(examined.problems)
    if not examined.loaded.documents:
        say("note: there is no VM in the input")
    return examined.loaded


def vm_name(name: str, namespace: str) -> VmName:
    """The VM that a command line means; NAMESPACE/NAME also works, as `get` prints it."""
    before, slash, after = name.partition("/")
    return VmName(namespace=before, name=after) if slash else VmName(namespace=namespace, name=name)


def no_such_vm(*vms: VmName) -> InputError:
    """The error for names that are not in the books."""
    hint = "`quietcore get vms -A` lists them"
    return InputError.of(tuple(Problem(message=f"there is no VM {vm}", code="not-found", hint=hint) for vm in vms))


def text_of(value: Printable, output: str) -> str:
    """One value as JSON or YAML."""
    from quietcore.render import json as as_json

    return as_json.dumps(value) if output == "json" else as_json.dumps_yaml(value)


def print_value(value: Printable, output: str) -> None:
    """Print one value as JSON or YAML."""
    click.echo(text_of(value, output), nl=False)


def print_object(kind: str, fields: Mapping[str, object]) -> None:
    """Print one JSON object of ours that is no value of the model."""
    from quietcore.render import json as as_json

    click.echo(json.dumps({"apiVersion": as_json.API_VERSION, "kind": kind, **fields}, indent=2, ensure_ascii=False))
