"""Whole-pod admission: what the kubelet's managers and KubeVirt's launcher would decide about one VM, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from quietcore.model import (
    COMPUTE,
    Assignment,
    CpuSet,
    LauncherPod,
    Ledger,
    Machine,
    MemoryBinding,
    Options,
    Plan,
    Reason,
    Refusal,
    VcpuPlacement,
    union,
)
from quietcore.placement.cpu_hints import container_hints, pod_hints
from quietcore.placement.explain import with_reasons
from quietcore.placement.guest_cells import GuestNuma, guest_cells, hugepage_type
from quietcore.placement.hints import Hint, ProviderHints
from quietcore.placement.host_books import HostBooks
from quietcore.placement.memory_manager import allocate as allocate_memory
from quietcore.placement.memory_manager import drop_finished_init, memory_hints
from quietcore.placement.memory_state import MEMORY, MemoryState
from quietcore.placement.modes import broken_cores, l3_groups, narrowed, no_l3_group, widened
from quietcore.placement.nearest import nearest_fit
from quietcore.placement.packed import Taken, whole
from quietcore.placement.page_booking import book_pages
from quietcore.placement.pod_level import allocate_pod
from quietcore.placement.static_policy import counts
from quietcore.placement.topology_manager import ANY_NODE, admits, affinity_refusal, allocation_refusal, merge
from quietcore.placement.vcpu_order import SHARED, VcpuOrder, order_in_cells

_NOTHING = Taken(cpus=CpuSet())


def admit(pod: LauncherPod, machine: Machine, ledger: Ledger, options: Options) -> Plan | Refusal:
    """Decide what the VM gets on this machine beside the VMs of the ledger; an entry of the same VM counts as absent.

    A refusal carries the kubelet's (or KubeVirt's) text, every constraint that failed, and the nearest change that would fit.
    Raises InputError for options that contradict each other or the machine.
    """
    books = HostBooks.of(machine, ledger, options, pod.vm)
    answer = decide(pod, books)
    if isinstance(answer, Plan):
        return answer
    explained = with_reasons(answer, pod, books)
    return replace(explained, vm=pod.vm, nearest=nearest_fit(explained, pod, books, decide))


def decide(pod: LauncherPod, books: HostBooks) -> Plan | Refusal:
    """`admit` on open books, without the explanation of a refusal."""
    offered = narrowed(books, pod.guest)
    if not (pod.guest.single_l3 and pod.guest.dedicated_vcpus):
        return _place(pod, offered)
    for _, one_group in l3_groups(offered):
        answer = _place(pod, one_group)
        if isinstance(answer, Plan):
            return answer
    return no_l3_group(offered, counts(books.policy, pod, pod.containers))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Granted:
    """The CPUs of every container, with the rules that took them, the pod's own CPUs, and the memory books afterwards."""

    containers: Mapping[str, Taken]
    memory: MemoryState
    pod: CpuSet = CpuSet()


def _place(pod: LauncherPod, books: HostBooks) -> Plan | Refusal:
    """One attempt. CPUs in use are never handed out, not even where a kubelet of 1.36 does so (uneven machines)."""
    answer = _attempt(pod, books)
    in_use = answer.exclusive - _grantable(books) if isinstance(answer, Plan) else CpuSet()
    if not in_use:
        return answer
    sound = _attempt(pod, books.with_policy(replace(books.policy, compat="fixed")))
    if isinstance(sound, Refusal):
        return sound
    return replace(sound, notes=(*sound.notes, f"a kubelet of 1.36 would have handed out CPUs {in_use}, which are reserved or in use"))


def _grantable(books: HostBooks) -> CpuSet:
    return books.free - books.policy.reserved


def _attempt(pod: LauncherPod, books: HostBooks) -> Plan | Refusal:
    granted = _grant_pod(pod, books) if _is_pod_level(pod, books) else _grant_containers(pod, books)
    if isinstance(granted, Refusal):
        return granted
    owned = granted.containers.get(pod.guest.vcpu_container, _NOTHING)
    refusal = broken_cores(books, pod.guest, owned.cpus)
    if refusal is not None:
        return refusal
    order = _order(pod, books, owned)
    if isinstance(order, Refusal):
        return order
    numa = _guest_numa(pod, books, order, granted.memory)
    if isinstance(numa, Refusal):
        return numa
    blocks = [block for container in pod.containers for block in granted.memory.blocks(pod.uid, container.name)]
    pages = book_pages(pod, books.machine, books.whole_ledger, books.options, cells=numa.memory if numa.cells else (), blocks=blocks)
    return pages if isinstance(pages, Refusal) else _plan(pod, books, granted, order, numa)


