"""What Kubernetes lacks: whole cores only, siblings preferred, a core never shared with another VM, one L3 group for all CPUs.

Each mode narrows what is offered to the kubelet's allocator, or how it walks; the choice among what is offered stays the kubelet's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from quietcore.model import CpuSet, GuestShape, Reason, Refusal
from quietcore.placement.host_books import HostBooks
from quietcore.placement.packed import node_order
from quietcore.placement.topology import Group


def narrowed(books: HostBooks, guest: GuestShape) -> HostBooks:
    """The books as the guest's thread policy lets its VM see them."""
    match guest.thread_policy if guest.dedicated_vcpus else "none":
        case "none":
            return books
        case "prefer":
            packed = replace(books.policy.options, distribute_cpus_across_cores=False)
            return books.with_policy(replace(books.policy, options=packed))
        case "require" | "isolate":
            return books.offering(free_cores(books))


def free_cores(books: HostBooks) -> CpuSet:
    """The CPUs of cores on which nobody owns or reserves a thread."""
    free = books.available.mask
    mask = 0
    for core in books.topology.cores:
        if not core.mask & ~free:
            mask |= core.mask
    return CpuSet(mask)


def widened(books: HostBooks, guest: GuestShape, cpus: CpuSet) -> CpuSet:
    """What the VM owns for the CPUs that it was given: under `isolate` the rest of each core too, so that nobody else runs there."""
    if guest.thread_policy != "isolate":
        return cpus
    return CpuSet(books.topology.mask_of_whole_cores(cpus.mask))


def broken_cores(books: HostBooks, guest: GuestShape, cpus: CpuSet) -> Refusal | None:
    """The refusal of CPUs that are not whole cores, under `require`."""
    if guest.thread_policy != "require" or books.topology.mask_of_whole_cores(cpus.mask) == cpus.mask:
        return None
    per_core = books.topology.cpus_per_core
    message = f"thread policy require: {len(cpus)} CPUs are not whole cores of {per_core} threads"
    reason = Reason(constraint="whole-cores", message=message, wanted=f"a multiple of {per_core} CPUs", free=str(len(cpus)))
    return Refusal(message=message, reasons=(reason,))


def l3_groups(books: HostBooks) -> Iterator[tuple[Group, HostBooks]]:
    """Each L3 group with free CPUs and the books that offer it alone: the fullest NUMA node first and in it the fullest group."""
    free = books.available
    for node in node_order(books.topology, free):
        inside = [(common & free.mask, group) for group, common in books.topology.uncores_of_node[node.id] if common & free.mask]
        for mask, group in sorted(inside, key=lambda one: (one[0].bit_count(), one[1].id)):
            yield group, books.offering(CpuSet(mask))


def no_l3_group(books: HostBooks, wanted: int) -> Refusal:
    """The refusal of a VM that no L3 group can hold."""
    message = f"no L3 group has {wanted} CPUs to give that fit the VM's other constraints"
    free = books.available
    reasons = tuple(
        Reason(
            constraint="single-l3",
            message=f"L3 group {group.id} has {(group.mask & free.mask).bit_count()} free CPUs of {wanted} wanted",
            node=next((node.id for node in books.topology.nodes if node.mask & group.mask), None),
            wanted=str(wanted),
            free=str((group.mask & free.mask).bit_count()),
        )
        for group in books.topology.uncores
    )
    return Refusal(message=message, reasons=reasons)
