"""What a VM with CPUs of its own cannot do yet: refused by name, so that nobody believes that it happened."""

from __future__ import annotations

import click

from quietcore.errors import InputError, Problem


def _refusal(verb: str, why: str) -> click.Command:
    @click.command(verb, help=f"Refused: {why}.\n\nExample: quietcore {verb} NAME", short_help="refused: see its --help")
    @click.argument("names", nargs=-1)
    def command(names: tuple[str, ...]) -> None:
        subject = ", ".join(names) or "a VM"
        raise InputError.of((Problem(message=f"{verb} of {subject} is refused: {why}", code="unsupported"),))

    return command


migrate = _refusal("migrate", "the target host would have to give the same CPUs, which one host's ledger cannot promise")
snapshot = _refusal("snapshot", "a snapshot stops the vCPUs for as long as memory takes to be written")
save = _refusal("save", "saving stops the vCPUs, and the restored VM would come back on CPUs that may have another owner")
restore = _refusal("restore", "a restored VM would come back on CPUs that may have another owner")
