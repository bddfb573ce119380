"""Why a VM does not fit: every constraint that failed, on which node, what was wanted and what was free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from quietcore.model import LauncherPod, Reason, Refusal
from quietcore.placement.cpu_hints import requested_by_pod
from quietcore.placement.host_books import HostBooks
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
    more = tuple(_shortages(refusal, pod, books))
    counted = {reason.constraint for reason in more}
    return replace(refusal, reasons=(*(one for one in refusal.reasons if one.constraint not in counted), *more))


def _shortages(refusal: Refusal, pod: LauncherPod, books: HostBooks) -> Iterator[Reason]:
    wanted = wanted_cpus(pod, books)
    free = narrowed(books, pod.guest).available
    if wanted > len(free):
        message = f"{wanted} exclusive CPUs are wanted and {len(free)} are free"
        yield Reason(constraint="cpus", message=message, wanted=str(wanted), free=str(len(free)))
    elif refusal.reason != AFFINITY_ERROR:
        return
    for node in books.topology.nodes:
        inside = (node.mask & free.mask).bit_count()
        if inside < wanted:
            message = f"NUMA node {node.id} has {inside} free CPUs of {wanted} wanted"
            yield Reason(constraint="cpus-on-node", message=message, node=node.id, wanted=str(wanted), free=str(inside))
