"""CPUs, NUMA, real time and memory of a libvirt domain in KubeVirt's words."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from lxml import etree

from quietcore.model import CpuSet, DomainFacts, GuestTopology, Quantity, VcpuSched

DEDICATED_VCPUS: Final = "quietcore.io/dedicated-vcpus"
PRIORITY: Final = "quietcore.io/realtime-priority"
STRATEGY: Final = "quietcore.io/strategy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A domain on its way into a manifest: what is known of it, and what was collected beside the manifest's spec."""

    found: DomainFacts
    annotations: dict[str, str]
    notes: list[str]


def cpu_part(root: etree._Element, taken: Import) -> dict[str, object]:
    """The parts of `spec.domain` that concern CPUs and memory; adds annotations and notes."""
    found, notes = taken.found, taken.notes
    cpu: dict[str, object] = _topology(found, notes)
    model = _model(root, found, notes)
    if model:
        cpu["model"] = model
    features = [{"name": one.get("name", ""), "policy": one.get("policy", "require")} for one in root.findall("cpu/feature")]
    if features:
        cpu["features"] = features
    dedicated = _dedicated(found, notes)
    if dedicated:
        cpu["dedicatedCpuPlacement"] = True
        if len(dedicated) < found.vcpus:
            taken.annotations[DEDICATED_VCPUS] = str(CpuSet.from_iterable(dedicated))
        _emulator(taken, dedicated, cpu)
    _numa(found, cpu, notes, dedicated=bool(dedicated))
    _realtime(taken, dedicated, cpu)
    if found.quota:
        notes.append("CPU quotas are not carried over: a quota throttles vCPU threads in the middle of their work")
    memory: dict[str, object] = {"guest": str(Quantity(Fraction(found.memory_bytes), "binary"))}
    if found.hugepages:
        memory["hugepages"] = {"pageSize": _page_size(found, notes)}
    if found.locked and "realtime" not in cpu:
        notes.append("locked memory needs memory.reservedOverhead.memLock: Required and its feature gate; add it if the cluster has that")
    domain: dict[str, object] = {"cpu": cpu, "memory": memory}
    _iothreads(found, domain, notes)
    return domain