def _is_pod_level(pod: LauncherPod, books: HostBooks) -> bool:
    policy = books.policy
    return policy.is_pod_level(pod) and policy.pod_level_resource_managers and books.options.topology_scope == "pod"


def _affinity(books: HostBooks, *providers: ProviderHints) -> Hint | Refusal:
    """The nodes on which the Topology Manager settles."""
    policy = books.options.topology_policy
    hint = merge(policy, books.numa, providers)
    return hint if admits(policy, hint) else affinity_refusal(policy, hint)


def _grant_pod(pod: LauncherPod, books: HostBooks) -> _Granted | Refusal:
    """The pod's CPUs at once; the Memory Manager takes no part in pods with resources of their own."""
    affinity = _affinity(books, pod_hints(books.policy, books.cpus, pod), memory_hints(books.memory, pod))
    if isinstance(affinity, Refusal):
        return affinity
    answer = allocate_pod(books.policy, books.cpus, pod, affinity.mask)
    if isinstance(answer, Refusal):
        return allocation_refusal(answer)
    containers = {name: whole(cpus, "from the CPUs of the pod as a whole") for name, cpus in answer.containers.items()}
    return _Granted(containers=containers, memory=books.memory, pod=answer.state.pod_assignments.get(pod.uid, CpuSet()))


def _grant_containers(pod: LauncherPod, books: HostBooks) -> _Granted | Refusal:
    """Container by container, as Kubernetes admits them: hints, merge, allocation; under pod scope the hints come once."""
    policy, cpus, memory = books.policy, books.cpus, books.memory
    once = books.options.topology_scope == "pod"
    affinity = _affinity(books, pod_hints(policy, cpus, pod), memory_hints(memory, pod)) if once else ANY_NODE
    granted: dict[str, Taken] = {}
    for container in pod.containers:
        if not once:
            affinity = _affinity(books, container_hints(policy, cpus, pod, container), memory_hints(memory, pod, container))
        if isinstance(affinity, Refusal):
            return affinity
        taken = policy.allocate(cpus, pod, container, affinity.mask)
        if isinstance(taken, Refusal):
            return allocation_refusal(taken)
        booked = allocate_memory(memory, pod, container, affinity)
        if isinstance(booked, Refusal):
            return allocation_refusal(booked)
        cpus, memory, granted[container.name] = taken.state, booked.state, taken.taken
    for container in pod.containers:
        memory = drop_finished_init(memory, pod, container) if container.role == "app" else memory
    return _Granted(containers=granted, memory=memory)


def _order(pod: LauncherPod, books: HostBooks, owned: Taken) -> VcpuOrder | Refusal:
    guest = pod.guest
    if not guest.dedicated_vcpus:
        return VcpuOrder(vcpus=tuple(VcpuPlacement(vcpu=vcpu, rule=SHARED) for vcpu in range(guest.topology.vcpus)))
    order = order_in_cells(
        books.hardware.cells_around(owned.cpus),
        owned.cpus,
        guest.topology,
        strict=guest.numa_passthrough,
        io_cpus=guest.io_cpus,
        emulator_cpus=guest.emulator_cpus if guest.strategy == "housekeeping" else 0,
        dedicated=guest.dedicated_vcpus,
    )
    if isinstance(order, Refusal):
        return order
    rules = {cpu: step.rule for step in owned.steps for cpu in step.cpus}
    return replace(order, vcpus=tuple(_completed(vcpu, rules, guest.realtime_vcpus) for vcpu in order.vcpus))


