"""The entry point: options that every command has, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, Final

import click

from quietcore import __version__
from quietcore.errors import ExitCode, InputError, Problem, QuietcoreError

_COMMANDS: Final = {
    "run": "quietcore.cli.applying:run",
    "apply": "quietcore.cli.applying:apply",
    "get": "quietcore.cli.vms:get",
    "describe": "quietcore.cli.vms:describe",
    "delete": "quietcore.cli.vms:delete",
    "console": "quietcore.cli.vms:console",
    "diff": "quietcore.cli.applying:diff",
    "verify": "quietcore.cli.vms:verify",
    "plan": "quietcore.cli.planning:plan",
    "validate": "quietcore.cli.checking:validate",
    "pod": "quietcore.cli.checking:pod",
    "domain": "quietcore.cli.planning:domain",
    "topology": "quietcore.cli.planning:topology",
    "machine": "quietcore.cli.planning:machine",
    "import": "quietcore.cli.importing:import_",
    "image": "quietcore.cli.images:image",
    "repin": "quietcore.cli.moving:repin",
    "defrag": "quietcore.cli.moving:defrag",
    "adopt": "quietcore.cli.moving:adopt",
    "release": "quietcore.cli.moving:release",
    "sandbox": "quietcore.cli.sandbox:sandbox",
    "ledger": "quietcore.cli.host:ledger",
    "kubelet": "quietcore.cli.kubelet:kubelet",
    "agent": "quietcore.cli.host:agent",
    "completion": "quietcore.cli.host:completion",
    "version": "quietcore.cli.host:version",
    "migrate": "quietcore.cli.refused:migrate",
    "snapshot": "quietcore.cli.refused:snapshot",
    "save": "quietcore.cli.refused:save",
    "restore": "quietcore.cli.refused:restore",
}
"""Command -> where it lives. Modules are imported when their command is called, which keeps `get vms` quick."""


class Commands(click.Group):
    """The commands, imported one by one."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # noqa: ANN401  # as click passes them
        """Read the options; some print and exit."""
        with _a_reader_may_leave():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401  # what commands return
        """Run the command."""
        with _a_reader_may_leave():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of one command."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(__import__(module, fromlist=[name]), name)
        return command


@contextmanager
def _a_reader_may_leave() -> Iterator[None]:
    """That nobody reads the rest is no failure; click would make exit code 1 of it."""
    try:
        yield
    except BrokenPipeError:
        raise click.exceptions.Exit(ExitCode.OK) from None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--config", "config_path", envvar="QUIETCORE_CONFIG", metavar="FILE", help="Configuration (default /etc/quietcore/config.toml)."
)
@click.option("--connect", envvar="QUIETCORE_URI", metavar="URI", help="libvirt to use, such as qemu:///system or qemu:///embed?root=DIR.")
@click.option("--quiet", is_flag=True, help="Only results and errors, no steps.")
@click.version_option(__version__, prog_name="quietcore")
@click.pass_context
def cli(ctx: click.Context, config_path: str | None, connect: str | None, *, quiet: bool) -> None:
    """Run KVM virtual machines whose CPUs are really theirs.

    \b
    quietcore run -f vm.yaml        start it, move its vCPU threads, check, let it run
    quietcore get vms -o wide       who has which CPU
    quietcore verify NAME           read the kernel back
    quietcore plan -f vm.yaml --machine sockets=2,nodes=4,cores=32,threads=2,mem=512Gi
    """
    from quietcore.cli.context import App, read_config  # --help and completion need none of it

    ctx.obj = App(config=read_config(config_path, connect), quiet=quiet)
    ctx.call_on_close(ctx.obj.close)


def entry() -> None:
    """What the installed `quietcore` runs: never a traceback for a fault of the input or of the host."""
    code = run_cli(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError):  # the reader left; it was closed from the beginning
            stream.flush()
    os._exit(code)  # nothing is left to do, and Python would take some 25 ms to take down what ends with the process


def run_cli(arguments: list[str]) -> int:
    """Run one command line and give its exit code."""
    wants_json = _wants_json(arguments)
    try:
        result: Any = cli.main(args=arguments, prog_name="quietcore", standalone_mode=False)  # click types it Any
        sys.stdout.flush()  # a reader that left is noticed here and not when Python ends
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.ClickException as err:
        message = " ".join(err.format_message().split())  # click lists choices on lines of their own
        return _fail(InputError.of((Problem(message=message, code="usage", hint=_usage_hint(err)),)), wants_json=wants_json)
    except QuietcoreError as err:
        return _fail(err, wants_json=wants_json)
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; a change that had been begun was undone", file=sys.stderr)  # noqa: T201  # the last word of a command
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: flushing at exit must not fail again
        return ExitCode.OK
    except Exception as err:  # noqa: BLE001  # the last resort: a defect of ours is reported as one
        return _defect(err, wants_json=wants_json)
    return result if isinstance(result, int) else ExitCode.OK


def _fail(error: QuietcoreError, *, wants_json: bool) -> int:
    if wants_json:
        from quietcore.render import json as as_json

        print(as_json.dumps(error), end="")  # noqa: T201  # one object on standard output, also on failure
    else:
        lines = [problem.marked for problem in error.problems]
        if error.problems[0].message != error.message and not isinstance(error, InputError):
            lines.insert(0, error.message)
        print("\n".join(f"error: {line}" for line in lines), file=sys.stderr)  # noqa: T201  # the one place that prints errors
    return error.exit_code


def _defect(error: Exception, *, wants_json: bool) -> int:
    import traceback

    text = "".join(traceback.format_exception(error))
    hint = "this is a defect of quietcore: please report it with the lines above"
    print(text, file=sys.stderr)  # noqa: T201  # a defect is shown whole
    return _fail(QuietcoreError(f"{type(error).__name__}: {error}", hint=hint), wants_json=wants_json)


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"see `{context.command_path} --help`" if context is not None else "see `quietcore --help`"


def _wants_json(arguments: list[str]) -> bool:
    pairs = pairwise([*arguments, ""])
    return any(word in {"-ojson", "--output=json"} or (word in {"-o", "--output"} and following == "json") for word, following in pairs)
