"""What every command needs: configuration, the world of this host, the streams. Built once in `main` and passed down."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from quietcore import config as configuration
from quietcore.config import Config
from quietcore.errors import InputError, PermissionProblem, Problem

if TYPE_CHECKING:
    from quietcore.cli.remote import RemoteEngine
    from quietcore.engine import Engine, Event, World
    from quietcore.model import Ledger, VmName
    from quietcore.render.values import Care
    from quietcore.virt import LibvirtHypervisor


def read_config(path: str | None, connect: str | None) -> Config:
    """The configuration file (a missing one means defaults unless it was named) with the flags that override it."""
    try:
        config = configuration.parse(Path(path or configuration.DEFAULT_PATH).read_text(), path or configuration.DEFAULT_PATH)
    except PermissionError as err:
        raise PermissionProblem(f"{path or configuration.DEFAULT_PATH} may not be read", hint="run it as root") from err
    except (OSError, UnicodeDecodeError) as err:
        if path is not None or not isinstance(err, FileNotFoundError):
            raise InputError.of((Problem(message=f"the configuration cannot be read: {err}", file=path),)) from err
        config = Config()
    return replace(config, uri=connect) if connect else config


@dataclass(frozen=True)
class App:
    """One invocation of the command line."""

    config: Config
    quiet: bool = False

    @cached_property
    def hypervisor(self) -> LibvirtHypervisor:
        """This host's libvirt."""
        from quietcore.virt import LibvirtHypervisor

        return LibvirtHypervisor(self.config.uri)

    @cached_property
    def world(self) -> World:
        """This host."""
        from quietcore.cli.this_host import this_host

        return this_host(self.config, self.hypervisor, self.tell, self.note)

    @cached_property
    def engine(self) -> Engine:
        """The engine on this host."""
        from quietcore.engine import Engine

        return Engine(self.world)

    @cached_property
    def agent(self) -> RemoteEngine | None:
        """The agent's engine, where one answers for the same VMs."""
        if not os.path.exists(self.config.socket):  # noqa: PTH110  # a folder that we may not enter counts as no socket
            return None
        from quietcore.cli.remote import RemoteEngine

        remote = RemoteEngine(self.config, self.tell)
        return remote if remote.answers() else None

    @property
    def vms(self) -> Engine | RemoteEngine:
        """The agent's engine where there is one, else our own: the same calls, values and errors."""
        return self.engine if self.agent is None else self.agent

    def need_change(self, what: str) -> None:
        """As `need_root`, unless an agent does the work: it knows who may ask for it."""
        if self.agent is None:
            self.need_root(what)

    def books(self) -> Ledger:
        """The ledger; by way of the agent where the file may not be read."""
        try:
            return self.world.books.load()
        except PermissionProblem:
            if self.agent is None:
                raise
            return self.agent.ledger()

    def care(self, vm: VmName) -> Care | None:
        """What the agent did for a VM, if one answers."""
        return None if self.agent is None else self.agent.care(vm)

    def close(self) -> None:
        """Take leave of libvirt, which would complain of a client that just ended."""
        if "hypervisor" in vars(self):  # a cached property that was asked for
            self.hypervisor.close()

    def tell(self, event: Event) -> None:
        """Print one step of a command as it happens, to standard error."""
        if not self.quiet:
            self.say(f"{event.vm}: {event.step:<14} {event.detail}  ({event.seconds * 1000:.0f} ms)")

    def note(self, text: str) -> None:
        """Tell what is good to know beside the steps."""
        if not self.quiet:
            self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """Talk to the person, never to the program that reads standard output."""
        print(text, file=sys.stderr, flush=True)  # noqa: T201  # the one place that talks

    def colored(self, asked: bool | None) -> bool:  # noqa: FBT001  # the flag as click gives it
        """Whether to colour standard output: as asked, else on a terminal unless NO_COLOR is set or TERM is dumb."""
        if asked is not None:
            return asked
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def need_root(self, what: str) -> None:
        """Refuse early, with the advice, what would fail half way. Raises PermissionProblem."""
        if os.geteuid() != 0:
            raise PermissionProblem(f"{what} changes this host and needs root", hint="run it with sudo, or as root")
