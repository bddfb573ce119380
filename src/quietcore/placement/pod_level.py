"""CPUs for a pod as a whole (pod-level resources, the PodLevelResourceManagers gate of Kubernetes 1.36)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from quietcore.model import Container, CpuSet, LauncherPod, Reason, Refusal
from quietcore.placement.allocator import allocate
from quietcore.placement.cpu_state import CpuState
from quietcore.placement.packed import Taken
from quietcore.placement.static_policy import StaticPolicy, counts

EMPTY_POOL_ERROR: Final = "EmptyPodSharedPoolError"
_INIT_STARVES: Final = "pod rejected, pod has shared init containers but no cpus available for them"
_POOL_EMPTY: Final = "pod rejected, sum of exclusive container cpu requests equals pod budget, leaving no cpus for shared containers"


@dataclass(frozen=True, slots=True, kw_only=True)
class PodAllocated:
    """What each container of the pod may run on, and the state afterwards."""

    state: CpuState
    containers: Mapping[str, CpuSet]


def pod_count(pod: LauncherPod) -> int:
    """How many CPUs the pod owns as a whole: its whole-number request when it is Guaranteed, else 0."""
    cpu = pod.pod_requests.get("cpu")
    return cpu.value if pod.qos == "Guaranteed" and cpu is not None and cpu.is_whole else 0


def check_pools(policy: StaticPolicy, pod: LauncherPod) -> Refusal | None:
    """The refusal of a pod that would leave a container without any CPU."""
    total = pod_count(pod)
    sidecars = 0
    for container in pod.containers:
        count = policy.exclusive_count(pod, container)
        if container.role == "sidecar":
            sidecars += count
        elif container.role == "init" and not count and sidecars >= total:
            return _empty_pool(_INIT_STARVES, total, sidecars)
    lasting = [container for container in pod.containers if container.role != "init"]
    used = counts(policy, pod, lasting)
    if used >= total and any(not policy.exclusive_count(pod, container) for container in lasting):
        return _empty_pool(_POOL_EMPTY, total, used)
    return None


def allocate_pod(policy: StaticPolicy, state: CpuState, pod: LauncherPod, affinity: int | None) -> PodAllocated | Refusal:
    """Take the pod's CPUs at once and divide them: exclusive ones by container, the rest as the pod's own shared pool.

    `affinity` is the node mask of the pod's first container. A pod without a whole Guaranteed request stays on the shared pool.
    """
    total = pod_count(pod)
    if not total:
        return PodAllocated(state=state, containers=MappingProxyType({}))
    refusal = check_pools(policy, pod) or policy.check_smt(state, total)
    if refusal is not None:
        return refusal
    bubble = policy.take(state, total, affinity)
    if isinstance(bubble, Refusal):
        return bubble
    divided = _Division(policy, pod, bubble).run()
    if isinstance(divided, Refusal):
        return divided
    after = state.with_pod(pod.uid, bubble.cpus)
    for name, cpus in divided.items():
        after = after.with_container(pod.uid, name, cpus)
    return PodAllocated(state=after, containers=MappingProxyType(divided))


class _Division:
    """Divides the CPUs of one pod among its containers."""

    __slots__ = ("bubble", "pod", "policy", "result", "sidecars", "waiting")

    def __init__(self, policy: StaticPolicy, pod: LauncherPod, bubble: Taken) -> None:
        self.policy = policy
        self.pod = pod
        self.bubble = bubble.cpus
        self.sidecars = CpuSet()
        self.result: dict[str, CpuSet] = {}
        self.waiting: list[str] = []

    def run(self) -> dict[str, CpuSet] | Refusal:
        for container in self.pod.containers:
            if container.role != "app":
                refusal = self._init(container)
                if refusal is not None:
                    return refusal
        pool = self.bubble - self.sidecars
        for container in self.pod.containers:
            if container.role != "app":
                continue
            cpus = self._exclusive(container, pool)
            if isinstance(cpus, Refusal):
                return cpus
            if cpus:
                self.result[container.name] = cpus
                pool -= cpus
            else:
                self.waiting.append(container.name)
        self.result |= dict.fromkeys(self.waiting, pool)
        return self.result

    def _init(self, container: Container) -> Refusal | None:
        pool = self.bubble - self.sidecars
        cpus = self._exclusive(container, pool)
        if isinstance(cpus, Refusal):
            return cpus
        if cpus:
            self.result[container.name] = cpus
            if container.role == "sidecar":
                self.sidecars |= cpus
        elif container.role == "sidecar":
            self.waiting.append(container.name)
        else:
            self.result[container.name] = pool
        return None

    def _exclusive(self, container: Container, pool: CpuSet) -> CpuSet | Refusal:
        count = self.policy.exclusive_count(self.pod, container)
        taken = allocate(self.policy.topology, pool, count, self.policy.options, self.policy.compat)
        return taken if isinstance(taken, Refusal) else taken.cpus


def _empty_pool(message: str, total: int, used: int) -> Refusal:
    reason = Reason(constraint="pod-shared-pool", message=message, wanted="1", free=str(total - used))
    return Refusal(message=message, reason=EMPTY_POOL_ERROR, reasons=(reason,))
