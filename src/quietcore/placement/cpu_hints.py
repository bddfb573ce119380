"""The CPU Manager's topology hints: which sets of NUMA nodes could hold a request, and which are as small as they could be.

The hints are described, not listed (`HintFamily`): a machine of 64 nodes has 2^64 of them.
"""

from __future__ import annotations

from typing import Final

from quietcore.model import CpuSet, LauncherPod
from quietcore.model.pod import Container
from quietcore.placement.cpu_state import CpuState
from quietcore.placement.hints import Demand, HintFamily, Hints, ProviderHints, fewest_nodes, mask_of
from quietcore.placement.pod_level import pod_count
from quietcore.placement.static_policy import StaticPolicy, counts

RESOURCE: Final = "cpu"
UNSATISFIABLE: Final[ProviderHints] = {RESOURCE: ()}


def container_hints(policy: StaticPolicy, state: CpuState, pod: LauncherPod, container: Container) -> ProviderHints:
    """The hints of one container; None where it has no exclusive CPUs."""
    count = policy.exclusive_count(pod, container)
    if count == 0 or _left_out(policy, pod):
        return None
    owned = state.cpus_of(pod.uid, container.name)
    if owned is None:
        return {RESOURCE: cpu_hints(policy, policy.available(state), state.reusable_by(pod.uid), count)}
    if len(owned) != count:
        return UNSATISFIABLE
    return {RESOURCE: cpu_hints(policy, owned, CpuSet(), count)}


def pod_hints(policy: StaticPolicy, state: CpuState, pod: LauncherPod) -> ProviderHints:
    """The hints of a pod as a whole; None where no container has exclusive CPUs."""
    if _left_out(policy, pod):
        return None
    count = pod_count(pod) if policy.is_pod_level(pod) else requested_by_pod(policy, pod)
    if count == 0:
        return None
    owned = CpuSet()
    for container in pod.containers:
        mine = state.cpus_of(pod.uid, container.name)
        if mine is None:
            continue
        if not policy.is_pod_level(pod) and len(mine) != policy.exclusive_count(pod, container):
            return UNSATISFIABLE
        owned |= mine
    if len(owned) == count:
        return {RESOURCE: cpu_hints(policy, owned, CpuSet(), count)}
    return {RESOURCE: cpu_hints(policy, policy.available(state), state.reusable_by(pod.uid) | owned, count)}


def requested_by_pod(policy: StaticPolicy, pod: LauncherPod) -> int:
    """The most CPUs that the pod owns at one time: during an init container, or when all is running."""
    peak = sidecars = 0
    for container in pod.containers:
        count = policy.exclusive_count(pod, container)
        if container.role == "sidecar":
            sidecars += count
        elif container.role == "init":
            peak = max(peak, count + sidecars)
    lasting = counts(policy, pod, [container for container in pod.containers if container.role != "init"])
    return max(peak, lasting)


def cpu_hints(policy: StaticPolicy, available: CpuSet, reusable: CpuSet, count: int) -> Hints:
    """The hints for `count` CPUs from the available ones and all of the reusable ones.

    The smallest number of nodes counts all CPUs of the machine, reserved and used ones too: a request that would fit one empty
    node is preferred on one node only (kubernetes issue 84597). Empty where not even all nodes together hold the request.
    """
    topology = policy.topology
    sizes = {node.id: node.mask.bit_count() for node in topology.nodes}
    smallest = fewest_nodes(sizes, count) or len(sizes)
    free = {node.id: (node.mask & available.mask & ~reusable.mask).bit_count() for node in topology.nodes}
    per_socket = topology.num_nodes // topology.num_sockets if topology.num_sockets else 0
    aligned = policy.options.align_by_socket and per_socket > 0
    sockets = tuple(mask_of(node.id for node, _ in topology.nodes_of_socket[socket.id]) for socket in topology.sockets)
    family = HintFamily(
        within=mask_of(sizes),
        demands=(Demand(amounts=free, wanted=count - len(reusable)),),
        must=mask_of(node.id for node in topology.nodes if node.mask & reusable.mask),
        preferred_size=smallest,
        sockets=sockets if aligned else (),
        preferred_sockets=-(-smallest // per_socket) if aligned else 0,
    )
    return family if family.within in family else ()


def _left_out(policy: StaticPolicy, pod: LauncherPod) -> bool:
    return policy.is_pod_level(pod) and not policy.pod_level_resource_managers
