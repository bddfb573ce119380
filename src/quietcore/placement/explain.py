"""Why a VM does not fit: every constraint that failed, on which node, what was wanted and what was free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from quietcore.model import LauncherPod, Reason, Refusal
from quietcore.placement.cpu_hints import requested_by_pod
from quietcore.placement.host_books import HostBooks
from quietcore.placement.memory_manager import memory_hints, pod_requests
from quietcore.placement.modes import narrowed
from quietcore.placement.pod_level import pod_count
from quietcore.placement.topology_manager import AFFINITY_ERROR


def wanted_cpus(pod: LauncherPod, books: HostBooks) -> int:
    """The exclusive CPUs that the pod needs at once."""
    return pod_count(pod) if books.policy.is_pod_level(pod) else requested_by_pod(books.policy, pod)


def with_reasons(refusal: Refusal, pod: LauncherPod, books: HostBooks) -> Refusal:
    """The refusal with the constraints that the kubelet did not come to, since it stops at the first one.

    Its own count of CPUs is replaced: it speaks of the second of two runs.
    """
    aligned = refusal.reason == AFFINITY_ERROR
    more = (*_cpu_shortages(pod, books, aligned=aligned), *_memory_shortages(pod, books, aligned=aligned))
    counted = {reason.constraint for reason in more}
    return replace(refusal, reasons=(*(one for one in refusal.reasons if one.constraint not in counted), *more))


def _cpu_shortages(pod: LauncherPod, books: HostBooks, *, aligned: bool) -> Iterator[Reason]:
    wanted = wanted_cpus(pod, books)
    free = narrowed(books, pod.guest).available
    if wanted > len(free):
        message = f"{wanted} exclusive CPUs are wanted and {len(free)} are free"
        yield Reason(constraint="cpus", message=message, wanted=str(wanted), free=str(len(free)))
    elif not aligned:
        return
    for node in books.topology.nodes:
        inside = (node.mask & free.mask).bit_count()
        if inside < wanted:
            message = f"NUMA node {node.id} has {inside} free CPUs of {wanted} wanted"
            yield Reason(constraint="cpus-on-node", message=message, node=node.id, wanted=str(wanted), free=str(inside))


def _memory_shortages(pod: LauncherPod, books: HostBooks, *, aligned: bool) -> Iterator[Reason]:
    """Bytes of memory and hugepages, in all and by node, where the Memory Manager looks after the pod."""
    if memory_hints(books.memory, pod) is None:
        return
    for kind, wanted in pod_requests(pod).items():
        free = {node: memory.free(kind) for node, memory in books.memory.nodes.items()}
        total = sum(free.values())
        if wanted > total:
            message = f"{wanted} bytes of {kind} are wanted and {total} are free"
            yield Reason(constraint=kind, message=message, wanted=str(wanted), free=str(total))
        elif not aligned:
            continue
        for node, inside in free.items():
            if inside < wanted:
                message = f"NUMA node {node} has {inside} free bytes of {kind}, {wanted} are wanted"
                yield Reason(constraint=f"{kind}-on-node", message=message, node=node, wanted=str(wanted), free=str(inside))
