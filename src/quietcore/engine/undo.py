"""Taking back what a failed operation did, in reverse order, and saying honestly what could not be taken back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from quietcore.errors import OperationFailed, UndoFailed


class UndoStack:
    """A context: every `push` names something that was done and how it is undone; `keep` ends the need for it.

    When the body raises, everything is undone, last first. What it raised then comes out as it is, an OSError as
    OperationFailed; where an undo failed too, UndoFailed comes out and lists what is left, with the hint.
    """

    def __init__(self, hint: str = "`quietcore delete` tries it again") -> None:
        self._hint = hint
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
            except Exception as err:  # noqa: BLE001  # a defect in one undo must not keep the others from running
                left.append(f"{what} ({err})")
        if left:
            raise UndoFailed(f"{error}; not undone: {'; '.join(left)}", hint=self._hint) from error
        if isinstance(error, OSError):
            raise OperationFailed(f"{error}; what had been done was undone") from error
