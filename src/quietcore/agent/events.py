"""What the agent did and found, kept for its readers and told to the journal: one line each, in the past tense, with fields."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

from quietcore.model import VmName

Field: TypeAlias = str | int | float | bool | None
_KEPT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One event: `number` counts from 1 since the agent started, `time_s` is seconds since 1970."""

    number: int
    time_s: float
    event: str
    vm: VmName | None
    fields: Mapping[str, Field]

    @property
    def line(self) -> str:
        """The event for a journal: `drift-repaired vm=default/a thread="vCPU 0" expected=2`."""
        subject = {} if self.vm is None else {"vm": str(self.vm)}
        return " ".join((self.event, *(f"{name}={_word(value)}" for name, value in (subject | dict(self.fields)).items())))


def _word(value: Field) -> str:
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    text = str(value)
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text if text and text.isprintable() and not set(text) & set(' "=\\') else f'"{quoted}"'


class EventLog:
    """The latest events. Any thread may add or read; `tell` hears each of them once."""

    def __init__(self, clock: Callable[[], float], tell: Callable[[Happening], None] = lambda _one: None) -> None:
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._events: deque[Happening] = deque(maxlen=_KEPT)
        self._number = 0

    def add(self, event: str, vm: VmName | None = None, **fields: Field) -> None:
        """Record that something has happened."""
        with self._lock:
            self._number += 1
            one = Happening(number=self._number, time_s=self._clock(), event=event, vm=vm, fields=MappingProxyType(fields))
            self._events.append(one)
        self._tell(one)

    def since(self, number: int = 0) -> tuple[Happening, ...]:
        """The events after this number that are still kept, oldest first."""
        with self._lock:
            return tuple(one for one in self._events if one.number > number)
