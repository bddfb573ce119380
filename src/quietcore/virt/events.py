"""What libvirt tells of its domains, as values in a queue: its callbacks run in a thread of their own and do nothing else."""

from __future__ import annotations

import os
import queue
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

DomainChange: TypeAlias = Literal["started", "stopped", "failed", "changed", "other", "disconnected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainEvent:
    """Something happened to a domain.

    `stopped` is an end that somebody wanted (the guest powered off, it was destroyed), `failed` one that nobody wanted (the
    guest crashed, QEMU died); `changed` that it was resumed, or its pins or quotas were changed through libvirt;
    `disconnected` that libvirt is gone and events were missed (`name` is "").
    """

    name: str
    change: DomainChange


class DomainEvents:
    """The queue between libvirt's thread and the reader's: a descriptor for a selector, and the events since the last call."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[DomainEvent] = queue.SimpleQueue()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """For a selector."""
        return self._bell

    def put(self, event: DomainEvent) -> None:
        """Add an event; any thread may."""
        self._queue.put(event)
        with suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    def events(self) -> tuple[DomainEvent, ...]:
        """Everything since the last call, without waiting."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        found = []
        with suppress(queue.Empty):
            while True:
                found.append(self._queue.get_nowait())
        return tuple(found)


_BY_CRASH, _BY_FAILURE = 2, 5  # virDomainEventStoppedDetailType


def lifecycle(event: int, detail: int) -> DomainChange:
    """The numbers of virDomainEventType as a word."""
    match event:
        case 2:
            return "started"
        case 5:
            return "failed" if detail in {_BY_CRASH, _BY_FAILURE} else "stopped"
        case 8:
            return "failed"
        case 4:
            return "changed"
    return "other"
