"""Waits until the demo guest answers on its serial console and prints what it says about itself.

The guest may have said so before anybody listened, so it is asked: Enter until its prompt comes, then `hello`.

Usage: demo_console.py COMMAND...     for example: demo_console.py .venv/bin/quietcore console quickstart
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time

DEADLINE_S = 120.0
PROMPT = b"demo:/# "
SAYS = re.compile(rb"quietcore demo guest: (?:Linux|up)[^\r\n]*(?=\r?\n)")
ENTER_EVERY_S = 1.0


def main(command: list[str]) -> int:
    """Talk to the guest; 0 when it said that it is up."""
    console = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    if console.stdin is None or console.stdout is None:
        raise AssertionError
    heard, asked, enter_at = b"", False, 0.0
    deadline = time.monotonic() + DEADLINE_S
    try:
        while time.monotonic() < deadline:
            if not asked and time.monotonic() >= enter_at:
                console.stdin.write(b"\n")
                console.stdin.flush()
                enter_at = time.monotonic() + ENTER_EVERY_S
            ready, _, _ = select.select([console.stdout], [], [], 0.2)
            chunk = os.read(console.stdout.fileno(), 65536) if ready else b""
            if ready and not chunk:
                print("demo: the console ended before the guest was up", file=sys.stderr)
                return 1
            heard += chunk
            if not asked and PROMPT in heard:
                asked, heard = True, b""
                console.stdin.write(b"hello\n")
                console.stdin.flush()
            lines = [line.decode(errors="replace") for line in SAYS.findall(heard)]
            if asked and any(": up " in line for line in lines):
                print("\n".join(lines))
                return 0
        print(f"demo: the guest did not answer within {DEADLINE_S:g} s; it said: {heard[-500:]!r}", file=sys.stderr)
        return 1
    finally:
        console.stdin.close()
        console.terminate()
        console.wait(10)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