def _completed(vcpu: VcpuPlacement, rules: Mapping[int, str], realtime: frozenset[int]) -> VcpuPlacement:
    """The placement with its real-time flag and with the allocator's rule before KubeVirt's."""
    rule = vcpu.rule if vcpu.pcpu is None else f"{rules[vcpu.pcpu]}; {vcpu.rule}"
    return VcpuPlacement(vcpu=vcpu.vcpu, pcpu=vcpu.pcpu, node=vcpu.node, core=vcpu.core, realtime=vcpu.vcpu in realtime, rule=rule)


def _guest_numa(pod: LauncherPod, books: HostBooks, order: VcpuOrder, memory: MemoryState) -> GuestNuma | Refusal:
    """The guest's cells and their memory or, without cells, the nodes on which the Memory Manager booked the guest's memory."""
    guest = pod.guest
    if guest.numa_passthrough:
        pins = {vcpu.vcpu: vcpu.pcpu for vcpu in order.vcpus if vcpu.pcpu is not None}
        return guest_cells(books.machine, pins, guest.memory_bytes, guest.hugepage_bytes)
    kind = MEMORY if guest.hugepage_bytes is None else hugepage_type(guest.hugepage_bytes)
    nodes = sorted({node for block in memory.blocks(pod.uid, COMPUTE) if block.type == kind for node in block.nodes})
    rest, bindings = guest.memory_bytes, []
    for node in nodes:
        share = min(books.memory.nodes[node].free(kind) - memory.nodes[node].free(kind), rest)
        rest -= share
        if share:
            bindings.append(MemoryBinding(node=node, type=kind, size_bytes=share))
    return GuestNuma(cells=(), memory=tuple(bindings))


def _plan(pod: LauncherPod, books: HostBooks, granted: _Granted, order: VcpuOrder, numa: GuestNuma) -> Plan | Refusal:
    guest = pod.guest
    assignments = [
        Assignment(
            container=container.name,
            cpus=granted.containers.get(container.name, _NOTHING).cpus,
            memory=granted.memory.blocks(pod.uid, container.name),
        )
        for container in pod.containers
    ]
    assignments = [
        replace(one, cpus=widened(books, guest, one.cpus)) if one.container == guest.vcpu_container else one for one in assignments
    ]
    exclusive = union(one.cpus for one in assignments)
    if granted.pod - exclusive:
        assignments.append(Assignment(container="", cpus=granted.pod - exclusive))
        exclusive |= granted.pod
    shared = shared_pool(books) - exclusive
    used = CpuSet.from_iterable(vcpu.pcpu for vcpu in order.vcpus if vcpu.pcpu is not None)
    held = next((one.cpus for one in assignments if one.container == guest.vcpu_container), CpuSet())
    helpers = CpuSet.from_iterable(order.io) | order.emulator
    plan = Plan(
        vm=pod.vm,
        uid=pod.uid,
        strategy=guest.strategy,
        vcpus=order.vcpus,
        shared=shared,
        emulator=_emulator(pod, order, shared, held),
        io=MappingProxyType({thread: CpuSet.of(cpu) for thread, cpu in enumerate(order.io, 1)}),
        unpinned=held - used - helpers,
        memory=numa.memory,
        cells=numa.cells,
        assignments=tuple(assignments),
        notes=order.notes,
    )
    return empty_pool(plan, books) or plan


def shared_pool(books: HostBooks) -> CpuSet:
    """The pool before this VM; what a mode withheld from the VM is still everybody's."""
    return _grantable(books) if books.options.cpu.strict_cpu_reservation else books.free


def _emulator(pod: LauncherPod, order: VcpuOrder, shared: CpuSet, held: CpuSet) -> CpuSet:
    if not pod.guest.dedicated_vcpus or pod.guest.strategy == "dedicated":
        return shared
    return order.emulator or shared if pod.guest.strategy == "housekeeping" else held


def empty_pool(plan: Plan, books: HostBooks) -> Refusal | None:
    """The refusal of a plan after which threads of this or another VM would have no CPU to run on."""
    needy = [one.vm for one in (plan, *books.ledger.plans) if one.strategy == "dedicated" or not one.dedicated]
    if plan.shared or not needy:
        return None
    message = f"the shared pool would be empty, but threads of {needy[0]} run there"
    return Refusal(message=message, reasons=(Reason(constraint="shared-pool", message=message, wanted="1", free="0"),))
