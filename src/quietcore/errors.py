"""The few errors of quietcore and the exit code that each of them means; the command line translates them once, at the top.

    QuietcoreError
     +- InputError        what the user wrote is wrong                      exit 2
     +- PermissionProblem the operation needs rights that we do not have    exit 4
     +- OperationFailed   it failed and everything done was undone          exit 5
     +- UndoFailed        it failed and something could not be undone       exit 6
     +- TimedOut          it took longer than allowed                       exit 7

"Does not fit" is no error: placement answers with a `Refusal` value (exit 3).
"""

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command; they are part of the stable interface."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    DOES_NOT_FIT = 3
    PERMISSION = 4
    FAILED_UNDONE = 5
    FAILED_NOT_UNDONE = 6
    TIMEOUT = 7
    VOID = 8
    DEFECT = 70
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: where it stands, what it is, what to do about it.

    `line` and `column` count from 1; they are None where the problem has no place in a file.
    `code` is a stable word for programs; `ours` marks a rule that KubeVirt does not have.
    """

    message: str
    code: str = "invalid"
    file: str | None = None
    line: int | None = None
    column: int | None = None
    field: str = ""
    hint: str = ""
    ours: bool = False

    @property
    def marked(self) -> str:
        """The problem as a line of text that also says whether the rule is ours."""
        return f"{self} [a rule of quietcore, not of KubeVirt]" if self.ours else str(self)

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return ": ".join(part for part in (place, self.field, self.message) if part) + (f" ({self.hint})" if self.hint else "")


class QuietcoreError(Exception):
    """The root of our errors: a sentence, a hint on what to do next, and every problem that was found."""

    exit_code = ExitCode.DEFECT

    def __init__(self, message: str, *, hint: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = problems or (Problem(message=message, hint=hint),)


class InputError(QuietcoreError):
    """The input is wrong; `problems` holds all of its faults at once."""

    exit_code = ExitCode.USAGE

    @classmethod
    def of(cls, problems: tuple[Problem, ...]) -> "InputError":
        """Build the error from one or more problems."""
        return cls("\n".join(str(problem) for problem in problems), problems=problems)


class PermissionProblem(QuietcoreError):
    """The operation needs rights that this process does not have."""

    exit_code = ExitCode.PERMISSION


class OperationFailed(QuietcoreError):
    """The operation failed and the host is as it was before."""

    exit_code = ExitCode.FAILED_UNDONE


class UndoFailed(QuietcoreError):
    """The operation failed and not everything that it had done could be undone; the message says what is left."""

    exit_code = ExitCode.FAILED_NOT_UNDONE


class TimedOut(QuietcoreError):
    """Something did not happen within the time that it was given."""

    exit_code = ExitCode.TIMEOUT