def _topology(found: DomainFacts, notes: list[str]) -> dict[str, object]:
    topology = found.topology or GuestTopology(sockets=found.max_vcpus)
    per_socket = topology.cores * topology.threads
    if found.vcpus % per_socket == 0:
        # The ceiling is said also where it is the number itself: else KubeVirt adds sockets for later.
        return {"sockets": found.vcpus // per_socket, "cores": topology.cores, "threads": topology.threads, "maxSockets": topology.sockets}
    notes.append(f"{found.vcpus} of {topology.vcpus} vCPUs are no whole sockets; the guest gets {found.vcpus} sockets of one vCPU")
    return {"sockets": found.vcpus, "cores": 1, "threads": 1}


def _model(root: etree._Element, found: DomainFacts, notes: list[str]) -> str:
    if found.cpu_mode in {"host-model", "host-passthrough"}:
        return found.cpu_mode
    if found.cpu_mode == "maximum":
        notes.append("CPU mode maximum has no equivalent; host-passthrough comes closest under KVM")
        return "host-passthrough"
    return root.findtext("cpu/model", "")


def _dedicated(found: DomainFacts, notes: list[str]) -> frozenset[int]:
    """The vCPUs that have a CPU that no other vCPU has."""
    pins = {vcpu: cpus for vcpu, cpus in found.vcpu_pins.items() if vcpu < found.vcpus}
    single = {vcpu: cpus.lowest for vcpu, cpus in pins.items() if len(cpus) == 1}
    owners = list(single.values())
    shared = sorted(vcpu for vcpu, cpu in single.items() if owners.count(cpu) > 1)
    if shared:
        notes.append(f"vCPUs {_list(shared)} share a CPU with another vCPU; they become shared vCPUs")
    wide = sorted(vcpu for vcpu, cpus in pins.items() if len(cpus) > 1)
    if wide:
        notes.append(f"vCPUs {_list(wide)} are pinned to several CPUs each; they become shared vCPUs")
    dedicated = frozenset(single) - frozenset(shared)
    if dedicated:
        cpus = CpuSet.from_iterable(single[vcpu] for vcpu in dedicated)
        notes.append(f"the pins to CPUs {cpus} are not carried over: placement chooses the CPUs; adopt the running VM to keep them")
    return dedicated


def _emulator(taken: Import, dedicated: frozenset[int], cpu: dict[str, object]) -> None:
    found, annotations = taken.found, taken.annotations
    if found.strategy is not None:
        annotations[STRATEGY] = found.strategy
    if found.emulator_pin is None:
        return
    own = CpuSet.from_iterable(found.vcpu_pins[vcpu].lowest for vcpu in dedicated)
    if found.emulator_pin.isdisjoint(own):
        cpu["isolateEmulatorThread"] = True
        # Under KubeVirt this costs a CPU of its own; here the emulator runs on the shared pool, as it does in most such domains.
        annotations.setdefault(STRATEGY, "dedicated")
    else:
        taken.notes.append(f"the emulator is pinned to {found.emulator_pin}, the vCPUs' own CPUs; here it stays off them")


def _numa(found: DomainFacts, cpu: dict[str, object], notes: list[str], *, dedicated: bool) -> None:
    wants = bool(found.memnodes)
    if wants and dedicated and found.hugepages:
        cpu["numa"] = {"guestMappingPassthrough": {}}
        notes.append("the guest's NUMA cells follow from the placement, with memory split evenly by cell; their sizes are not carried over")
        return
    if wants:
        notes.append("the binding of NUMA cells is not carried over: KubeVirt passes NUMA through only with dedicated CPUs and hugepages")
    elif len(found.cell_vcpus) > 1:
        notes.append("the guest's NUMA cells are not carried over: KubeVirt gives a guest several cells only with guestMappingPassthrough")
    if found.numa_nodes is not None and not wants:
        notes.append(f"memory bound to nodes {found.numa_nodes}: placement binds it to the nodes that it chooses")


def _realtime(taken: Import, dedicated: frozenset[int], cpu: dict[str, object]) -> None:
    found, notes = taken.found, taken.notes
    fifo: dict[int, VcpuSched] = {vcpu: one for vcpu, one in found.vcpu_scheds.items() if one.policy == "fifo" and vcpu < found.vcpus}
    others = sorted({one.policy for one in found.vcpu_scheds.values()} - {"fifo"})
    if others:
        notes.append(f"the scheduling policies {', '.join(others)} have no equivalent; only SCHED_FIFO has one")
    if not fifo:
        return
    if not (frozenset(fifo) <= dedicated and found.hugepages):
        notes.append("real-time vCPUs are not carried over: KubeVirt allows them only with dedicated CPUs, hugepages and NUMA passthrough")
        return
    if "numa" not in cpu:
        cpu["numa"] = {"guestMappingPassthrough": {}}
        notes.append("guestMappingPassthrough is added: KubeVirt demands it for real-time vCPUs")
    cpu["realtime"] = {} if len(fifo) == found.vcpus else {"mask": str(CpuSet.from_iterable(fifo))}
    priorities = sorted({one.priority for one in fifo.values()})
    if len(priorities) > 1:
        notes.append(f"the vCPUs' real-time priorities {_list(priorities)} become one, {priorities[-1]}")
    if priorities[-1] != 1:
        taken.annotations[PRIORITY] = str(priorities[-1])


def _page_size(found: DomainFacts, notes: list[str]) -> str:
    if not found.hugepage_bytes:
        notes.append("the size of the hugepages is the host's default and not said; 2Mi is assumed")
        return "2Mi"
    if len(found.hugepage_bytes) > 1:
        notes.append("hugepages of several sizes become one size, the smallest")
    return str(Quantity(Fraction(found.hugepage_bytes[0]), "binary"))


def _iothreads(found: DomainFacts, domain: dict[str, object], notes: list[str]) -> None:
    count = len(found.iothreads)
    if not count:
        return
    pins = [found.iothread_pins.get(thread, CpuSet()) for thread in found.iothreads]
    own = CpuSet.from_iterable(cpu for pin in pins for cpu in pin)
    vcpus = CpuSet.from_iterable(cpu for pin in found.vcpu_pins.values() for cpu in pin)
    if all(len(pin) == 1 for pin in pins) and len(own) == count and own.isdisjoint(vcpus | (found.emulator_pin or CpuSet())):
        domain["ioThreadsPolicy"] = "supplementalPool"
        domain["ioThreads"] = {"supplementalPoolThreadCount": count}
        return
    users = [disk.iothread for disk in found.disks if disk.iothread is not None]
    if count == 1 or len(set(users)) == len(users) == count:
        domain["ioThreadsPolicy"] = "shared"  # disks with a thread of their own say so themselves
        return
    domain["ioThreadsPolicy"] = "auto"
    notes.append(f"{count} I/O threads become the policy auto, which counts them by the requested CPUs")


def _list(numbers: list[int]) -> str:
    return ", ".join(str(number) for number in numbers)
