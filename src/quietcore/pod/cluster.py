"""What the KubeVirt CR and the namespace would say about launcher pods; the defaults are KubeVirt's own."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from quietcore.model import ClusterConfig, Quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerResources:
    """What one kind of helper container gets: its limits, and its requests where the pod need not be Guaranteed (None: none)."""

    cpu: Quantity
    memory: Quantity
    cpu_request: Quantity | None = None
    memory_request: Quantity | None = None


SHARED_CPU: Final = Quantity.milli(200)
PLACEHOLDER_MEMORY: Final = Quantity.parse("16Mi")
HOOK_SIDECAR: Final = ContainerResources(cpu=Quantity.milli(200), memory=Quantity.parse("64M"))
CONTAINER_DISK: Final = ContainerResources(
    cpu=Quantity.milli(10),
    memory=Quantity.parse("40M"),
    cpu_request=Quantity.milli(1),
    memory_request=Quantity.parse("1M"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Settings that change a launcher pod.

    `shared_cpu` is the share of the shared pool that the other threads of a VM with dedicated CPUs ask for (ours: KubeVirt
    has no such container). `auto_cpu_limit` and `auto_memory_limit_ratio` stand for what a ResourceQuota or a namespace label
    switches on. `overhead_ratio` is additionalGuestMemoryOverheadRatio. `devices` are extended resources of device plugins, on a
    KubeVirt cluster `devices.kubevirt.io/kvm` and its like; a single host has none.
    """

    cpu_allocation_ratio: int = 10
    memory_overcommit_percent: int = 100
    overhead_ratio: Fraction = Fraction(1)
    auto_cpu_limit: bool = False
    auto_memory_limit_ratio: Fraction | None = None
    shared_cpu: Quantity = SHARED_CPU
    placeholder_memory: Quantity = PLACEHOLDER_MEMORY
    hook_sidecar: ContainerResources = HOOK_SIDECAR
    container_disk: ContainerResources = CONTAINER_DISK
    devices: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: ClusterConfig) -> Cluster:
        """The settings that follow from KubeVirt's own configuration."""
        return cls(
            cpu_allocation_ratio=config.cpu_allocation_ratio,
            memory_overcommit_percent=config.memory_overcommit_percent,
            overhead_ratio=config.guest_overhead_ratio,
        )
