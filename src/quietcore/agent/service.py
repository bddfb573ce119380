"""Running the agent as a service: its ears on this host, its word to systemd, and its end by a signal. VMs run on without it."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from quietcore.agent.agent import Agent, Ears
from quietcore.agent.events import EventLog, Happening
from quietcore.agent.routes import Routes
from quietcore.agent.server import Server
from quietcore.engine import World
from quietcore.engine.ledger_file import make_state_directory
from quietcore.host.fs import HostFs
from quietcore.host.watch import Inotify, ProcessEvents
from quietcore.lazy import import_whole
from quietcore.virt import LibvirtHypervisor

_NEEDED: Final = tuple(f"quietcore.{name}" for name in ("domain", "engine", "host", "images", "isolation", "placement", "pod", "virt"))


def run(world: World, hypervisor: LibvirtHypervisor, *, environment: dict[str, str]) -> None:
    """Care for this host and answer on its socket until SIGTERM or SIGINT. Raises what libvirt says when it is silent for a minute."""
    import_whole(*_NEEDED)
    log = EventLog(time.time, _to_journal)
    world = replace(world, report=lambda step: log.add(_word(step.step), step.vm, detail=step.detail, seconds=step.seconds))
    with ExitStack() as releases:
        ears = _ears(world, hypervisor, log, releases)
        agent = Agent(world, ears, log, resync_s=world.config.resync_s)
        releases.callback(agent.close)
        stopping = releases.enter_context(_signals(agent))
        agent.begin(stopping=stopping)
        server = Server(world.config, Routes(agent), log)
        releases.callback(server.server_close)  # waits for the requests that run
        agent.listen(server, server.handle_request)
        if not stopping():
            tell_systemd(environment, "READY=1")
        while not stopping():
            agent.step()
        tell_systemd(environment, "STOPPING=1")
        log.add("agent-stopped", vms=len(agent.caretaker.vms))


def _ears(world: World, hypervisor: LibvirtHypervisor, log: EventLog, releases: ExitStack) -> Ears:
    files, books = Inotify(world.fs), Inotify(HostFs())
    releases.callback(files.close)
    releases.callback(books.close)
    processes = None
    try:
        processes = ProcessEvents()
        releases.callback(processes.close)
    except OSError as err:
        log.add("no-process-events", message=f"{err.strerror or err}: new threads of QEMU are seen by the resync only")
    make_state_directory(Path(world.config.state_dir))
    return Ears(files=files, books=books, domains=hypervisor.listen(), processes=processes)


@contextmanager
def _signals(agent: Agent) -> Iterator[Callable[[], bool]]:
    """SIGTERM and SIGINT wake the loop and end it after what it is doing; gives the question whether one came."""
    reader, writer = socket.socketpair()
    for end in (reader, writer):
        end.settimeout(0)
    came: list[int] = []

    def heard() -> None:
        with suppress(BlockingIOError):
            reader.recv(64)

    before = {number: signal.signal(number, lambda one, _frame: came.append(one)) for number in (signal.SIGTERM, signal.SIGINT)}
    old_descriptor = signal.set_wakeup_fd(writer.fileno())
    agent.listen(reader, heard)
    try:
        yield lambda: bool(came)
    finally:
        signal.set_wakeup_fd(old_descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


def _word(step: str) -> str:
    return step.replace(" ", "-")


def tell_systemd(environment: dict[str, str], state: str) -> None:
    """Send one state to systemd, as sd_notify(3) describes; nothing where no systemd waits for it."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def _to_journal(one: Happening) -> None:
    print(one.line, file=sys.stderr, flush=True)  # noqa: T201  # the journal reads the standard error of a service
