"""Any machine as a YAML file: uneven nodes, memory-only nodes, hybrid cores, offline CPUs.

    apiVersion: quietcore.io/v1alpha1
    kind: Machine
    name: edge
    nodes:
    - {node: 0, memory: 32Gi, hugepages: {1Gi: 8}, distances: {0: 10, 1: 17}}
    - {node: 1, memory: 128Gi, distances: {0: 17, 1: 10}}           # memory only: no CPUs name it
    cpus:
    - {socket: 0, node: 0, l3: 0, kind: performance, cores: ["0,8", "1,9"]}   # one CPU list per core
    - {socket: 0, node: 0, l3: 0, kind: efficiency, cores: 16-19}   # cores of one thread each
    offline: 9

`socket` and `node` default to 0, `l3` to the socket. CPUs that are offline may stand in `cores` too. `freeHugepages` is only
known of machines that were read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import yaml

from quietcore.machines.document import Document
from quietcore.machines.recording import API_VERSION
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode, Quantity
from quietcore.model.machine import CoreKind

KIND: Final = "Machine"
_FIELDS: Final = ("apiVersion", "kind", "name", "architecture", "cpuModel", "nodes", "cpus", "offline", "isolated", "allowed")
_NODE_FIELDS: Final = ("node", "memory", "hugepages", "freeHugepages", "distances")
_GROUP_FIELDS: Final = ("socket", "node", "l3", "kind", "maxKhz", "cores")
_KINDS: Final[Mapping[str, CoreKind]] = {"": "", "performance": "performance", "efficiency": "efficiency"}


def load_yaml(text: str, *, file: str | None = None) -> Machine:
    """Build the machine of a YAML (or JSON) document. Raises InputError with every fault and its place."""
    document = Document(text, file=file)
    fields = document.fields(document.root, "", _FIELDS)
    document.text(fields.get("apiVersion"), "apiVersion", choices=(API_VERSION,))
    document.text(fields.get("kind"), "kind", choices=(KIND,))
    for required in ("nodes", "cpus"):
        if required not in fields:
            document.fault(document.root, required, "is required")
    nodes = [_node(document, node, f"nodes[{index}]") for index, node in enumerate(document.sequence(fields.get("nodes"), "nodes"))]
    offline = document.cpus(fields.get("offline"), "offline")
    cpus: list[LogicalCpu] = []
    for index, group in enumerate(document.sequence(fields.get("cpus"), "cpus")):
        found = _group(document, group, f"cpus[{index}]", offline)
        _check_group(document, group, f"cpus[{index}]", found=found, before=cpus, nodes=nodes)
        cpus += found
    isolated = document.cpus(fields.get("isolated"), "isolated")
    allowed = document.cpus(fields["allowed"], "allowed") if "allowed" in fields else None
    document.raise_if_wrong()
    try:
        return Machine(
            name=document.text(fields.get("name"), "name", default="machine"),
            cpus=tuple(sorted(cpus, key=lambda cpu: cpu.cpu)),
            nodes=tuple(sorted(nodes, key=lambda node: node.node)),
            offline=offline,
            allowed=allowed,
            isolated=isolated,
            architecture=document.text(fields.get("architecture"), "architecture", default="x86_64"),
            cpu_model=document.text(fields.get("cpuModel"), "cpuModel"),
        )
    except ValueError as err:  # the model says which CPU or node does not go together with the others
        document.fault(document.root, "", str(err))
        document.raise_if_wrong()
        raise


def _node(document: Document, node: yaml.Node, field: str) -> NumaNode:
    fields = document.fields(node, field, _NODE_FIELDS)
    distances = {
        document.count(_scalar(key, value), f"{field}.distances.{key}"): document.count(value, f"{field}.distances.{key}")
        for key, value in _entries(document, fields.get("distances"), f"{field}.distances").items()
    }
    free = _pages(document, fields["freeHugepages"], f"{field}.freeHugepages") if "freeHugepages" in fields else None
    return NumaNode(
        node=document.count(fields.get("node"), f"{field}.node"),
        memory_bytes=document.size_bytes(fields.get("memory"), f"{field}.memory"),
        hugepages=_pages(document, fields.get("hugepages"), f"{field}.hugepages"),
        free_hugepages=free,
        distances=MappingProxyType(distances),
    )


def _entries(document: Document, node: yaml.Node | None, field: str) -> Mapping[str, yaml.Node]:
    return {} if node is None else document.mapping(node, field)


def _scalar(text: str, beside: yaml.Node) -> yaml.Node:
    """A key as a value of its own, at the place of what stands beside it."""
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, beside.start_mark, beside.end_mark)


def _pages(document: Document, node: yaml.Node | None, field: str) -> Mapping[int, int]:
    """Page size in bytes -> number of pages."""
    pages = {}
    for size, count in _entries(document, node, field).items():
        size_bytes = document.size_bytes(count, f"{field}.{size}", text=size)
        pages[size_bytes] = document.count(count, f"{field}.{size}")
    return MappingProxyType(dict(sorted(pages.items())))


def _group(document: Document, group: yaml.Node, field: str, offline: CpuSet) -> list[LogicalCpu]:
    fields = document.fields(group, field, _GROUP_FIELDS)
    socket = document.count(fields.get("socket"), f"{field}.socket")
    node = document.count(fields.get("node"), f"{field}.node")
    l3 = document.count(fields.get("l3"), f"{field}.l3", default=socket)
    kind = _KINDS[document.text(fields.get("kind"), f"{field}.kind", choices=_KINDS)]
    max_khz = document.count(fields.get("maxKhz"), f"{field}.maxKhz")
    if "cores" not in fields:
        document.fault(group, f"{field}.cores", "is required", 'for example ["0,8", "1,9"]')
        return []
    cpus = []
    for threads in _cores(document, fields["cores"], f"{field}.cores"):
        online = threads - offline
        cpus += [LogicalCpu(cpu=cpu, core=online.lowest, socket=socket, node=node, l3=l3, kind=kind, max_khz=max_khz) for cpu in online]
    return cpus


def _check_group(
    document: Document, group: yaml.Node, field: str, *, found: list[LogicalCpu], before: list[LogicalCpu], nodes: list[NumaNode]
) -> None:
    count = Counter(cpu.cpu for cpu in (*before, *found))
    twice = CpuSet.from_iterable(cpu.cpu for cpu in found if count[cpu.cpu] > 1)
    if twice:
        document.fault(group, f"{field}.cores", f"CPUs {twice} are listed twice")
    known = {node.node for node in nodes}
    missing = sorted({cpu.node for cpu in found} - known)
    if missing:
        document.fault(group, f"{field}.node", f"node {missing[0]} is not among the nodes")


def _cores(document: Document, node: yaml.Node, field: str) -> list[CpuSet]:
    if isinstance(node, yaml.ScalarNode):
        return [CpuSet.of(cpu) for cpu in document.cpus(node, field)]
    cores = []
    for index, core in enumerate(document.sequence(node, field)):
        faults = len(document.problems)
        threads = document.cpus(core, f"{field}[{index}]")
        if not threads and len(document.problems) == faults:
            document.fault(core, f"{field}[{index}]", "a core has at least one CPU")
        cores.append(threads)
    return cores


def dump_yaml(machine: Machine) -> str:
    """Write a machine as such a file; `load_yaml` reads the same machine back."""
    document = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": machine.name,
        "architecture": machine.architecture,
        **({"cpuModel": machine.cpu_model} if machine.cpu_model else {}),
        "nodes": [_node_fields(node) for node in machine.nodes],
        "cpus": _group_fields(machine),
        **({"offline": str(machine.offline)} if machine.offline else {}),
        **({"isolated": str(machine.isolated)} if machine.isolated else {}),
        **({"allowed": str(machine.allowed)} if machine.allowed is not None else {}),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=140)


def _size(size_bytes: int) -> str:
    return str(Quantity(Fraction(size_bytes), "binary"))


def _node_fields(node: NumaNode) -> dict[str, object]:
    fields: dict[str, object] = {"node": node.node, "memory": _size(node.memory_bytes)}
    if node.hugepages:
        fields["hugepages"] = {_size(size): count for size, count in sorted(node.hugepages.items())}
    if node.free_hugepages is not None:
        fields["freeHugepages"] = {_size(size): count for size, count in sorted(node.free_hugepages.items())}
    if node.distances:
        fields["distances"] = dict(sorted(node.distances.items()))
    return fields


def _group_fields(machine: Machine) -> list[dict[str, object]]:
    """Cores that agree in everything else are one group; the threads of a core always agree."""
    by_number = {cpu.cpu: cpu for cpu in machine.cpus}
    groups: dict[tuple[int, int, int, str, int], list[str]] = {}
    for threads in machine.cores().values():
        cpu = by_number[threads.lowest]
        groups.setdefault((cpu.socket, cpu.node, cpu.l3, cpu.kind, cpu.max_khz), []).append(str(threads))
    return [
        {
            "socket": socket,
            "node": node,
            "l3": l3,
            **({"kind": kind} if kind else {}),
            **({"maxKhz": max_khz} if max_khz else {}),
            "cores": cores,
        }
        for (socket, node, l3, kind, max_khz), cores in sorted(groups.items())
    ]
