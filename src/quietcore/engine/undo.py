"""Taking back what a failed operation did, in reverse order, and saying honestly what could not be taken back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from quietcore.errors import OperationFailed, QuietcoreError, UndoFailed


class UndoStack:
    """A context: every `push` names something that was done and how it is undone; `keep` ends the need for it.

    When the body raises, everything is undone, last first. Our own errors then come out as OperationFailed ("was undone")
    or, where an undo failed too, as UndoFailed that lists what is left; anything else (an interrupt, a defect) comes out
    as itself after the undo.
    """

    def __init__(self) -> None:
        self._undos: list[tuple[str, Callable[[], None]]] = []

    def push(self, what: str, undo: Callable[[], None]) -> None:
        """Remember how to undo `what`. Push before acting where the act may be cut off half way."""
        self._undos.append((what, undo))

    def keep(self) -> None:
        """The operation is complete: nothing will be undone."""
        self._undos.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return
        left = []
        while self._undos:
            what, undo = self._undos.pop()
            try:
                undo()
            except (OSError, QuietcoreError) as err:
                left.append(f"{what} ({err})")
        if left:
            raise UndoFailed(f"{error}; not undone: {'; '.join(left)}", hint="`quietcore delete` tries it again") from error
        if isinstance(error, OSError):
            raise OperationFailed(f"{error}; what had been done was undone") from error
