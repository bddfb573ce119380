"""YAML with positions: every value is read through a `Document`, which notes each fault with its line, column and field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import yaml

from quietcore.errors import InputError, Problem
from quietcore.machines.words import did_you_mean
from quietcore.model import CpuSet, Quantity

LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Document:
    """One YAML (or JSON) document. Values are read from the text as written, never through YAML's guesses at types."""

    def __init__(self, text: str, *, file: str | None = None) -> None:
        """Raises InputError where the text is no single YAML document."""
        self.file = file
        self.problems: list[Problem] = []
        try:
            root = yaml.compose(text, Loader=LOADER)
        except yaml.MarkedYAMLError as err:
            mark = err.problem_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
            raise InputError.of((Problem(message=err.problem or "this is no YAML", file=file, line=line, column=column),)) from err
        except yaml.YAMLError as err:
            raise InputError.of((Problem(message=str(err).partition("\n")[0], file=file),)) from err
        if root is None:
            raise InputError.of((Problem(message="the file is empty", file=file),))
        self.root: yaml.Node = root

    def fault(self, node: yaml.Node, field: str, message: str, hint: str = "") -> None:
        """Note a fault at this place."""
        mark = node.start_mark
        problem = Problem(message=message, file=self.file, line=mark.line + 1, column=mark.column + 1, field=field, hint=hint)
        self.problems.append(problem)

    def raise_if_wrong(self) -> None:
        """Raise InputError with every fault so far, in the order of the file."""
        if self.problems:
            raise InputError.of(tuple(sorted(self.problems, key=lambda one: (one.line or 0, one.column or 0))))

    def fields(self, node: yaml.Node, field: str, known: Sequence[str]) -> dict[str, yaml.Node]:
        """The values of a mapping by key; unknown and repeated keys are faults."""
        found = self.mapping(node, field)
        for key, value in found.items():
            if key not in known:
                self.fault(value, _below(field, key), "unknown field", did_you_mean(key, known))
        return {key: value for key, value in found.items() if key in known}

    def mapping(self, node: yaml.Node, field: str) -> dict[str, yaml.Node]:
        """The values of a mapping with any keys; repeated keys are faults."""
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, field, "a mapping is wanted here")
            return {}
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.fault(key, field, "a key is a plain word")
            elif key.value in found:
                self.fault(key, _below(field, key.value), "is given twice")
            else:
                found[key.value] = value
        return found

    def sequence(self, node: yaml.Node | None, field: str) -> list[yaml.Node]:
        """The items of a list."""
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if node is not None:
            self.fault(node, field, "a list is wanted here")
        return []

    def text(self, node: yaml.Node | None, field: str, *, default: str = "", choices: Iterable[str] = ()) -> str:
        """A scalar as written."""
        if node is None:
            return default
        if not isinstance(node, yaml.ScalarNode):
            self.fault(node, field, "a single value is wanted here")
            return default
        value = str(node.value)
        if choices and value not in choices:
            self.fault(node, field, f"{value!r} is not known", did_you_mean(value, choices))
            return default
        return value

    def count(self, node: yaml.Node | None, field: str, *, default: int = 0) -> int:
        """A decimal number of at least 0."""
        text = self.text(node, field, default=str(default))
        if not (text.isascii() and text.isdecimal()) or len(text) > 18:
            self.fault(node or self.root, field, f"{text!r} is no whole number")
            return default
        return int(text)

    def cpus(self, node: yaml.Node | None, field: str) -> CpuSet:
        """A CPU list."""
        try:
            return CpuSet.parse(self.text(node, field))
        except ValueError as err:
            self.fault(node or self.root, field, str(err), "write it as 0-3,8")
            return CpuSet()

    def size_bytes(self, node: yaml.Node | None, field: str, text: str | None = None) -> int:
        """A Kubernetes quantity of whole bytes; `text` is read instead where the size stands in a key."""
        written = self.text(node, field, default="0") if text is None else text
        try:
            size = Quantity.parse(written)
        except ValueError:
            size = Quantity.of(-1)
        if size < Quantity.of(0) or not size.is_whole:
            self.fault(node or self.root, field, f"{written!r} is no size in bytes", "write it as 512Mi or 16Gi")
            return 0
        return size.value


def _below(field: str, key: str) -> str:
    return f"{field}.{key}" if field else key
