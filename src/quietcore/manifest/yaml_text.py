"""YAML or JSON text -> trees of nodes that know where they stand; refuses what is ambiguous or too big.

The tree is built from the parser's events instead of its own composer, which recurses in C without a limit and has no bound on the
number of nodes: here every limit is checked before the next event is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import yaml

from quietcore.errors import Problem
from quietcore.manifest.scalars import Scalar, resolve

MAX_CHARACTERS: Final = 2 << 20
MAX_DEPTH: Final = 64
MAX_NODES: Final = 128_000
"""Reading and judging a value takes about five microseconds: so a file within the limits takes less than a second."""
MAX_ALIASED_NODES: Final = 20_000
_MOST_DIRECTIVES: Final = 20
_DIRECTIVE: Final = re.compile("[\r\n\x85\u2028\u2029]%TAG")
_STRING_TAGS: Final = frozenset({"!", "tag:yaml.org,2002:str"})
_COLLECTION_TAGS: Final = frozenset({"!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})
_SURROGATES: Final = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_UNREADABLE: Final = re.compile("[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MERGE: Final = "<<"


@dataclass(slots=True)
class Entry:
    """One key of a mapping: where the key stands, and its value."""

    line: int
    column: int
    node: Node


@dataclass(slots=True, eq=False)
class Node:
    """One value of the text. `line` and `column` count from 1; `start` and `end` are offsets into the text; `size` counts nodes.

    `value` is a scalar, a mapping from keys to entries, or a list of nodes. `shared` says that an alias leads here or below.
    """

    line: int
    column: int
    start: int
    value: Content
    end: int = 0
    size: int = 1
    shared: bool = False


Content: TypeAlias = Scalar | dict[str, Entry] | list[Node]


class _Unreadable(Exception):
    """The text cannot be read any further."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass(slots=True)
class YamlText:
    """The documents of one text, in order, and everything that is wrong with it as YAML."""

    text: str
    documents: list[Node] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def parse(text: str, file: str) -> YamlText:
    """Read all documents. A document after a syntax error is not read; a document with a duplicate key is left out."""
    text = text.removeprefix("\ufeff")
    result = YamlText(text)
    if len(text) > MAX_CHARACTERS:
        result.problems.append(_problem(file, "too-big", f"the file is larger than {MAX_CHARACTERS >> 20} MiB", hint="split it"))
        return result
    unreadable = _UNREADABLE.search(text)
    if unreadable:
        line, column = _position(text, unreadable.start())
        message = f"the character U+{ord(unreadable[0]):04X} is not allowed in YAML"
        result.problems.append(_problem(file, "syntax", message, line, column))
        return result
    if len(_DIRECTIVE.findall(text)) > _MOST_DIRECTIVES:  # libyaml compares each with all before it
        result.problems.append(_problem(file, "syntax", f"more than {_MOST_DIRECTIVES} %TAG directives", hint="tags are not read at all"))
        return result
    if text.lstrip()[:1] == "{":  # JSON writes characters beyond U+FFFF as two escapes, which YAML does not know
        result.text = text = _SURROGATES.sub(_joined, text)
    reader = _Reader(text, file)
    try:
        for document, faults in reader.documents():
            result.problems.extend(faults)
            if document is not None:
                result.documents.append(document)
    except _Unreadable as error:
        result.documents.clear()  # what is too big is not judged in part
        result.problems.append(error.problem)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        sentence = ": ".join(part for part in (error.context, error.problem) if part) or "not readable as YAML"
        place = (mark.line + 1, mark.column + 1) if mark else (None, None)
        result.problems.append(_problem(file, "syntax", sentence, *place))
    except yaml.YAMLError as error:
        result.problems.append(_problem(file, "syntax", str(error).splitlines()[0]))
    return result


def _joined(match: re.Match[str]) -> str:
    high, low = int(match[1], 16), int(match[2], 16)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def _position(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _problem(file: str, code: str, message: str, line: int | None = None, column: int | None = None, *, hint: str = "") -> Problem:
    return Problem(code=code, message=message, file=file, line=line, column=column, hint=hint)


def _start(event: yaml.Event) -> tuple[int, int, int]:
    """Line and column, from 1, and the offset of an event."""
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1, mark.index) if mark else (1, 1, 0)


def _end(event: yaml.Event) -> int:
    return event.end_mark.index if event.end_mark else 0


