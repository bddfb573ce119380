"""The guest's serial console on this terminal, until Ctrl-] (as virsh has it)."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from quietcore.virt.hypervisor import LibvirtObject

_ESCAPE: Final = b"\x1d"
_CHUNK: Final = 4096


def attach(stream: LibvirtObject) -> None:
    """Copy both ways between standard input and output and the stream; ends at Ctrl-], end of input or end of the guest."""
    ended = threading.Event()

    def from_guest() -> None:
        while chunk := stream.recv(_CHUNK):
            os.write(sys.stdout.fileno(), chunk)
        ended.set()

    reader = threading.Thread(target=_quietly, args=(from_guest, ended), daemon=True)
    with _raw_terminal():
        reader.start()
        _to_guest(stream, ended)


def _to_guest(stream: LibvirtObject, ended: threading.Event) -> None:
    source = sys.stdin.fileno()
    while not ended.is_set():
        ready, _, _ = select.select([source], [], [], 0.2)
        if not ready:
            continue
        chunk = os.read(source, _CHUNK)
        if not chunk:
            ended.wait(0.5)  # a pipe ended: let the guest's last answer through
            return
        if _ESCAPE in chunk:
            return
        stream.send(chunk)


def _quietly(action: Callable[[], None], ended: threading.Event) -> None:
    try:
        action()
    except Exception:  # noqa: BLE001  # libvirt raises its own type when the guest ends; the console then simply ends
        ended.set()


@contextmanager
def _raw_terminal() -> Iterator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
