"""The kubelet's static Memory Manager: hints for memory and hugepages, and their allocation to containers.

Only Guaranteed pods take part. `memory_state` holds the books; every transition here returns new ones, or a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from quietcore.model import Container, LauncherPod, MemoryBlock, Quantity, Reason, Refusal
from quietcore.placement.hint_search import fewest_for_all, narrowest_member
from quietcore.placement.hints import Demand, Hint, HintFamily, ProviderHints, mask_of, nodes_of
from quietcore.placement.memory_state import (
    MEMORY,
    MemoryState,
    Reusable,
    default_state,
    fill,
    memory_state,
    release,
    with_pod,
)

__all__ = ["Allocation", "allocate", "container_requests", "default_state", "memory_hints", "memory_state", "pod_requests", "release"]

Requests = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """The books after an allocation, and what the container got: one block per resource, none for a pod that takes no part."""

    state: MemoryState
    blocks: tuple[MemoryBlock, ...] = ()


def memory_hints(state: MemoryState, pod: LauncherPod, container: Container | None = None) -> ProviderHints:
    """The hints for one container, or with None for the whole pod (scope `pod`).

    All resources share one description, because a mask counts only when it has enough of each. None and an empty mapping
    both mean "no opinion": where nothing fits it is `allocate` that refuses, as in the kubelet.
    """
    if not _takes_part(pod):
        return None
    requests = pod_requests(pod) if container is None else container_requests(container)
    if not requests:
        return None
    for one in pod.containers if container is None else (container,):
        blocks = state.blocks(pod.uid, one.name)
        if blocks:
            return _hints_of(blocks, requests)
    family = hint_family(state, pod.uid, requests)
    return {} if narrowest_member(family) is None else dict.fromkeys(requests, family)


def allocate(state: MemoryState, pod: LauncherPod, container: Container, hint: Hint) -> Allocation | Refusal:
    """Book a container's memory on the nodes of the Topology Manager's hint, on more nodes where those are too small.

    A refusal carries the Memory Manager's text and, per resource and node, what is free; the kubelet wraps it as an
    unexpected admission error (`topology_manager.allocation_refusal`).
    """
    if not _takes_part(pod):
        return Allocation(state=state)
    present = state.blocks(pod.uid, container.name)
    if present:
        return Allocation(state=_with_reuse(state, pod, container, present), blocks=present)
    if any(not amount.is_whole for amount in _memory_of(container)):
        return Refusal(message="[memorymanager] failed to represent quantity as int64")
    requests = container_requests(container)
    if not requests:
        return Allocation(state=state)
    mask = _nodes_for(state, pod.uid, requests, hint)
    if isinstance(mask, Refusal):
        return mask
    blocks = tuple(MemoryBlock(nodes=nodes_of(mask), type=kind, size_bytes=size) for kind, size in requests.items())
    nodes = fill(state.nodes, [(one, max(one.size_bytes - state.reusable.of(pod.uid, mask, one.type), 0)) for one in blocks])
    state = _with_reuse(replace(state, nodes=nodes), pod, container, blocks)
    containers = {**state.assignments.get(pod.uid, {}), container.name: blocks}
    shrunk = _shrunk_init_blocks(pod, container, containers)
    return Allocation(state=replace(state, assignments=with_pod(state.assignments, pod.uid, shrunk)), blocks=blocks)


def drop_finished_init(state: MemoryState, pod: LauncherPod, container: Container) -> MemoryState:
    """Give back what the ordinary init containers before this container have left; the kubelet does so when it creates it."""
    for earlier in _init_containers_before(pod, container):
        state = release(state, pod.uid, earlier.name)
    return state


def container_requests(container: Container) -> Requests:
    """Bytes of memory and of each hugepage size that a container requests."""
    return {kind: amount.value for kind, amount in container.requests.items() if _is_memory(kind)}


def pod_requests(pod: LauncherPod) -> Requests:
    """Bytes that a pod needs at its fullest moment, per resource that an app container requests.

    Either everything that runs on, or one ordinary init container beside the sidecars that were started before it.
    """
    running: dict[str, int] = {}
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in pod.containers:
        for kind, size in container_requests(container).items():
            match container.role:
                case "app":
                    running[kind] = running.get(kind, 0) + size
                case "sidecar":
                    sidecars[kind] = sidecars.get(kind, 0) + size
                case "init":
                    peak[kind] = max(peak.get(kind, 0), size + sidecars.get(kind, 0))
    return {kind: max(size + sidecars.get(kind, 0), peak.get(kind, 0)) for kind, size in running.items()}


def hint_family(state: MemoryState, pod: str, requests: Requests) -> HintFamily:
    """Every node set that could serve the requests.

    Several nodes serve together only when none of them serves anybody yet, or when they are exactly one group already; a node
    of a group serves no one alone. Preferred are sets as small as they could be on the empty host.
    """
    everywhere = tuple(state.nodes)
    least = fewest_for_all([_demand(state, kind, wanted, free=False) for kind, wanted in requests.items()], everywhere)
    idle = mask_of(node for node, memory in state.nodes.items() if not memory.assignments)
    grouped = {memory.group for memory in state.nodes.values() if memory.group.bit_count() > 1}
    singles = {1 << node for node, memory in state.nodes.items() if memory.assignments}
    reused = set(state.reusable.bytes) if state.reusable.pod == pod else set()
    special = sorted(mask for mask in grouped | singles | reused if _may_serve(state, mask) and _has_enough(state, pod, mask, requests))
    return HintFamily(
        within=idle,
        demands=tuple(_demand(state, kind, wanted, free=True) for kind, wanted in requests.items()),
        points=tuple(special),
        preferred_size=len(everywhere) if least is None else least,
    )


def _nodes_for(state: MemoryState, pod: str, requests: Requests, hint: Hint) -> int | Refusal:
    """The mask to allocate on: the hint's, the default where it has none, or a larger one where that is too small."""
    mask, preferred = hint.mask, hint.preferred
    if mask is None:
        family = hint_family(state, pod, requests)
        best = _best_for_memory(family, requests)
        if best is None:
            message = "failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"
            return _refusal(state, requests, message)
        if preferred and not family.prefers(best):
            return _refusal(state, requests, "failed to find the default preferred hint")
        mask, preferred = best, family.prefers(best)
    if any(_free_on(state, mask, kind) < wanted for kind, wanted in requests.items()):
        family = hint_family(state, pod, requests)
        best = _best_for_memory(family, requests, superset_of=mask)
        if best is None:
            return _refusal(state, requests, "failed to find NUMA nodes to extend the current topology hint")
        if preferred and not family.prefers(best):
            return _refusal(state, requests, "failed to find the extended preferred hint")
        mask = best
    if mask.bit_count() > 1 and not _may_serve(state, mask):
        return _refusal(state, requests, "preferred hint violates NUMA node allocation")
    return mask


