"""The text of a tracefs instance as values. Formats: the `print fmt` of events/sched/*/format, Linux 4.x to 6.18."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

_LINE: Final = re.compile(r"^.*-\d+\s+(?:\([-\d ]+\)\s+)?\[(\d+)\]\s+(?:\S+\s+)?(\d+)\.(\d{6}): (\w+): (.*)$")
# A name may hold anything, " prev_pid=" included: the numbers are those that stand last.
_SWITCH: Final = re.compile(r"^prev_comm=(.*) prev_pid=(\d+) prev_prio=\S+ prev_state=(\S+) ==> next_comm=(.*) next_pid=(\d+) next_prio=")
_WAKEUP: Final = re.compile(r"^comm=.* pid=(\d+) prio=\S+ (?:success=\d )?target_cpu=(\d+)$")
_FORK: Final = re.compile(r"^comm=.* pid=(\d+) child_comm=.* child_pid=(\d+)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One task left a CPU and another came; thread 0 is the idle task. `runnable`: it did not want to leave (it was pre-empted)."""

    time_ns: int
    cpu: int
    left: int
    left_comm: str
    runnable: bool
    came: int
    came_comm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wakeup:
    """A task became runnable on a CPU."""

    time_ns: int
    cpu: int
    tid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fork:
    """A task made another: a thread of the same process, or a process."""

    time_ns: int
    parent: int
    child: int


TraceEvent: TypeAlias = Switch | Wakeup | Fork


def parse_trace(text: str) -> tuple[TraceEvent, ...]:
    """The switches, wake-ups and forks in a trace, in their order; comments and other events are left out.

    Times are those of the instance's clock, to the microsecond that the text has. Raises ValueError for a line of one of these
    events that is not understood, because a missing switch would make everything after it wrong.
    """
    return tuple(_events(text))


def _events(text: str) -> Iterator[TraceEvent]:
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        head = _LINE.match(line)
        if head is None:
            if "LOST" in line and "EVENTS" in line:
                continue  # counted by the buffer's own statistics
            raise ValueError(f"not a line of a trace: {line!r}")
        time_ns = int(head[2]) * 1_000_000_000 + int(head[3]) * 1000
        event = _event(head[4], head[5], time_ns, int(head[1]))
        if event is not None:
            yield event


def _event(name: str, body: str, time_ns: int, cpu: int) -> TraceEvent | None:
    match name:
        case "sched_switch":
            found = _found(_SWITCH, body, name)
            return Switch(
                time_ns=time_ns,
                cpu=cpu,
                left=int(found[2]),
                left_comm=found[1],
                runnable=found[3].startswith("R"),  # "R" runnable, "R+" pre-empted: the kernel counts both as involuntary
                came=int(found[5]),
                came_comm=found[4],
            )
        case "sched_wakeup" | "sched_wakeup_new":
            found = _found(_WAKEUP, body, name)
            return Wakeup(time_ns=time_ns, cpu=int(found[2]), tid=int(found[1]))
        case "sched_process_fork":
            found = _found(_FORK, body, name)
            return Fork(time_ns=time_ns, parent=int(found[1]), child=int(found[2]))
        case _:
            return None


def _found(pattern: re.Pattern[str], body: str, name: str) -> re.Match[str]:
    found = pattern.match(body)
    if found is None:
        raise ValueError(f"{name} is not as expected: {body!r}")
    return found
