"""The guest's memory and what backs it: hugepages, memfd, locking, sharing."""

from __future__ import annotations

from quietcore.domain.draft import Draft, add


def contribute(draft: Draft) -> None:
    """Write <memory> and <memoryBacking> (KubeVirt's memory_backing.go).

    There is no <maxMemory>: memory is not plugged in while the VM runs, its placement is fixed.
    """
    memory = draft.spec.memory
    add(draft.root, "memory", memory.guest_bytes, unit="b")
    add(draft.root, "currentMemory", memory.guest_bytes, unit="b")
    if memory.hugepage_bytes is not None:
        _hugepages(draft, memory.hugepage_bytes)
    if draft.spec.cpu.realtime is not None:
        draft.section("memoryBacking/nosharepages")
    if memory.locked and draft.build.may_lock_memory:
        draft.section("memoryBacking/locked")
    elif memory.locked:
        draft.notes.append("memory is not locked: this host does not let libvirt raise QEMU's limit of locked memory (CAP_SYS_RESOURCE)")
    shared = needs_sharing(draft)
    if shared or (memory.hugepage_bytes is not None and memory.memfd):
        draft.section("memoryBacking/source").set("type", "memfd")
    if shared:
        draft.section("memoryBacking/access").set("mode", "shared")


def needs_sharing(draft: Draft) -> bool:
    """Whether another process maps the guest's memory: a vhost-user switch does."""
    return any(interface.binding == "vhostuser" for interface in draft.spec.interfaces)


def _hugepages(draft: Draft, page_bytes: int) -> None:
    # KubeVirt names no size without NUMA passthrough, since its pod mounts one size only; a host may mount several.
    pages = draft.section("memoryBacking/hugepages")
    if draft.plan.cells:
        for cell in draft.plan.cells:
            add(pages, "page", size=page_bytes, unit="b", nodeset=cell.cell)
        draft.section("memoryBacking/allocation").set("mode", "immediate")
    else:
        add(pages, "page", size=page_bytes, unit="b")
