"""The content of a manifest after its types were checked: nested mappings with typed access by dotted path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from quietcore.model.quantity import Quantity

Value: TypeAlias = "str | int | float | bool | Quantity | dict[str, Value] | list[Value] | None"


class Tree:
    """One mapping of a manifest. Paths are dotted names; list items are reached with `items`. Changes write through.

    The reader has checked every type before a Tree exists, so a getter that meets another type shows a defect of ours.
    """

    __slots__ = ("data",)

    def __init__(self, data: dict[str, Value] | None = None) -> None:
        self.data: dict[str, Value] = {} if data is None else data

    def get(self, path: str) -> Value:
        """The value at a path, or None where it or anything above it is absent."""
        if "." not in path:
            return self.data.get(path)
        current: Value = self.data
        for name in path.split("."):
            if not isinstance(current, dict):
                return None
            current = current.get(name)
        return current

    def has(self, path: str) -> bool:
        """Whether something stands at a path: an empty mapping counts, null does not."""
        return self.get(path) is not None

    def text(self, path: str, default: str = "") -> str:
        """The text at a path."""
        value = self.get(path)
        return default if value is None else str(value)

    def number(self, path: str, default: int = 0) -> int:
        """The integer at a path."""
        value = self.get(path)
        return value if isinstance(value, int) else default

    def flag(self, path: str, *, default: bool = False) -> bool:
        """The boolean at a path."""
        value = self.get(path)
        return value if isinstance(value, bool) else default

    def quantity(self, path: str) -> Quantity | None:
        """The quantity at a path, or None."""
        value = self.get(path)
        return value if isinstance(value, Quantity) else None

    def child(self, path: str) -> Tree:
        """The mapping at a path; an empty one of its own where there is none."""
        value = self.get(path)
        return Tree(value if isinstance(value, dict) else None)

    def items(self, path: str) -> tuple[Tree, ...]:
        """The mappings in the list at a path."""
        value = self.get(path)
        return tuple(Tree(one if isinstance(one, dict) else None) for one in value) if isinstance(value, list) else ()

    def texts(self, path: str) -> tuple[str, ...]:
        """The texts in the list at a path."""
        value = self.get(path)
        return tuple(str(one) for one in value) if isinstance(value, list) else ()

    def mapping(self, path: str) -> Mapping[str, str]:
        """The map from text to text at a path."""
        value = self.get(path)
        return {key: str(one) for key, one in value.items() if one is not None} if isinstance(value, dict) else {}

    def put(self, path: str, value: Value) -> None:
        """Write a value; missing mappings above it are made."""
        *above, last = path.split(".")
        current = self.data
        for name in above:
            below = current.get(name)
            if not isinstance(below, dict):
                below = current[name] = {}
            current = below
        current[last] = value

    def add(self, path: str, item: dict[str, Value]) -> None:
        """Append a mapping to the list at a path."""
        value = self.get(path)
        if isinstance(value, list):
            value.append(item)
        else:
            self.put(path, [item])

    def copy(self) -> Tree:
        """A copy that shares nothing that can change."""
        copied = _copied(self.data)
        return Tree(copied if isinstance(copied, dict) else None)


def _copied(value: Value) -> Value:
    if isinstance(value, dict):
        return {name: _copied(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return value
