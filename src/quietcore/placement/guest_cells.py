"""The guest's NUMA cells under guestMappingPassthrough: one per host node that its vCPUs are pinned to.

The rules are those of KubeVirt's `numaMapping`: cells in host order, memory split evenly by cell in whole pages, distances copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from quietcore.model import GuestCell, Machine, MemoryBinding, Quantity, Reason, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestNuma:
    """The cells of a guest and, in the same order, the host memory that each of them is bound to strictly."""

    cells: tuple[GuestCell, ...]
    memory: tuple[MemoryBinding, ...]


def guest_cells(machine: Machine, pins: Mapping[int, int], memory_bytes: int, page_bytes: int | None) -> GuestNuma | Refusal:
    """Build the cells from the pins (vCPU -> pCPU) and the guest's memory.

    Guest cells are numbered from 0 in the order of the host's nodes, which may be sparse. vCPUs without a pin belong to no
    cell. The first cells get one page more where the pages do not divide. A refusal carries KubeVirt's message.
    """
    node_of = {cpu.cpu: cpu.node for cpu in machine.cpus}
    unknown = [(vcpu, pcpu) for vcpu, pcpu in pins.items() if pcpu not in node_of]
    if unknown:
        return _refuse("vcpu-on-known-cpu", *(f"vcpu {vcpu} is mapped to a not existing host cpu set {pcpu}" for vcpu, pcpu in unknown))
    if page_bytes is None:
        return _refuse("hugepages", "passing through a numa topology is restricted to VMIs with hugepages enabled")

    members: dict[int, list[int]] = {}
    for vcpu, pcpu in pins.items():
        members.setdefault(node_of[pcpu], []).append(vcpu)
    hosts = [node.node for node in machine.nodes if node.node in members]
    sizes = split_memory(memory_bytes, page_bytes, len(hosts))
    if isinstance(sizes, Refusal):
        return sizes

    guest_of = {host: guest for guest, host in enumerate(hosts)}
    cells = tuple(
        GuestCell(
            cell=guest_of[host],
            node=host,
            vcpus=tuple(members[host]),
            memory_bytes=size,
            distances=_translate(machine.node(host).distances, guest_of),
        )
        for host, size in zip(hosts, sizes, strict=True)
    )
    kind = hugepage_type(page_bytes)
    return GuestNuma(cells=cells, memory=tuple(MemoryBinding(node=cell.node, type=kind, size_bytes=cell.memory_bytes) for cell in cells))


def split_memory(memory_bytes: int, page_bytes: int, cells: int) -> tuple[int, ...] | Refusal:
    """Bytes per cell: whole pages, even by cell (not by vCPU), one more in the first cells where they do not divide."""
    if memory_bytes < cells * page_bytes:
        cause = f"not enough memory requested to allocate at least one hugepage per numa node: {memory_bytes} < {cells * page_bytes}"
        return _refuse("page-per-cell", cause, wanted=f"{cells} pages of {page_bytes} bytes", free=f"{memory_bytes} bytes")
    if memory_bytes % page_bytes:
        cause = f"requested memory can't be divided through the numa page size: {memory_bytes} mod {page_bytes} != 0"
        return _refuse("whole-pages", cause)
    if not cells:
        return ()
    pages, longer = divmod(memory_bytes // page_bytes, cells)
    return tuple((pages + (cell < longer)) * page_bytes for cell in range(cells))


@cache
def hugepage_type(page_bytes: int) -> str:
    """The resource name of a page size: 2097152 -> "hugepages-2Mi"."""
    return f"hugepages-{Quantity(Quantity.of(page_bytes).amount, 'binary')}"


def _translate(distances: Mapping[int, int], guest_of: Mapping[int, int]) -> Mapping[int, int]:
    return MappingProxyType({guest_of[host]: value for host, value in distances.items() if host in guest_of})


def _refuse(constraint: str, *causes: str, wanted: str = "", free: str = "") -> Refusal:
    # KubeVirt stops at the first pin; all of them are reasons, and the first one is the message.
    prefix = "failed to generate numa pinning information: " if constraint == "vcpu-on-known-cpu" else ""
    return Refusal(
        message=prefix + causes[0],
        reasons=tuple(Reason(constraint=constraint, message=cause, wanted=wanted, free=free) for cause in causes),
    )
