"""The nearest change with which a refused VM would fit; each suggestion was tried before it is made.

At most two trials, so that "no" stays about as quick as "yes".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from quietcore.model import Container, CpuSet, GuestTopology, LauncherPod, NearestFit, Plan, Quantity, Refusal, VmName
from quietcore.placement.explain import wanted_cpus
from quietcore.placement.hints import fewest_nodes
from quietcore.placement.host_books import HostBooks
from quietcore.placement.modes import narrowed
from quietcore.placement.topology_manager import AFFINITY_ERROR

Decide: TypeAlias = Callable[[LauncherPod, HostBooks], Plan | Refusal]
RELAXED: Final = "best-effort"


def nearest_fit(refusal: Refusal, pod: LauncherPod, books: HostBooks, decide: Decide) -> NearestFit | None:
    """What would have to change: another policy or mode, else one VM moved away, else fewer CPUs; None where nothing of it helps."""
    wanted = wanted_cpus(pod, books)
    gaps = tuple(_memory_gaps(refusal))
    if gaps:
        trial = _moved_for_memory(pod, books, gaps)
        return NearestFit(change=trial.change, vm=trial.vm) if trial and isinstance(decide(pod, trial.books), Plan) else None
    if not wanted:
        return None
    looser = _looser(refusal, pod, books, wanted)
    if looser is not None and isinstance(decide(looser.pod, looser.books), Plan):
        return NearestFit(change=looser.change)
    for suggest in (_moved, _fewer) if looser is None else (_moved,):
        trial = suggest(pod, books, wanted)
        if trial is not None and isinstance(decide(trial.pod, trial.books), Plan):
            return NearestFit(change=trial.change, vm=trial.vm)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A changed pod on changed books, and the change in words."""

    change: str
    pod: LauncherPod
    books: HostBooks
    vm: VmName | None = None


def _looser(refusal: Refusal, pod: LauncherPod, books: HostBooks, wanted: int) -> _Trial | None:
    """The one policy or mode whose loosening goes to the cause of this refusal."""
    guest = pod.guest
    if wanted > len(books.available):
        return None
    if refusal.reason == AFFINITY_ERROR:
        relaxed = replace(books, options=replace(books.options, topology_policy=RELAXED))
        return _Trial(change=f"use the topology policy {RELAXED} instead of {books.options.topology_policy}", pod=pod, books=relaxed)
    if any(reason.constraint == "single-l3" for reason in refusal.reasons):
        wide = replace(pod, guest=replace(guest, single_l3=False))
        return _Trial(change="let the VM's CPUs lie in several L3 groups", pod=wide, books=books)
    if guest.thread_policy in ("require", "isolate") and guest.dedicated_vcpus:
        sharing = replace(pod, guest=replace(guest, thread_policy="prefer"))
        return _Trial(change=f"use the thread policy prefer instead of {guest.thread_policy}", pod=sharing, books=books)
    return None


def _moved(pod: LauncherPod, books: HostBooks, wanted: int) -> _Trial | None:
    """The smallest VM whose CPUs close the gap: of the whole machine or, where there is none, of some node (or L3 group)."""
    free = narrowed(books, pod.guest).available
    if wanted > len(free) and not pod.guest.single_l3:
        gaps = [(wanted - len(free), books.topology.all_mask)]
    else:
        groups = books.topology.uncores if pod.guest.single_l3 else books.topology.nodes
        inside = [(group, (group.mask & free.mask).bit_count()) for group in groups]
        gaps = [(wanted - count, group.mask) for group, count in inside if count < wanted <= group.mask.bit_count()]
    helpful = [
        (len(plan.exclusive), plan.vm)
        for plan in books.ledger.plans
        if any((plan.exclusive.mask & mask).bit_count() >= gap for gap, mask in gaps)
    ]
    if not helpful:
        return None
    vm = min(helpful)[1]
    return _Trial(change=f"move {vm} away", pod=pod, books=books.without(vm), vm=vm)


