"""An OpenStack flavor (with an image's properties) -> a KubeVirt manifest, and a sentence for all that has no equivalent."""

from __future__ import annotations

import re
from fractions import Fraction
from types import MappingProxyType
from typing import Final, TypeAlias

from quietcore.errors import InputError, Problem
from quietcore.manifest.flavor_cells import Wanted, constraints
from quietcore.manifest.flavor_rules import ANY_PAGES, LARGE_PAGES, SMALL_PAGES, locked_memory, pci_policy, pmu
from quietcore.manifest.flavor_topologies import desirable_topologies
from quietcore.manifest.flavor_values import Flavor, Image, Property
from quietcore.manifest.yaml_text import Node, parse
from quietcore.model.quantity import Quantity

Manifest: TypeAlias = dict[str, object]
_MOST_VCPUS: Final = 4096
_PAGE_KIB: Final = 4
_SMALL_HUGE_KIB: Final = 2048
_UNDERSTOOD: Final = re.compile(
    r"hw:(cpu_(policy|dedicated_mask|thread_policy|realtime|realtime_mask|(max_)?(sockets|cores|threads))|emulator_threads_policy"
    r"|numa_nodes|numa_(cpus|mem)\.\d+|mem_page_size|locked_memory|pmu|pci_numa_affinity_policy)"
    r"|resources:(PCPU|VCPU)|trait:HW_CPU_HYPERTHREADING"
)


def read_flavor(text: str, file: str) -> tuple[Flavor, Image]:
    """Read a flavor as `openstack flavor show -f json` (or yaml) and the compute API print it.

    The file may hold the properties of an image below `image`. Raises InputError naming every field that is missing or wrong.
    """
    read = parse(text, file)
    if read.problems:
        raise InputError.of(tuple(read.problems))
    if len(read.documents) != 1:
        raise InputError.of((Problem(message=f"one flavor is expected, and {len(read.documents)} documents were found", file=file),))
    return _Fields(read.documents[0], file).flavor()


def flavor_to_manifest(flavor: Flavor, image: Image) -> tuple[Manifest, tuple[str, ...]]:
    """Write a VirtualMachineInstance without disks and the notes. What contradicts itself is refused as Nova refuses it."""
    wanted, notes = constraints(flavor, image), list[str]()
    topology = desirable_topologies(flavor, image)[0]
    annotations: dict[str, str] = {}
    # The ceiling is the number itself: an OpenStack VM grows by a resize, not by sockets for later.
    cpu: Manifest = {"sockets": topology.sockets, "cores": topology.cores, "threads": topology.threads, "maxSockets": topology.sockets}
    memory: Manifest = {"guest": str(Quantity(Fraction(flavor.memory_mb << 20), "binary"))}
    _dedicated(flavor, wanted, cpu, annotations, notes)
    _pages(flavor, wanted, memory, notes)
    _numa(wanted, cpu, memory, notes)
    _realtime(flavor, wanted, cpu, memory, notes)
    _rest(flavor, image, cpu, notes)
    metadata: Manifest = {"name": _name(flavor.name)}
    if annotations:
        metadata["annotations"] = annotations
    domain: Manifest = {"cpu": cpu, "devices": {}, "memory": memory}
    made: Manifest = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata, "spec": {"domain": domain}}
    return made, (*notes, "a flavor names no image: add disks and volumes")


def _name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "flavor"


def _dedicated(flavor: Flavor, wanted: Wanted, cpu: Manifest, annotations: dict[str, str], notes: list[str]) -> None:
    if not wanted.dedicated:
        return
    cpu["dedicatedCpuPlacement"] = True
    if len(wanted.dedicated) < flavor.vcpus:
        annotations["quietcore.io/dedicated-vcpus"] = str(wanted.dedicated)
    if wanted.threads is not None:
        annotations["quietcore.io/thread-policy"] = wanted.threads
    if wanted.emulator == "isolate" and len(wanted.dedicated) == flavor.vcpus:
        cpu["isolateEmulatorThread"] = True
        return
    annotations["quietcore.io/strategy"] = "dedicated"
    if wanted.emulator == "isolate":
        notes.append("with shared vCPUs beside dedicated ones QEMU's other threads use the shared pool, not a CPU of their own")
    elif wanted.emulator is None:
        notes.append("Nova runs QEMU's other threads on the vCPUs' own CPUs; here they use the shared pool")


def _pages(flavor: Flavor, wanted: Wanted, memory: Manifest, notes: list[str]) -> None:
    size = wanted.page_kib
    if size is None or size in {SMALL_PAGES, _PAGE_KIB}:
        return
    if size == ANY_PAGES:
        notes.append("hw:mem_page_size=any: ordinary pages are written, since a manifest names one size; add memory.hugepages for others")
        return
    if size == LARGE_PAGES:
        if _huge(flavor, _SMALL_HUGE_KIB, memory, notes):
            notes.append("hw:mem_page_size=large: Nova takes what the host has; 2Mi is written, change it where the host has other pages")
        return
    _huge(flavor, size, memory, notes)


