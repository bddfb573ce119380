"""Runs a command, or a shell for a person, in a lab machine: `python -m lab --machine 2s4n16c --kernel 6.12 -- COMMAND`.

Exit status: the command's own; 125 the lab broke; 124 it hung; 2 a prerequisite or an argument is wrong.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from lab.errors import LabUnavailableError
from lab.machines import DEFAULT_MACHINE, MACHINES, NEWER, Row, machine_named
from lab.runner import Job, Lab


def main(arguments: list[str]) -> int:
    """Boot, run, report on standard error."""
    about = "\n".join(f"  {one.name:12}{one.about}" for one in MACHINES)
    parser = argparse.ArgumentParser(
        prog="make lab", description=f"machines:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", default=DEFAULT_MACHINE, help="a name from the list above (default: %(default)s)")
    parser.add_argument("--kernel", default=NEWER, metavar="SERIES", help="Debian's PREEMPT_RT kernel, 6.12 or 6.1 (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="kill the lab after this time (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="shared read-write at /out (default: a temporary folder)")
    parser.add_argument("command", nargs="*", help="default: an interactive bash")
    options = parser.parse_args(arguments)
    interactive = not options.command
    with tempfile.TemporaryDirectory(prefix="quietcore-lab-out-") as scratch:
        try:
            shared = (options.out or Path(scratch)).resolve()
            shared.mkdir(parents=True, exist_ok=True)
            job = Job(
                row=Row(machine=machine_named(options.machine), series=options.kernel),
                command="exec bash -i" if interactive else " ".join(options.command),
                environment=environment(),
                shared=shared,
                limit_s=options.limit,
                terminal=terminal() if interactive else "-opost -echo",
            )
            with Lab(job, interactive=interactive) as lab:
                outcome = lab.run()
        except (LabUnavailableError, ValueError) as err:
            print(f"lab: {err}", file=sys.stderr)
            return 2
    if outcome.failure:
        print(f"{outcome.console}\nlab: {outcome.failure}", file=sys.stderr)
    reached = "no shell" if outcome.shell_s is None else f"shell after {outcome.shell_s:.1f} s"
    print(
        f"lab: {job.row} ({outcome.release}): {reached}, {outcome.boots} boot(s), {outcome.total_s:.1f} s in all, status {outcome.status}",
        file=sys.stderr,
    )
    return outcome.status


def environment() -> dict[str, str]:
    """What the command finds: this interpreter's folder first on PATH."""
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "TERM": os.environ.get("TERM", "dumb"), "PYTEST_ADDOPTS": "-p no:cacheprovider"}


def terminal() -> str:
    """Settings that make the lab's terminal as large as ours; QEMU already ends our lines with a carriage return."""
    size = shutil.get_terminal_size()
    return shlex.join(["sane", "-opost", "rows", str(size.lines), "columns", str(size.columns)])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
