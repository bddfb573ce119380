"""Options and small steps that many commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from quietcore.errors import InputError, Problem
from quietcore.manifest import Document, Loaded, SourceText, examine
from quietcore.model import VmName
from quietcore.render import json as as_json
from quietcore.render.values import Printable

_Command = TypeVar("_Command", bound=Callable[..., Any])
_LARGEST: Final = 16 * 1024 * 1024

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


def read_documents(files: tuple[str, ...], say: Callable[[str], None], namespace: str | None = None) -> tuple[Document, ...]:
    """Read every VM of every file; warnings are told. Raises InputError with all problems of all files."""
    del namespace
    return read_manifests(files, say).documents


def read_manifests(files: tuple[str, ...], say: Callable[[str], None]) -> Loaded:
    """Read every VM of every file and KubeVirt's configuration for them; warnings are told, also beside problems.

    Raises InputError with all problems of all files.
    """
    examined = examine([SourceText(file=name, text=text) for name, text in _texts(files)])
    for warning in examined.loaded.warnings:
        say(f"warning: {warning.marked}")
    if examined.problems:
        raise InputError.of(examined.problems)
    if not examined.loaded.documents:
        say("note: there is no VM in the input")
    return examined.loaded


def _texts(files: tuple[str, ...]) -> list[tuple[str, str]]:
    problems, texts = [], []
    for name in files:
        if name == "-":
            texts.append(("<stdin>", sys.stdin.read(_LARGEST)))
            continue
        path = Path(name)
        try:
            inside = sorted(path.rglob("*")) if path.is_dir() else [path]
            chosen = [one for one in inside if not path.is_dir() or one.suffix in {".yaml", ".yml", ".json"}]
            if not chosen:
                problems.append(Problem(message="holds no .yaml, .yml or .json file", file=name))
            for one in chosen:
                with one.open("rb") as stream:
                    texts.append((str(one), stream.read(_LARGEST).decode()))
        except OSError as err:
            problems.append(Problem(message=err.strerror or str(err), file=name, code="unreadable"))
        except UnicodeDecodeError as err:
            problems.append(Problem(message=f"is not UTF-8 text ({err.reason} at byte {err.start})", file=name, code="unreadable"))
    if problems:
        raise InputError.of(tuple(problems))
    return texts


def vm_name(name: str, namespace: str) -> VmName:
    """The VM that a command line means; NAMESPACE/NAME also works, as `get` prints it."""
    before, slash, after = name.partition("/")
    return VmName(namespace=before, name=after) if slash else VmName(namespace=namespace, name=name)


def no_such_vm(vm: VmName) -> InputError:
    """The error for a name that is not in the books."""
    return InputError.of((Problem(message=f"there is no VM {vm}", code="not-found", hint="`quietcore get vms` lists them"),))


def print_value(value: Printable, output: str) -> None:
    """Print one value as JSON or YAML."""
    click.echo(as_json.dumps(value) if output == "json" else as_json.dumps_yaml(value), nl=False)
