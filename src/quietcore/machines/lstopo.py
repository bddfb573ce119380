"""A machine from hwloc's XML ("lstopo --disallowed --of xml", version 2 of the format).

Without --disallowed lstopo leaves out where the CPUs of other cpusets and partitions sit; they then count as offline.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from lxml import etree

from quietcore.errors import InputError, Problem
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode
from quietcore.model.machine import LOCAL_DISTANCE, CoreKind

_WORD_BITS: Final = 32
_CORE_TYPES: Final[Mapping[str, CoreKind]] = {"IntelCore": "performance", "IntelAtom": "efficiency"}


class _Export:
    """The parsed document with its faults."""

    def __init__(self, root: etree._Element, file: str | None) -> None:
        self.root, self.file = root, file
        self.problems: list[Problem] = []

    def fault(self, element: etree._Element, field: str, message: str) -> None:
        self.problems.append(Problem(message=message, file=self.file, line=int(element.sourceline or 0) or None, field=field))

    def objects(self, kind: str) -> Iterator[etree._Element]:
        return (one for one in self.root.iter("object") if one.get("type") == kind)

    def number(self, element: etree._Element, field: str, default: int = 0) -> int:
        text = element.get(field)
        if text is None:
            return default
        if not (text.isascii() and text.isdecimal()) or len(text) > 18:
            self.fault(element, field, f"{text[:40]!r} is no whole number")
            return default
        return int(text)

    def cpus(self, element: etree._Element, field: str = "cpuset") -> CpuSet:
        """hwloc's bitmap: words of 32 bits, the highest first, an empty word for 0."""
        mask = 0
        for word in element.get(field, "").split(","):
            try:
                bits = int(word, 16) if word else 0
            except ValueError:
                bits = -1
            if not 0 <= bits < 1 << _WORD_BITS:
                self.fault(element, field, f"{word[:40]!r} is no word of a bitmap")
                return CpuSet()
            mask = mask << _WORD_BITS | bits
        return CpuSet(mask)

    def info(self, element: etree._Element, name: str) -> str:
        return next((info.get("value", "") for info in element.findall("info") if info.get("name") == name), "")


def load_lstopo(text: str, *, file: str | None = None, name: str = "lstopo") -> Machine:
    """Build the machine of an lstopo export; the host's own name in it wins over `name`.

    Raises InputError for what is no such XML, an older format, or an export that was filtered down to nothing useful.
    """
    export = _Export(_parse(text, file), file)
    top = next(export.objects("Machine"), None)
    if top is None:
        raise InputError.of((Problem(message="there is no object of type Machine", file=file, field="topology"),))
    online, complete = export.cpus(top), export.cpus(top, "complete_cpuset")
    allowed = export.cpus(top, "allowed_cpuset") if top.get("allowed_cpuset") else online
    nodes = _nodes(export)
    cpus = _cpus(export, online, nodes)
    if export.problems:
        raise InputError.of(tuple(export.problems))
    package = next(export.objects("Package"), top)
    try:
        return Machine(
            name=export.info(top, "HostName") or name,
            cpus=cpus,
            nodes=nodes or (NumaNode(node=0, memory_bytes=0),),
            offline=complete - online,
            allowed=None if online <= allowed else allowed & online,
            architecture=export.info(top, "Architecture") or "x86_64",
            cpu_model=export.info(package, "CPUModel") or export.info(top, "CPUModel"),
        )
    except ValueError as err:
        raise InputError.of((Problem(message=str(err), file=file, field="topology"),)) from err


def _parse(text: str, file: str | None) -> etree._Element:
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(text.encode(), parser)
    except etree.XMLSyntaxError as err:
        line, column = err.position
        raise InputError.of(
            (Problem(message=(err.msg or "this is no XML").partition(", line")[0], file=file, line=line, column=column),)
        ) from err
    version = root.get("version", "1")
    if root.tag != "topology" or version.partition(".")[0] != "2":
        hint = "export it with lstopo 2.x: lstopo --disallowed --of xml machine.xml"
        message = f"<{root.tag!s}> of version {version} is no lstopo export of version 2"
        raise InputError.of((Problem(message=message, file=file, field="topology", hint=hint),))
    return root


