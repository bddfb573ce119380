"""QoS class, OOM score and eviction order, by Kubernetes' rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from quietcore.model import Container, LauncherPod, QosClass, Quantity, Resources

_COUNTED: Final = ("cpu", "memory")
"""Only these decide the class; hugepages and devices do not."""


def qos_class(
    containers: Iterable[Container],
    pod_requests: Mapping[str, Quantity] | None = None,
    pod_limits: Mapping[str, Quantity] | None = None,
) -> QosClass:
    """The class of a pod: pod-level resources decide where there are any, else every container, init containers included."""
    if pod_requests or pod_limits:
        resources = [(pod_requests or {}, pod_limits or {})]
    else:
        resources = [(container.requests, container.limits) for container in containers]
    set_anywhere = any(one.get(name, Quantity.of(0)).amount for pair in resources for one in pair for name in _COUNTED)
    if not set_anywhere:
        return "BestEffort"
    return "Guaranteed" if all(_is_guaranteed(*pair) for pair in resources) else "Burstable"


def _is_guaranteed(requests: Mapping[str, Quantity], limits: Mapping[str, Quantity]) -> bool:
    # An absent request counts as the limit: the API server fills it in.
    return all(name in limits and limits[name].amount > 0 and requests.get(name, limits[name]) == limits[name] for name in _COUNTED)


def wants_guaranteed(resources: Resources) -> bool:
    """KubeVirt's WantsToHaveQOSGuaranteed: memory and CPU both requested as they are limited."""
    memory, cpu = resources.memory_limit, resources.cpu_limit
    return (
        memory is not None
        and memory.amount > 0
        and resources.memory_request in {None, memory}
        and cpu is not None
        and cpu.amount > 0
        and resources.cpu_request == cpu
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """A pod, its priority and the memory that it uses now."""

    pod: LauncherPod
    used_bytes: int
    priority: int = 0

    @property
    def above_request_bytes(self) -> int:
        """How far the use is above the request; negative below it."""
        return self.used_bytes - memory_request_bytes(self.pod)


def memory_request_bytes(pod: LauncherPod) -> int:
    """The memory that the pod's app and sidecar containers ask for together (the largest init container, if that is more)."""
    zero = Quantity.of(0)
    lasting = sum(one.requests.get("memory", zero).value for one in pod.containers if one.role != "init")
    return max([lasting, *(one.requests.get("memory", zero).value for one in pod.containers if one.role == "init")])


def eviction_order(uses: Iterable[MemoryUse]) -> tuple[LauncherPod, ...]:
    """Whom the kubelet evicts first under memory pressure.

    Those above their request before the others, then lower priority first, then the furthest above its request first
    (rankMemoryPressure); the name decides between equals, so that the answer is stable.
    """
    ranked = sorted(uses, key=lambda use: (use.above_request_bytes <= 0, use.priority, -use.above_request_bytes, use.pod.vm))
    return tuple(use.pod for use in ranked)


def oom_score_adj(container: Container, qos: QosClass, node_memory_bytes: int) -> int:
    """The kernel's oom_score_adj that the kubelet gives a container (GetContainerOOMScoreAdjust)."""
    if qos == "Guaranteed":
        return -997
    if qos == "BestEffort":
        return 1000
    request = container.requests.get("memory", Quantity.of(0)).value
    return min(max(1000 - 1000 * request // node_memory_bytes, 3), 999)
