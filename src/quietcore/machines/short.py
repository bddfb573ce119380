"""Regular machines in one line: "sockets=2,nodes=4,cores=32,threads=2,l3=8,mem=512Gi,hugepages-1Gi=64".

Every count is the total of the machine and is spread evenly, except `threads`, which is per core. What does not divide evenly
is refused: an uneven machine is written as a YAML file.

| key | means | default |
|---|---|---|
| cores | cores of the machine (with `efficiency`: its performance cores) | required |
| threads | threads of each such core | 1 |
| sockets | packages | 1 |
| nodes | NUMA nodes; a multiple of the sockets, or the sockets a multiple of them | sockets |
| l3 | L3 groups, each inside one socket | sockets |
| efficiency | further cores of one thread each, numbered after all others | 0 |
| mem | memory | 4Gi per core |
| hugepages-SIZE | pages of that size | none |
| siblings | `apart`: CPU n, n+cores, ... share a core, as on servers; `adjacent`: CPU 0,1 do, as in QEMU guests | apart |
| offline, isolated | CPU lists ("offline=2-3,8,mem=4Gi" is understood) | none |
| name | the machine's name | machine |

Distances: 10 to itself, 12 within a socket, 21 between sockets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from quietcore.errors import InputError, Problem
from quietcore.machines.words import did_you_mean
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode, Quantity
from quietcore.model.machine import LOCAL_DISTANCE, CoreKind

_COUNTS: Final = ("cores", "threads", "sockets", "nodes", "l3", "efficiency")
_LISTS: Final = ("offline", "isolated")
_KEYS: Final = (*_COUNTS, "mem", "siblings", *_LISTS, "name")
_PAGES: Final = "hugepages-"
_MOST_CPUS: Final = 8192
"""The largest CONFIG_NR_CPUS."""
_NEAR, _FAR = 12, 21
_DEFAULT_MEMORY_PER_CORE: Final = 4 << 30
_UNEVEN: Final = "an uneven machine is written as a YAML file"
_SPEC: Final = re.compile(r"[a-z0-9-]+\s*=.*", re.IGNORECASE)


def is_spec(text: str) -> bool:
    """Whether a text is meant as such a line rather than as a file's name or content."""
    return "\n" not in text.strip() and _SPEC.fullmatch(text.strip()) is not None


@dataclass(slots=True, kw_only=True)
class _Spec:
    """The line, taken apart; `problems` name keys."""

    counts: dict[str, int] = field(default_factory=dict)
    lists: dict[str, CpuSet] = field(default_factory=dict)
    pages: dict[int, int] = field(default_factory=dict)
    memory_bytes: int | None = None
    adjacent: bool = False
    name: str = "machine"
    problems: list[Problem] = field(default_factory=list)

    def fault(self, key: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(message=message, field=key, hint=hint))

    def count(self, key: str, text: str, least: int = 1) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < least:
            self.fault(key, f"{text!r} is no whole number of at least {least}")
            return least
        return int(text)

    def size_bytes(self, key: str, text: str) -> int:
        try:
            size = Quantity.parse(text)
        except ValueError:
            size = Quantity.of(-1)
        if size < Quantity.of(0) or not size.is_whole:
            self.fault(key, f"{text!r} is no size in bytes", "write it as 512Mi or 16Gi")
            return 0
        return size.value


def parse_spec(text: str) -> Machine:
    """Build the machine of one line. Raises InputError with every fault, each naming its key."""
    spec = _Spec()
    seen: set[str] = set()
    for key, value in _pairs(text):
        if key in seen:
            spec.fault(key, "is given twice")
        seen.add(key)
        if value:
            _read(spec, key, value)
        else:
            spec.fault(key or text, "has no value", "a machine is key=value,key=value")
    if "cores" not in seen:
        spec.fault("cores", "is required", "for example cores=8,threads=2,mem=32Gi")
    if spec.problems:
        raise InputError.of(tuple(spec.problems))
    counts = _counts(spec)
    _check_division(spec, counts)
    _check_amounts(spec, counts)
    if spec.problems:
        raise InputError.of(tuple(spec.problems))
    return _machine(spec, counts)


def _pairs(text: str) -> list[tuple[str, str]]:
    """A part without "=" belongs to the CPU list before it."""
    pairs: list[tuple[str, str]] = []
    for part in text.strip().split(","):
        key, equals, value = part.partition("=")
        if not equals and pairs and pairs[-1][0] in _LISTS:
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{part}")
        else:
            pairs.append((key.strip(), value.strip()))
    return pairs


def _read(spec: _Spec, key: str, value: str) -> None:
    if key in _COUNTS:
        spec.counts[key] = spec.count(key, value, least=0 if key == "efficiency" else 1)
    elif key in _LISTS:
        try:
            spec.lists[key] = CpuSet.parse(value)
        except ValueError as err:
            spec.fault(key, str(err))
    elif key.startswith(_PAGES):
        size = spec.size_bytes(key, key.removeprefix(_PAGES))
        if size and (size < 1 << 12 or size.bit_count() != 1):
            spec.fault(key, "the page size is no power of two of at least 4Ki")
        spec.pages[size] = spec.count(key, value, least=0)
    elif key == "mem":
        spec.memory_bytes = spec.size_bytes(key, value)
    elif key == "siblings":
        if value not in {"apart", "adjacent"}:
            spec.fault(key, f"{value!r} is neither apart nor adjacent")
        spec.adjacent = value == "adjacent"
    elif key == "name":
        spec.name = value
    else:
        spec.fault(key, "is no key of a machine", did_you_mean(key, (*_KEYS, "hugepages-2Mi", "hugepages-1Gi")))