def _nodes(export: _Export) -> tuple[NumaNode, ...]:
    distances = _distances(export)
    nodes = []
    for element in export.objects("NUMANode"):
        number = export.number(element, "os_index")
        pages = {export.number(page, "size"): export.number(page, "count") for page in element.findall("page_type")}
        base = min(pages, default=0)
        hugepages = {size: count for size, count in sorted(pages.items()) if size != base}
        memory = export.number(element, "local_memory")
        own = MappingProxyType(distances.get(number, {number: LOCAL_DISTANCE}))
        nodes.append(NumaNode(node=number, memory_bytes=memory, hugepages=MappingProxyType(hugepages), distances=own))
    return tuple(sorted(nodes, key=lambda node: node.node))


def _distances(export: _Export) -> Mapping[int, dict[int, int]]:
    """Node -> node -> latency; hwloc writes the matrix row by row, each row a source."""
    for matrix in export.root.findall("distances2"):
        if matrix.get("type") != "NUMANode" or matrix.get("name") != "NUMALatency" or matrix.get("indexing") != "os":
            continue
        indexes = _numbers(export, matrix, "indexes")
        values = _numbers(export, matrix, "u64values")
        if len(values) != len(indexes) ** 2:
            export.fault(matrix, "distances2", f"{len(values)} values are no square over {len(indexes)} nodes")
            return {}
        rows = (values[start : start + len(indexes)] for start in range(0, len(values), len(indexes)))
        return {node: dict(zip(indexes, row, strict=True)) for node, row in zip(indexes, rows, strict=True)}
    return {}


def _numbers(export: _Export, matrix: etree._Element, tag: str) -> list[int]:
    words = " ".join(part.text or "" for part in matrix.findall(tag)).split()
    if not all(word.isdecimal() for word in words):
        export.fault(matrix, tag, "these are not all whole numbers")
        return []
    return [int(word) for word in words]


def _cpus(export: _Export, online: CpuSet, nodes: tuple[NumaNode, ...]) -> tuple[LogicalCpu, ...]:
    first = nodes[0].node if nodes else 0
    node_of = _index(export, "NUMANode", online)
    socket_of = _index(export, "Package", online)
    l3_of = _index(export, "L3Cache", online)
    core_of = {cpu: threads.lowest for core in export.objects("Core") if (threads := export.cpus(core) & online) for cpu in threads}
    kind_of, khz_of = _kinds(export, online)
    return tuple(
        LogicalCpu(
            cpu=cpu,
            core=core_of.get(cpu, cpu),
            socket=socket_of.get(cpu, 0),
            node=node_of.get(cpu, first),
            l3=l3_of.get(cpu, socket_of.get(cpu, 0)),
            kind=kind_of.get(cpu, ""),
            max_khz=khz_of.get(cpu, 0),
        )
        for cpu in online
    )


def _index(export: _Export, kind: str, online: CpuSet) -> Mapping[int, int]:
    """CPU -> the object's OS index, or its lowest CPU where some objects of the kind have none."""
    found = [(element, cpus) for element in export.objects(kind) if (cpus := export.cpus(element) & online)]
    named = all(element.get("os_index") for element, _ in found)
    return {cpu: export.number(element, "os_index") if named else cpus.lowest for element, cpus in found for cpu in cpus}


def _kinds(export: _Export, online: CpuSet) -> tuple[Mapping[int, CoreKind], Mapping[int, int]]:
    """CPU -> kind, and CPU -> highest frequency in kHz, as far as hwloc knows them."""
    kinds: dict[int, CoreKind] = {}
    khz: dict[int, int] = {}
    for element in export.root.findall("cpukind"):
        cpus = export.cpus(element) & online
        kind = _CORE_TYPES.get(export.info(element, "CoreType"), "")
        mhz = export.info(element, "FrequencyMaxMHz")
        kinds |= dict.fromkeys(cpus, kind)
        khz |= dict.fromkeys(cpus, int(mhz) * 1000 if mhz.isdecimal() else 0)
    top = max(khz.values(), default=0)
    if not any(kinds.values()) and any(0 < 3 * one <= 2 * top for one in khz.values()):
        kinds = {cpu: "efficiency" if 3 * one <= 2 * top else "performance" for cpu, one in khz.items()}
    return kinds, khz