def _best_for_memory(family: HintFamily, requests: Requests, superset_of: int = 0) -> int | None:
    """The kubelet looks at the hints of `memory`: preferred ones first, then narrower ones, which are the same here."""
    return narrowest_member(family, superset_of) if MEMORY in requests else None


def _may_serve(state: MemoryState, mask: int) -> bool:
    """Whether the nodes may serve together: one ungrouped node, or nodes that are idle or exactly this group."""
    nodes = [state.nodes[node] for node in nodes_of(mask)]
    if len(nodes) == 1:
        return nodes[0].group.bit_count() <= 1
    return all(not node.assignments or node.group == mask for node in nodes)


def _has_enough(state: MemoryState, pod: str, mask: int, requests: Requests) -> bool:
    return all(
        sum(state.nodes[node].allocatable(kind) for node in nodes_of(mask)) >= wanted
        and _free_on(state, mask, kind) + state.reusable.of(pod, mask, kind) >= wanted
        for kind, wanted in requests.items()
    )


def _free_on(state: MemoryState, mask: int, kind: str) -> int:
    return sum(state.nodes[node].free(kind) for node in nodes_of(mask))


def _demand(state: MemoryState, kind: str, wanted: int, *, free: bool) -> Demand:
    amounts = {node: memory.free(kind) if free else memory.allocatable(kind) for node, memory in state.nodes.items()}
    return Demand(amounts=MappingProxyType(amounts), wanted=wanted)