def _memory_gaps(refusal: Refusal) -> Iterator[tuple[int | None, int]]:
    """(node or None for all of them, missing bytes) of every reason that is about memory or pages as such."""
    for reason in refusal.reasons:
        kind = reason.constraint
        of_memory = kind in ("memory", "pages-on-node") or (kind.startswith("hugepages-") and not kind.endswith("-on-node"))
        if of_memory and reason.wanted.isdecimal() and reason.free.isdecimal():
            yield reason.node, int(reason.wanted) - int(reason.free)


def _moved_for_memory(pod: LauncherPod, books: HostBooks, gaps: Sequence[tuple[int | None, int]]) -> _Trial | None:
    """The VM with the least memory that closes one of the gaps."""
    helpful = []
    for plan in books.ledger.plans:
        booked = [(block.nodes, block.size_bytes) for assignment in plan.assignments for block in assignment.memory]
        booked += [((binding.node,), binding.size_bytes) for binding in plan.memory if plan.cells]
        given = {node: sum(size for nodes, size in booked if node is None or node in nodes) for node, _ in gaps}
        if any(given[node] >= gap for node, gap in gaps):
            helpful.append((sum(size for _, size in booked), plan.vm))
    if not helpful:
        return None
    vm = min(helpful)[1]
    return _Trial(change=f"move {vm} away", pod=pod, books=books.without(vm), vm=vm)


def _fewer(pod: LauncherPod, books: HostBooks, wanted: int) -> _Trial | None:
    """The pod with as many CPUs as can be had, in whole cores where those are asked for."""
    guest = pod.guest
    free = narrowed(books, guest).available
    count = _most(books, free, wanted - 1)
    if guest.single_l3:
        count = min(count, max((group.mask & free.mask).bit_count() for group in books.topology.uncores))
    per_core = books.topology.cpus_per_core
    if (books.options.cpu.full_pcpus_only or guest.thread_policy == "require") and per_core:
        count -= count % per_core
    vcpus = count - guest.io_cpus - guest.emulator_cpus
    held = [container for container in pod.containers if container.name == guest.vcpu_container]
    if vcpus < 1 or not held or books.policy.exclusive_count(pod, held[0]) != wanted:
        return None
    smaller = replace(
        guest,
        topology=_topology(guest.topology, vcpus),
        dedicated_vcpus=frozenset(range(vcpus)),
        realtime_vcpus=guest.realtime_vcpus & frozenset(range(vcpus)),
    )
    containers = tuple(_asking(container, count) if container is held[0] else container for container in pod.containers)
    change = f"ask for {count} CPU{'s' if count > 1 else ''} instead of {wanted}"
    return _Trial(change=change, pod=replace(pod, guest=smaller, containers=containers), books=books)


def _most(books: HostBooks, free: CpuSet, limit: int) -> int:
    """The most CPUs up to the limit for which the topology policy would still find a preferred set of nodes, where it wants one."""
    if books.options.topology_policy in ("none", "best-effort"):
        return min(len(free), limit)
    sizes = {node.id: node.mask.bit_count() for node in books.topology.nodes}
    inside = sorted(((node.mask & free.mask).bit_count() for node in books.topology.nodes), reverse=True)
    nodes = 1 if books.options.topology_policy == "single-numa-node" else len(inside)
    counts = [(size, min(sum(inside[:size]), limit)) for size in range(1, nodes + 1)]
    return max((count for size, count in counts if count and fewest_nodes(sizes, count) == size), default=0)


def _topology(topology: GuestTopology, vcpus: int) -> GuestTopology:
    if vcpus % topology.threads:
        return GuestTopology(cores=vcpus)
    return GuestTopology(cores=vcpus // topology.threads, threads=topology.threads)


def _asking(container: Container, count: int) -> Container:
    cpus = {"cpu": Quantity.of(count)}
    return replace(container, requests=_with(container.requests, cpus), limits=_with(container.limits, cpus))


def _with(amounts: Mapping[str, Quantity], cpus: Mapping[str, Quantity]) -> Mapping[str, Quantity]:
    return MappingProxyType({**amounts, **cpus})