def _counts(spec: _Spec) -> Mapping[str, int]:
    """All counts with their defaults."""
    counts = {"threads": 1, "sockets": 1, "efficiency": 0, **spec.counts}
    return {"nodes": counts["sockets"], "l3": counts["sockets"], **counts}


def _check_division(spec: _Spec, counts: Mapping[str, int]) -> None:
    for key in ("sockets", "nodes", "l3"):
        for cores in ("cores", "efficiency"):
            if counts[cores] % counts[key]:
                spec.fault(key, f"{counts[cores]} {cores} do not divide evenly over {counts[key]} {key}", _UNEVEN)
    for key in ("nodes", "l3"):
        parts, whole = sorted((counts[key], counts["sockets"]), reverse=True)
        if parts % whole or (key == "l3" and counts["l3"] < counts["sockets"]):
            spec.fault(key, f"{counts[key]} {key} do not divide evenly over {counts['sockets']} sockets", _UNEVEN)
    if spec.memory_bytes is not None and spec.memory_bytes % counts["nodes"]:
        spec.fault("mem", f"does not divide evenly over {counts['nodes']} nodes", _UNEVEN)
    for size, pages in spec.pages.items():
        if pages % counts["nodes"]:
            spec.fault(_pages_key(size), f"{pages} pages do not divide evenly over {counts['nodes']} nodes", _UNEVEN)


def _check_amounts(spec: _Spec, counts: Mapping[str, int]) -> None:
    total = counts["cores"] * counts["threads"] + counts["efficiency"]
    if total > _MOST_CPUS:
        spec.fault("cores", f"{total} CPUs are more than the {_MOST_CPUS} that Linux can have")
        return
    booked = sum(size * pages for size, pages in spec.pages.items())
    if booked > _memory(spec, counts):
        spec.fault("mem", f"the hugepages take {booked} bytes, more than all memory")
    cpus = CpuSet.range(total)
    for key, listed in spec.lists.items():
        if not listed <= cpus:
            spec.fault(key, f"CPUs {listed - cpus} do not exist: the machine has 0-{total - 1}")
    if not cpus - spec.lists.get("offline", CpuSet()):
        spec.fault("offline", "leaves no CPU online")


def _pages_key(size: int) -> str:
    return f"{_PAGES}{Quantity(Quantity.of(size).amount, 'binary')}"


def _memory(spec: _Spec, counts: Mapping[str, int]) -> int:
    default = (counts["cores"] + counts["efficiency"]) * _DEFAULT_MEMORY_PER_CORE
    return default if spec.memory_bytes is None else spec.memory_bytes


def _machine(spec: _Spec, counts: Mapping[str, int]) -> Machine:
    nodes, sockets = counts["nodes"], counts["sockets"]
    offline = spec.lists.get("offline", CpuSet())
    cpus = [cpu for core in _cores(spec, counts) for cpu in _threads_of(core, counts, offline)]
    pages = {size: count // nodes for size, count in sorted(spec.pages.items())}
    return Machine(
        name=spec.name,
        cpus=tuple(sorted(cpus, key=lambda cpu: cpu.cpu)),
        nodes=tuple(
            NumaNode(
                node=node,
                memory_bytes=_memory(spec, counts) // nodes,
                hugepages=MappingProxyType(pages),
                distances=MappingProxyType({other: _distance(node, other, nodes, sockets) for other in range(nodes)}),
            )
            for node in range(nodes)
        ),
        offline=offline,
        isolated=spec.lists.get("isolated", CpuSet()),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """`place` is the core's index among the `of` cores of its kind."""

    threads: tuple[int, ...]
    place: int
    of: int
    kind: CoreKind


def _cores(spec: _Spec, counts: Mapping[str, int]) -> list[_Core]:
    big, threads, little = counts["cores"], counts["threads"], counts["efficiency"]
    kind: CoreKind = "performance" if little else ""
    cores = []
    for core in range(big):
        numbers = (core * threads + t if spec.adjacent else t * big + core for t in range(threads))
        cores.append(_Core(threads=tuple(numbers), place=core, of=big, kind=kind))
    cores += [_Core(threads=(big * threads + core,), place=core, of=little, kind="efficiency") for core in range(little)]
    return cores


def _threads_of(core: _Core, counts: Mapping[str, int], offline: CpuSet) -> list[LogicalCpu]:
    online = [cpu for cpu in core.threads if cpu not in offline]
    socket, node, l3 = (core.place * counts[key] // core.of for key in ("sockets", "nodes", "l3"))
    return [LogicalCpu(cpu=cpu, core=online[0], socket=socket, node=node, l3=l3, kind=core.kind) for cpu in online]


def _distance(node: int, other: int, nodes: int, sockets: int) -> int:
    if node == other:
        return LOCAL_DISTANCE
    return _NEAR if node * sockets // nodes == other * sockets // nodes else _FAR
