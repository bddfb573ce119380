"""Texts -> the Kubernetes objects in them: documents, lists unfolded, kinds told apart."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from quietcore.errors import Problem
from quietcore.manifest.scalars import Scalar
from quietcore.manifest.yaml_text import Node, parse

_MOST_PROBLEMS: Final = 200
MAX_OBJECTS: Final = 1024
"""In one file. A small VM costs more time than its few values, so that counting these alone bounds nothing."""
KUBEVIRT: Final = "kubevirt.io"
INSTANCETYPE: Final = "instancetype.kubevirt.io"
_SERVED: Final = {KUBEVIRT: ("v1", "v1alpha3"), INSTANCETYPE: ("v1beta1",)}
KINDS: Final = {
    "VirtualMachine": KUBEVIRT,
    "VirtualMachineInstance": KUBEVIRT,
    "KubeVirt": KUBEVIRT,
    "VirtualMachineInstancetype": INSTANCETYPE,
    "VirtualMachineClusterInstancetype": INSTANCETYPE,
    "VirtualMachinePreference": INSTANCETYPE,
    "VirtualMachineClusterPreference": INSTANCETYPE,
}
OTHER_KINDS: Final = {
    "VirtualMachineInstanceReplicaSet": "write one VirtualMachineInstance per replica",
    "VirtualMachinePool": "write one VirtualMachine per replica",
    "VirtualMachineInstancePreset": "KubeVirt has withdrawn presets; write the values into the VM or use an instancetype",
    "VirtualMachineInstanceMigration": "VMs with dedicated CPUs are not migrated",
    "VirtualMachineSnapshot": "VMs with dedicated CPUs have no snapshots",
    "VirtualMachineRestore": "VMs with dedicated CPUs have no snapshots",
    "VirtualMachineExport": "disks are not exported",
    "VirtualMachineClone": "copy the manifest under another name",
    "MigrationPolicy": "VMs with dedicated CPUs are not migrated",
    "DataVolume": "there is no cluster storage on a host; use hostDisk, containerDisk or emptyDisk",
    "PersistentVolumeClaim": "there is no cluster storage on a host; use hostDisk, containerDisk or emptyDisk",
    "Secret": "write cloud-init data into the VM itself",
    "ConfigMap": "write cloud-init data into the VM itself",
    "Service": "there is no cluster network on a host",
    "NetworkAttachmentDefinition": "name the host's bridge in multus.networkName",
}


@dataclass(frozen=True, slots=True)
class Object:
    """One object: its node, its kind, and its own text (readable by itself) with the line where it begins."""

    root: Node
    kind: str
    file: str
    source: str

    @property
    def text(self) -> str:
        """The object's part of the file; an object that uses anchors is written out as JSON instead."""
        if self.root.shared:
            return json.dumps(_plain(self.root), indent=2, ensure_ascii=False) + "\n"
        part = self.source[self.root.start : self.root.end].rstrip()
        indent = " " * (self.root.column - 1) if "\n" in part else ""
        return f"{indent}{part}\n"


@dataclass(slots=True)
class Objects:
    """What a set of texts holds, and what is wrong with it before any field is looked at."""

    found: list[Object] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def split(sources: Sequence[tuple[str, str]]) -> Objects:
    """Read (file, text) pairs."""
    result = Objects()
    for file, text in sources:
        parsed = parse(text, file)
        result.problems.extend(parsed.problems)
        if not parsed.documents and not parsed.problems:
            result.problems.append(Problem(message="the file holds no document", code="empty", file=file, hint="is it the right file?"))
        nodes = list(islice((node for root in parsed.documents for node in _unfolded(root, 0)), MAX_OBJECTS + 1))
        if len(nodes) > MAX_OBJECTS:
            place = nodes.pop()
            message = f"more than {MAX_OBJECTS:,} objects in one file"
            result.problems.append(
                Problem(message=message, code="too-big", file=file, line=place.line, column=place.column, hint="split it")
            )
            continue
        for node in nodes:
            if len(result.problems) > _MOST_PROBLEMS:
                break
            _classify(result, node, file, parsed.text)
    return result


def _unfolded(node: Node, depth: int) -> Iterator[Node]:
    kind, items = _word(node, "kind"), _field(node, "items")
    if kind.endswith("List") and items is not None and isinstance(items.value, list) and depth < 4:
        for item in items.value:
            item.shared |= items.shared
            yield from _unfolded(item, depth + 1)
    else:
        yield node


def _classify(result: Objects, node: Node, file: str, source: str) -> None:
    def fault(message: str, path: str = "", code: str = "invalid", hint: str = "") -> None:
        place = _field(node, path) or node if path else node
        result.problems.append(Problem(message=message, code=code, file=file, line=place.line, column=place.column, field=path, hint=hint))

    if not isinstance(node.value, dict):
        fault("a manifest is a mapping with apiVersion, kind, metadata and spec")
        return
    kind, api = _word(node, "kind"), _word(node, "apiVersion")
    missing = [name for name, word in (("apiVersion", api), ("kind", kind)) if not word]
    for name in missing:
        example = "kubevirt.io/v1" if name == "apiVersion" else "VirtualMachineInstance"
        fault("Required value", name, "required", f"for example {name}: {example}")
    if missing:
        return
    group, _, version = api.rpartition("/")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1, 0.8)
        reason = OTHER_KINDS.get(kind) or (f"did you mean {near[0]}?" if near else f"readable are {', '.join(KINDS)}")
        fault(f"kind {kind} of {api} is not supported here", "kind", "unsupported-kind", reason)
    elif group != KINDS[kind] or version not in _SERVED[group]:
        served = " or ".join(f"{KINDS[kind]}/{one}" for one in _SERVED[KINDS[kind]])
        fault(f"{kind} of {api} is not served", "apiVersion", "unsupported-kind", f"use {served}")
    else:
        if version == "v1alpha3":
            place = _field(node, "apiVersion") or node
            message = "kubevirt.io/v1alpha3 is deprecated; it is read as kubevirt.io/v1"
            result.warnings.append(
                Problem(message=message, code="deprecated", file=file, line=place.line, column=place.column, field="apiVersion")
            )
        result.found.append(Object(node, kind, file, source))


def _field(node: Node, name: str) -> Node | None:
    return node.value[name].node if isinstance(node.value, dict) and name in node.value else None


def _word(node: Node, name: str) -> str:
    below = _field(node, name)
    return below.value if below is not None and isinstance(below.value, str) else ""


def _plain(node: Node) -> Scalar | dict[str, object] | list[object]:
    if isinstance(node.value, dict):
        return {name: _plain(entry.node) for name, entry in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(one) for one in node.value]
    return node.value
