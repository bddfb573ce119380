"""What goes over the socket between quietcore's own programs: whole values, errors and steps, one JSON object on each line.

Other programs get the objects that the command line prints with `-o json`. This form exists so that the command line renders the
very same values whether it did the work itself or the agent did.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from quietcore.engine import Event
from quietcore.engine.codec import DecodeError, decode, encode
from quietcore.errors import (
    InputError,
    OperationFailed,
    PermissionProblem,
    Problem,
    QuietcoreError,
    TimedOut,
    UndoFailed,
)
from quietcore.model import ClusterConfig, VmSpec

MEDIA_TYPE: Final = "application/x-quietcore-values"
_ERRORS: Final[tuple[type[QuietcoreError], ...]] = (InputError, PermissionProblem, OperationFailed, UndoFailed, TimedOut)
_BY_CODE: Final = {int(one.exit_code): one for one in _ERRORS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One VM that is to be as its manifest says, as our command line has read it."""

    spec: VmSpec
    text: str
    cluster: ClusterConfig


def value_line(value: object) -> str:
    """The result; a tuple of values is an array."""
    return _line("value", encode(value))


def step_line(step: Event) -> str:
    """One step of a command that has happened."""
    return _line("step", encode(step))


def error_line(error: QuietcoreError) -> str:
    """The failure in place of a result."""
    problems = [encode(problem) for problem in error.problems]
    return _line("error", {"code": int(error.exit_code), "message": error.message, "hint": error.hint, "problems": problems})


def _line(kind: str, content: object) -> str:
    return json.dumps({kind: content}, ensure_ascii=False) + "\n"


def read_line(line: str) -> tuple[str, Any]:  # what a line holds depends on its kind
    """One line as its kind and its content: a step as an Event, an error as the exception to raise, a value as JSON."""
    ((kind, content),) = json.loads(line).items()
    if kind == "step":
        return kind, decode(Event, content)
    return (kind, _error(content)) if kind == "error" else (kind, content)


def _error(content: dict[str, Any]) -> QuietcoreError:  # JSON of an error, checked by decode
    problems = tuple(decode(Problem, one) for one in content["problems"])
    kind = _BY_CODE.get(content["code"], QuietcoreError)
    return kind(content["message"], hint=content["hint"], problems=problems)


def from_json(wanted: Any, content: Any) -> Any:  # noqa: ANN401  # generic over annotations, which have no common type
    """A value of the annotated type. Raises InputError for what is none."""
    try:
        return decode(wanted, content)
    except (DecodeError, ValueError, KeyError, TypeError) as err:
        raise InputError.of((Problem(message=f"not a value of this version of quietcore: {err}", code="bad-request"),)) from err
