"""Hugepages booked so that no admitted VM can lack pages on one node when QEMU starts.

The kubelet checks free pages only as a sum over a group of nodes. A guest cell is bound strictly to one node, and a VM that is
bound to several takes its pages from wherever the kernel likes. A claim is therefore safe only when it is met even if every
other claim that touches its nodes is served from exactly these nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from quietcore.model import Entry, LauncherPod, Ledger, Machine, MemoryBinding, MemoryBlock, Options, Reason, Refusal, VmName
from quietcore.placement.guest_cells import hugepage_type
from quietcore.placement.hints import mask_of, nodes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PageClaim:
    """Hugepages that a VM takes from the nodes of a mask. `held` means that QEMU has all of them already, and keeps them."""

    vm: VmName
    nodes: int
    type: str
    size_bytes: int
    held: bool = False


def book_pages(
    pod: LauncherPod,
    machine: Machine,
    ledger: Ledger,
    options: Options,
    *,
    cells: Sequence[MemoryBinding] = (),
    blocks: Sequence[MemoryBlock] = (),
) -> tuple[PageClaim, ...] | Refusal:
    """Claim the pages of a VM: per guest cell where it has `cells`, else per block of the Memory Manager, else on any node.

    `ledger` is the whole ledger; what it holds for the same VM counts as given back. Pages that somebody else uses are taken
    from the machine's free counts where it has them. A refusal names each node set, what is wanted there and what is sure.
    """
    everywhere = mask_of(node.node for node in machine.nodes)
    wanted = _claims(pod.vm, cells, blocks, _guest_pages(pod.guest.hugepage_bytes, pod.guest.memory_bytes), everywhere, held=False)
    held = [claim for entry in ledger.entries for claim in entry_claims(entry, everywhere)]
    others = [claim for claim in held if claim.vm != pod.vm]
    room = _Room.of(machine, held, options.reserved_memory)
    touched = [claim for claim in others if not claim.held and any(_meet(claim, new) for new in wanted)]
    reasons = tuple(
        reason for claim in (*wanted, *touched) if (reason := room.shortage(claim, [*others, *wanted], newcomer=pod.vm)) is not None
    )
    if not reasons:
        return wanted
    return Refusal(message=reasons[0].message, vm=pod.vm, reasons=reasons)


def entry_claims(entry: Entry, everywhere: int) -> tuple[PageClaim, ...]:
    """The pages of a VM in the books; a stopped one has none. Cells of a running VM are allocated at its start, all at once."""
    plan = entry.plan
    if plan is None:
        return ()
    blocks = [block for assignment in plan.assignments for block in assignment.memory]
    guest = _guest_pages(entry.spec.memory.hugepage_bytes, entry.spec.memory.guest_bytes)
    bound = plan.memory if plan.cells else ()
    return _claims(plan.vm, bound, blocks, guest, everywhere, held=bool(plan.cells) and entry.phase == "running")


def _guest_pages(page_bytes: int | None, guest_bytes: int) -> tuple[str, int] | None:
    return None if page_bytes is None else (hugepage_type(page_bytes), guest_bytes)


def _claims(
    vm: VmName,
    cells: Iterable[MemoryBinding],
    blocks: Iterable[MemoryBlock],
    guest: tuple[str, int] | None,
    everywhere: int,
    *,
    held: bool,
) -> tuple[PageClaim, ...]:
    bound = [(1 << cell.node, cell.type, cell.size_bytes) for cell in cells] or [
        (mask_of(block.nodes), block.type, block.size_bytes) for block in blocks
    ]
    pages = [one for one in bound if one[1].startswith("hugepages-") and one[2]]
    if not pages and guest is not None:
        pages = [(everywhere, *guest)]
    return tuple(PageClaim(vm=vm, nodes=nodes, type=kind, size_bytes=size, held=held) for nodes, kind, size in pages)


def _meet(one: PageClaim, other: PageClaim) -> bool:
    return one.type == other.type and bool(one.nodes & other.nodes)


@dataclass(frozen=True, slots=True)
class _Room:
    """Bytes of pages that VMs can have: (node, type) -> bytes."""

    sizes: Mapping[tuple[int, str], int]

    @classmethod
    def of(cls, machine: Machine, claims: Sequence[PageClaim], reserved: Mapping[int, Mapping[str, int]]) -> _Room:
        sizes = {}
        for node in machine.nodes:
            for page_bytes, count in node.hugepages.items():
                kind = hugepage_type(page_bytes)
                used = 0 if node.free_hugepages is None else page_bytes * (count - node.free_hugepages.get(page_bytes, count))
                ours = sum(claim.size_bytes for claim in claims if claim.type == kind and claim.nodes >> node.node & 1)
                kept = max(reserved.get(node.node, {}).get(kind, 0), used - ours)
                sizes[node.node, kind] = max(page_bytes * count - kept, 0)
        return cls(sizes)

    def on(self, nodes: int, kind: str) -> int:
        return sum(self.sizes.get((node, kind), 0) for node in nodes_of(nodes))

    def shortage(self, claim: PageClaim, claims: Sequence[PageClaim], *, newcomer: VmName) -> Reason | None:
        """Why the claim could fail beside the others, or None."""
        rivals = [other for other in claims if other is not claim and _meet(other, claim)]
        taken = sum(min(other.size_bytes, self.on(other.nodes & claim.nodes, claim.type)) for other in rivals)
        free = self.on(claim.nodes, claim.type) - taken
        if claim.size_bytes <= free:
            return None
        nodes = nodes_of(claim.nodes)
        where = f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {','.join(map(str, nodes))}"
        sure = max(free, 0)
        sentence = f"{where} can give {sure} bytes of {claim.type} for certain, {claim.size_bytes} are wanted"
        if claim.vm != newcomer:
            sentence = f"{claim.vm} could lack pages: {sentence} by it"
        return Reason(
            constraint="pages-on-node",
            message=sentence,
            node=nodes[0] if len(nodes) == 1 else None,
            wanted=str(claim.size_bytes),
            free=str(sure),
        )