def _hints_of(blocks: Sequence[MemoryBlock], requests: Requests) -> ProviderHints:
    """The hints that confirm an allocation; no opinion when it is not what is requested now."""
    if {block.type: block.size_bytes for block in blocks} != dict(requests) or len(blocks) != len(requests):
        return None
    return {block.type: (Hint(mask=mask_of(block.nodes), preferred=True),) for block in blocks}


def _with_reuse(state: MemoryState, pod: LauncherPod, container: Container, blocks: Sequence[MemoryBlock]) -> MemoryState:
    """Note what an init container leaves, or what this container took over. Only one pod's notes are kept."""
    known = {mask: dict(kinds) for mask, kinds in state.reusable.bytes.items()} if state.reusable.pod == pod.uid else {}
    for block in blocks:
        mask = mask_of(block.nodes)
        if container.role == "init":
            kinds = known.setdefault(mask, {})
            kinds[block.type] = max(kinds.get(block.type, 0), block.size_bytes)
        elif block.type in known.get(mask, {}):
            known[mask][block.type] = max(known[mask][block.type] - block.size_bytes, 0)
    frozen = MappingProxyType({mask: MappingProxyType(kinds) for mask, kinds in known.items()})
    return replace(state, reusable=Reusable(pod=pod.uid, bytes=frozen))


def _shrunk_init_blocks(
    pod: LauncherPod, container: Container, containers: Mapping[str, tuple[MemoryBlock, ...]]
) -> Mapping[str, tuple[MemoryBlock, ...]]:
    """Take what the container took over from the blocks of the finished init containers; empty blocks stay in the books."""
    after = dict(containers)
    for block in containers.get(container.name, ()):
        rest = block.size_bytes
        for earlier in _init_containers_before(pod, container):
            blocks = after.get(earlier.name, ())
            shrunk = []
            for one in blocks:
                taken = min(one.size_bytes, rest) if (one.type, one.nodes) == (block.type, block.nodes) else 0
                rest -= taken
                shrunk.append(replace(one, size_bytes=one.size_bytes - taken))
            if blocks:
                after[earlier.name] = tuple(shrunk)
    return after


def _init_containers_before(pod: LauncherPod, container: Container) -> Iterator[Container]:
    for earlier in pod.containers:
        if earlier.name == container.name:
            return
        if earlier.role == "init":
            yield earlier


def _refusal(state: MemoryState, requests: Requests, what: str) -> Refusal:
    """Every node that is short of something or may not serve alone."""
    message = f"[memorymanager] {what}"
    reasons = []
    for kind, wanted in requests.items():
        for node, memory in state.nodes.items():
            free = memory.free(kind)
            if free < wanted:
                sentence = f"node {node} has {free} bytes of {kind} free, {wanted} are wanted"
                reasons.append(Reason(constraint=kind, message=sentence, node=node, wanted=str(wanted), free=str(free)))
    for node, memory in state.nodes.items():
        if memory.group.bit_count() > 1:
            group = ",".join(map(str, nodes_of(memory.group)))
            sentence = f"node {node} serves pods only together with nodes {group} until they all are gone"
            reasons.append(
                Reason(constraint="memory-group", message=sentence, node=node, wanted=f"node {node} alone", free=f"nodes {group}")
            )
    return Refusal(message=message, reasons=tuple(reasons) or (Reason(constraint=MEMORY, message=message),))


def _takes_part(pod: LauncherPod) -> bool:
    """Guaranteed pods, unless they state resources of the pod itself: those the manager leaves alone."""
    return pod.qos == "Guaranteed" and not pod.pod_requests and not pod.pod_limits


def _memory_of(container: Container) -> list[Quantity]:
    return [amount for kind, amount in container.requests.items() if _is_memory(kind)]


def _is_memory(kind: str) -> bool:
    return kind == MEMORY or kind.startswith("hugepages-")
