"""The guest's NUMA cells and the host nodes that their memory is bound to."""

from __future__ import annotations

from quietcore.domain.draft import Draft, add, comma_list
from quietcore.domain.memory import needs_sharing


def contribute(draft: Draft) -> None:
    """Write <cpu><numa> and <numatune>.

    With guestMappingPassthrough each cell is bound strictly to its node. Without it the guest sees one node, and its memory is bound
    to the nodes that the Memory Manager booked, as the kubelet does it through cpuset.mems.
    """
    if draft.plan.cells:
        _passed_through(draft)
        return
    memory = draft.spec.memory
    if (memory.hugepage_bytes is not None and memory.memfd) or needs_sharing(draft):
        # libvirt makes memfd and shared memory only for a guest with cells; KubeVirt's synthetic one (converter/compute/cpu.go).
        vcpus = int(draft.section("vcpu").text or 0)
        cpus = f"0-{vcpus - 1}" if vcpus > 1 else "0"
        add(draft.section("cpu/numa"), "cell", id=0, cpus=cpus, memory=memory.guest_bytes // 1024, unit="KiB")
    nodes = tuple(sorted({binding.node for binding in draft.plan.memory}))
    if nodes and draft.build.bind_memory:
        add(draft.section("numatune"), "memory", mode="strict", nodeset=comma_list(nodes))


def _passed_through(draft: Draft) -> None:
    numa, tune = draft.section("cpu/numa"), draft.section("numatune")
    add(tune, "memory", mode="strict", nodeset=comma_list(tuple(cell.node for cell in draft.plan.cells)))
    for cell in draft.plan.cells:
        made = add(numa, "cell", id=cell.cell, cpus=comma_list(cell.vcpus), memory=cell.memory_bytes, unit="b")
        if cell.distances:
            distances = add(made, "distances")
            for other, value in cell.distances.items():
                add(distances, "sibling", id=other, value=value)
        add(tune, "memnode", cellid=cell.cell, mode="strict", nodeset=cell.node)