def _huge(flavor: Flavor, size_kib: int, memory: Manifest, notes: list[str]) -> bool:
    page = str(Quantity(Fraction(size_kib << 10), "binary"))
    if (flavor.memory_mb << 10) % size_kib:
        notes.append(f"{flavor.memory_mb} MiB are no whole number of pages of {page}, which KubeVirt demands: hugepages are left out")
        return False
    memory["hugepages"] = {"pageSize": page}
    return True


def _numa(wanted: Wanted, cpu: Manifest, memory: Manifest, notes: list[str]) -> None:
    if len(wanted.cells) < 2:
        return
    if not wanted.dedicated or "hugepages" not in memory:
        notes.append(f"{len(wanted.cells)} guest NUMA cells need dedicated CPUs and hugepages in KubeVirt: the guest gets one cell")
        return
    cpu["numa"] = {"guestMappingPassthrough": {}}
    notes.append(f"the guest has as many NUMA cells as its CPUs come from, {len(wanted.cells)} or fewer, with memory split evenly")


def _realtime(flavor: Flavor, wanted: Wanted, cpu: Manifest, memory: Manifest, notes: list[str]) -> None:
    if wanted.realtime is None:
        return
    if "hugepages" not in memory:
        if not _huge(flavor, _SMALL_HUGE_KIB, memory, notes):
            notes.append("real-time vCPUs are left out: KubeVirt demands hugepages for them")
            return
        notes.append("hugepages of 2Mi are added: KubeVirt demands them for real-time vCPUs")
    cpu["realtime"] = {} if len(wanted.realtime) == flavor.vcpus else {"mask": str(wanted.realtime)}
    cpu["numa"] = {"guestMappingPassthrough": {}}


def _rest(flavor: Flavor, image: Image, cpu: Manifest, notes: list[str]) -> None:
    has_pmu = pmu(flavor, image)
    if has_pmu is True and "realtime" in cpu:
        notes.append("hw:pmu=true has no effect: a real-time guest has no PMU")
    elif has_pmu is False and "realtime" not in cpu:
        notes.append("hw:pmu=false has no equivalent without real-time vCPUs")
    if locked_memory(flavor, image) and "realtime" not in cpu:
        notes.append(
            "locked memory needs memory.reservedOverhead.memLock: Required and its feature gate; add it where the cluster has that"
        )
    if pci_policy(flavor, image) is not None:
        notes.append("hw:pci_numa_affinity_policy has no equivalent: PCI devices are not passed through")
    notes.extend(f"the extra spec {name} has no equivalent" for name in sorted(flavor.extra_specs) if not _UNDERSTOOD.fullmatch(name))


class _Fields:
    """One flavor document and the faults that were found in it."""

    def __init__(self, root: Node, file: str) -> None:
        self._file = file
        self._problems: list[Problem] = []
        self._root = self._mapping(root, "")

    def flavor(self) -> tuple[Flavor, Image]:
        fields = self._root
        if "flavor" in fields:
            fields = self._mapping(fields["flavor"], "flavor")
        vcpus = self._count(fields, "vcpus", most=_MOST_VCPUS)
        memory = self._count(fields, "ram", most=1 << 40)
        specs = next((fields[name] for name in ("properties", "extra_specs") if name in fields), None)
        extra = self._mapping(specs, "properties") if specs is not None else {}
        image = self._mapping(self._root["image"], "image") if "image" in self._root else {}
        own = self._mapping(image["properties"], "image.properties") if "properties" in image else image
        texts = {name: self._text(node, f"properties.{name}") for name, node in extra.items()}
        values = {name: _value(node) for name, node in own.items()}
        name, image_name = (str(_value(one["name"])) if "name" in one else "" for one in (fields, image))
        if self._problems:
            raise InputError.of(tuple(self._problems))
        return (
            Flavor(name=name, vcpus=vcpus, memory_mb=memory, extra_specs=MappingProxyType(texts)),
            Image(name=image_name, properties=MappingProxyType(values)),
        )

    def _fault(self, node: Node | None, field: str, message: str, hint: str = "") -> None:
        line, column = (node.line, node.column) if node is not None else (None, None)
        self._problems.append(Problem(file=self._file, line=line, column=column, field=field, message=message, hint=hint))

    def _mapping(self, node: Node, field: str) -> dict[str, Node]:
        if isinstance(node.value, dict):
            return {name: entry.node for name, entry in node.value.items()}
        self._fault(node, field, "a mapping is expected here", "see openstack flavor show -f json")
        return {}

    def _count(self, fields: dict[str, Node], name: str, *, most: int) -> int:
        node = fields.get(name)
        value = node.value if node is not None else None
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most:
            return value
        self._fault(node, name, f"a whole number from 1 to {most} is expected" if node is not None else "is missing")
        return 1

    def _text(self, node: Node, field: str) -> str:
        if isinstance(node.value, dict | list):
            self._fault(node, field, "a text is expected here")
            return ""
        return str(_value(node))


def _value(node: Node) -> Property:
    if isinstance(node.value, dict):
        return {name: _value(entry.node) for name, entry in node.value.items()}
    if isinstance(node.value, list):
        return [_value(one) for one in node.value]
    return node.value