class _Reader:
    """Builds nodes from the parser's events, one document at a time, within the limits."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        events = yaml.CSafeLoader(text)  # asked directly: half the time of yaml.parse
        self._next: Callable[[], yaml.Event] = events.get_event  # type: ignore[assignment]  # None comes only after the stream's end
        self._nodes = 0
        self._aliased = 0
        self._anchors: dict[str, Node | None] = {}
        self._faults: list[Problem] = []

    def documents(self) -> Iterator[tuple[Node | None, list[Problem]]]:
        """Each document, None where it was left out, with the faults that were found in it."""
        self._next()  # the start of the stream
        while isinstance(self._next(), yaml.DocumentStartEvent):
            self._anchors, self._faults = {}, []
            root = self._node(self._next(), 0)
            self._next()  # the end of the document
            empty = root.value is None
            yield (None if empty or self._faults else root), self._faults

    def _fault(self, node: Node, code: str, message: str, hint: str = "") -> None:
        self._faults.append(_problem(self._file, code, message, node.line, node.column, hint=hint))

    def _stop(self, event: yaml.Event, message: str, hint: str = "") -> _Unreadable:
        line, column, _ = _start(event)
        return _Unreadable(_problem(self._file, "too-big", message, line, column, hint=hint))

    def _node(self, event: yaml.Event, depth: int) -> Node:
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise self._stop(event, f"more than {MAX_DEPTH} levels deep")
        if self._nodes > MAX_NODES:
            raise self._stop(event, f"more than {MAX_NODES:,} values in one file", "split it")
        if isinstance(event, yaml.ScalarEvent):
            node = Node(*_start(event), None, _end(event))
            node.value = self._scalar(node, event)
        elif isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        else:
            assert isinstance(event, yaml.CollectionStartEvent)  # the parser's grammar leaves nothing else
            node = Node(*_start(event), None)
            if event.anchor:
                self._anchors[event.anchor] = None  # a node cannot contain itself
            if event.tag and event.tag not in _COLLECTION_TAGS:
                self._fault(node, "tag", f"the tag {event.tag} is not allowed")
            if isinstance(event, yaml.SequenceStartEvent):
                self._sequence(node, depth)
            else:
                self._mapping(node, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: yaml.AliasEvent) -> Node:
        name = event.anchor or ""
        target = self._anchors.get(name)
        line, column, start = _start(event)
        if target is None:
            known = "an anchor that contains this alias" if name in self._anchors else "an anchor that does not exist"
            node = Node(line, column, start, None, _end(event))
            self._fault(node, "alias", f"*{name} refers to {known}")
            return node
        self._aliased += target.size
        if self._aliased > MAX_ALIASED_NODES:
            raise self._stop(event, f"aliases repeat more than {MAX_ALIASED_NODES:,} values", "write them out or split the file")
        return Node(target.line, target.column, start, target.value, _end(event), target.size, shared=True)

    def _scalar(self, node: Node, event: yaml.ScalarEvent) -> Scalar:
        if event.tag in _STRING_TAGS or (event.tag is None and not event.implicit[0]):
            return str(event.value)
        if event.tag is not None:
            self._fault(node, "tag", f"the tag {event.tag} is not allowed")
            return None
        try:
            return resolve(event.value)
        except ValueError as error:
            self._fault(node, "number", str(error))
            return None

    def _sequence(self, node: Node, depth: int) -> None:
        children: list[Node] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            child = self._node(event, depth + 1)
            node.size += child.size
            node.shared |= child.shared
            children.append(child)
        node.value, node.end = children, _end(event)

    def _mapping(self, node: Node, depth: int) -> None:
        entries: dict[str, Entry] = {}
        merged: list[Node] = []
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            merge = isinstance(event, yaml.ScalarEvent) and event.value == _MERGE and event.implicit[0]
            child = self._node(self._next(), depth + 1)
            node.size += key.size + child.size
            node.shared |= child.shared
            name = self._key(key)
            if merge:
                merged.append(child)
            elif name in entries:
                first = entries[name]
                self._fault(key, "duplicate", f"the key {name!r} stands here for the second time", f"the first is in line {first.line}")
            elif name is not None:
                entries[name] = Entry(key.line, key.column, child)
        for source in merged:
            self._merge(entries, source)
        node.value, node.end = entries, _end(event)

    def _key(self, key: Node) -> str | None:
        match key.value:
            case bool():
                return "true" if key.value else "false"
            case str() | int() | float():
                return str(key.value)
            case _:
                self._fault(key, "key", "a key has to be text")
                return None

    def _merge(self, entries: dict[str, Entry], source: Node) -> None:
        sources = source.value if isinstance(source.value, list) else [source]
        for one in sources:
            if not isinstance(one.value, dict):
                self._fault(source, "merge", "<< needs a mapping or a list of mappings")
                continue
            for name, entry in one.value.items():
                entries.setdefault(name, entry)
