"""Memory and hugepages of the compute container (KubeVirt's renderresources.go, in its order)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from quietcore.model import Quantity, VmSpec
from quietcore.pod.cluster import Cluster
from quietcore.pod.overhead import memory_overhead, overhead_inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryResources:
    """Requests and limits by resource name."""

    requests: Mapping[str, Quantity]
    limits: Mapping[str, Quantity]


def binary(size_bytes: int) -> Quantity:
    """A number of bytes that prints with Ki, Mi, Gi where that needs no fraction."""
    return Quantity(Fraction(size_bytes), "binary")


def hugepages_name(page_bytes: int) -> str:
    """The resource name of a page size: `hugepages-2Mi`."""
    return f"hugepages-{binary(page_bytes)}"


def compute_memory(spec: VmSpec, cluster: Cluster) -> MemoryResources:
    """What compute asks for: guest and overhead, or the overhead alone beside hugepages.

    A VM with dedicated CPUs always gets request = limit, also under overcommitGuestOverhead, where KubeVirt's pod stops
    being Guaranteed and then fails. Hugepages are the guest's memory, rounded up to whole pages: KubeVirt takes a smaller
    requests.memory at its word, and QEMU then finds too few pages.
    """
    request = _request(spec, cluster)
    limit = request if spec.cpu.dedicated else spec.resources.memory_limit
    guest = spec.memory.guest_bytes
    overhead = binary(memory_overhead(overhead_inputs(spec), cluster.overhead_ratio))
    page = spec.memory.hugepage_bytes
    if page is not None:
        pages = binary(-(-guest // page) * page)
        requests = {"memory": _beyond(request, guest) + overhead, hugepages_name(page): pages}
        limits = {hugepages_name(page): pages}
        if limit is not None:
            limits["memory"] = _beyond(limit, guest) + overhead
        return MemoryResources(requests=requests, limits=limits)
    keeps_overhead = spec.cpu.dedicated or not spec.resources.overcommit_guest_overhead
    requested = request + overhead if keeps_overhead else request
    if limit is not None:
        return MemoryResources(requests={"memory": requested}, limits={"memory": limit + overhead})
    if cluster.auto_memory_limit_ratio is not None:
        return MemoryResources(
            requests={"memory": requested}, limits={"memory": binary(int(requested.amount * cluster.auto_memory_limit_ratio))}
        )
    return MemoryResources(requests={"memory": requested}, limits={})


def _request(spec: VmSpec, cluster: Cluster) -> Quantity:
    if spec.resources.memory_request is not None:
        return spec.resources.memory_request
    if spec.resources.memory_limit is not None:
        return spec.resources.memory_limit
    return binary(spec.memory.guest_bytes * 100 // cluster.memory_overcommit_percent)


def _beyond(amount: Quantity, guest_bytes: int) -> Quantity:
    return binary(max(amount.value - guest_bytes, 0))
