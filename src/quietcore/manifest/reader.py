"""A node of YAML and a type of KubeVirt -> checked content, with every fault and where it stands.

An own walk over KubeVirt's field list instead of pydantic models: the list gives known-but-unsupported fields their own answer, every
fault has its line and column, and there are no models to build at import.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Final

from quietcore.errors import Problem
from quietcore.manifest import fields
from quietcore.manifest.support import Support, support
from quietcore.manifest.tree import Tree, Value
from quietcore.manifest.yaml_text import Entry, Node
from quietcore.model.quantity import Quantity

_LARGEST: Final = {"count": (1 << 32) - 1, "integer": (1 << 63) - 1}
_CLOSE: Final = 0.7
_MOST_FAULTS: Final = 200
"""A document with more faults is not described any further; looking for near names takes its time."""
_FREE_TEXTS: Final = ("userData", "networkData")
"""These end in a file on a disk, not in XML."""
_UNSAFE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]")
_DEFECTIVE_KINDS: Final = {"string": "text", "boolean": "true or false", "integer": "a whole number", "count": "a whole number, at least 0"}


@dataclass(slots=True)
class Reading:
    """One document while it is read: its root node, KubeVirt's type for it, and what was found so far."""

    root: Node
    kind: str
    file: str
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def content(self) -> Tree:
        """Check and convert the whole document."""
        value = self._mapping(self.root, self.kind, "")
        return Tree(value if isinstance(value, dict) else None)

    def problem(self, path: str, message: str, *, code: str = "invalid", hint: str = "", ours: bool = False) -> Problem:
        """A problem placed where a dotted path (a[0].b) stands in the file, or where the nearest thing above it stands."""
        line, column = self.position(path)
        return Problem(message=message, code=code, file=self.file, line=line, column=column, field=path, hint=hint, ours=ours)

    def position(self, path: str) -> tuple[int, int]:
        """Line and column of the value at a path, of its key where it is a mapping or list, or of the nearest thing above."""
        node, place = self.root, (self.root.line, self.root.column)
        for name in path.replace("[", ".[").split(".") if path else ():
            if name.startswith("[") and isinstance(node.value, list):
                index = int(name[1:-1])
                if index >= len(node.value):
                    break
                node = node.value[index]
                place = (node.line, node.column)
            elif isinstance(node.value, dict) and name in node.value:
                entry = node.value[name]
                node = entry.node
                place = (entry.line, entry.column) if isinstance(node.value, dict | list) else (node.line, node.column)
            else:
                break
        return place

    def _fault(self, node: Node | Entry, path: str, message: str, code: str = "invalid", hint: str = "") -> None:
        if len(self.problems) >= _MOST_FAULTS:
            return
        self.problems.append(Problem(message=message, code=code, file=self.file, line=node.line, column=node.column, field=path, hint=hint))

    def _value(self, node: Node, kind: str, path: str) -> Value:
        if node.value is None:
            return None  # Kubernetes drops null
        if kind.startswith("[]"):
            return self._list(node, kind[2:], path)
        if kind.startswith("{}"):
            return self._map(node, kind[2:], path)
        if kind in fields.SCALARS:
            return self._scalar(node, kind, path)
        return self._mapping(node, kind, path)

    def _list(self, node: Node, kind: str, path: str) -> Value:
        if not isinstance(node.value, list):
            self._fault(node, path, f"must be a list, not {_described(node)}", "type")
            return None
        values: list[Value] = []
        for index, child in enumerate(node.value):
            value = self._value(child, kind, f"{path}[{index}]")
            if child.value is None:
                self._fault(child, f"{path}[{index}]", "must not be empty", "type")
            values.append(value)
        return values

    def _map(self, node: Node, kind: str, path: str) -> Value:
        if not isinstance(node.value, dict):
            self._fault(node, path, f"must be a mapping, not {_described(node)}", "type")
            return None
        return {name: self._value(entry.node, kind, f"{path}.{name}") for name, entry in node.value.items()}

    def _mapping(self, node: Node, kind: str, path: str) -> Value:
        if not isinstance(node.value, dict):
            self._fault(node, path, f"must be a mapping, not {_described(node)}", "type")
            return None
        known = fields.types()[kind]
        result: dict[str, Value] = {}
        for name, entry in node.value.items():
            below = f"{path}.{name}" if path else name
            if name not in known:
                self._unknown(entry, kind, name, below)
                continue
            verdict = support(kind, name)
            if verdict.status == "supported" or verdict.checked:
                result[name] = self._value(entry.node, known[name].kind, below)
            if verdict.status != "supported":
                self._unsupported(entry, verdict, below)
        for one in known.values():
            if one.required and result.get(one.name) is None and not _stands(node, one.name):
                self._fault(node, f"{path}.{one.name}" if path else one.name, "Required value", "required")
        return result

    def _unknown(self, entry: Entry, kind: str, name: str, path: str) -> None:
        if len(self.problems) >= _MOST_FAULTS:
            return
        by_lower = {one.lower(): one for one in fields.types()[kind]}
        near = by_lower.get(name.lower()) or next(iter(difflib.get_close_matches(name, list(fields.types()[kind]), 1, _CLOSE)), "")
        home = fields.homes(self.kind).get(name)
        if near:
            hint = f"did you mean {near}?"
        elif home is not None:
            hint = f"{name} belongs in {home or 'the top level'}"
        else:
            hint = ""
        self._fault(entry, path, "unknown field", "unknown-field", hint)

    def _unsupported(self, entry: Entry, verdict: Support, path: str) -> None:
        value = entry.node.value
        if value is None or (verdict.unless_off and value in (False, "", [], 0)):
            return
        if verdict.status == "ignored":
            switched_off = isinstance(value, dict) and "enabled" in value and value["enabled"].node.value is False
            if switched_off:
                self._fault(entry, path, f"known to KubeVirt, not supported here: {path} cannot be switched off", "unsupported")
            elif not verdict.quiet and len(self.warnings) < _MOST_FAULTS:
                message = f"ignored: {verdict.reason}"
                self.warnings.append(
                    Problem(message=message, code="ignored", file=self.file, line=entry.line, column=entry.column, field=path)
                )
            return
        self._fault(entry, path, f"known to KubeVirt, not supported here: {path.rpartition('.')[2]}", "unsupported", verdict.reason)

    def _scalar(self, node: Node, kind: str, path: str) -> Value:
        value = node.value
        match kind:
            case "quantity":
                if isinstance(value, str | int | float) and not isinstance(value, bool):
                    return self._quantity(node, value, path)
                self._fault(node, path, f"must be a quantity such as 2, 500m or 1Gi, not {_described(node)}", "type")
            case "string" | "time":
                if isinstance(value, str):
                    return self._text(node, value, path)
                hint = "put it in quotes" if isinstance(value, bool | int | float) else ""
                self._fault(node, path, f"must be text, not {_described(node)}", "type", hint)
            case "boolean":
                if isinstance(value, bool):
                    return value
                self._fault(node, path, f"must be true or false, not {_described(node)}", "type")
            case "integer" | "count":
                if isinstance(value, int) and not isinstance(value, bool):
                    smallest = 0 if kind == "count" else -_LARGEST["integer"] - 1
                    if smallest <= value <= _LARGEST[kind]:
                        return value
                    self._fault(node, path, f"must be within {smallest} and {_LARGEST[kind]}", "type")
                else:
                    self._fault(node, path, f"must be {_DEFECTIVE_KINDS[kind]}, not {_described(node)}", "type")
            case _:
                if not isinstance(value, dict | list):
                    return value
                self._fault(node, path, f"must be a single value, not {_described(node)}", "type")
        return None

    def _text(self, node: Node, value: str, path: str) -> Value:
        unsafe = None if path.endswith(_FREE_TEXTS) else _UNSAFE.search(value)
        if unsafe:
            self._fault(node, path, f"the character U+{ord(unsafe[0]):04X} is not allowed here", hint="XML cannot carry it")
            return None
        return value

    def _quantity(self, node: Node, value: str | float, path: str) -> Value:
        try:
            return Quantity.parse(value)
        except ValueError as error:
            self._fault(node, path, str(error), "type")
            return None


def _stands(node: Node, name: str) -> bool:
    return isinstance(node.value, dict) and name in node.value and node.value[name].node.value is not None


def _described(node: Node) -> str:
    match node.value:
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case bool():
            return "true or false"
        case int() | float():
            return f"the number {node.value}"
        case None:
            return "nothing"
        case str():
            shown = node.value if len(node.value) <= 40 else f"{node.value[:37]}..."
            return f"the text {shown!r}"
