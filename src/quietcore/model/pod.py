"""The launcher pod (KubeVirt's virt-launcher): what the kubelet's managers admit, on a cluster and on a single host alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from quietcore.model.quantity import Quantity
from quietcore.model.spec import GuestTopology, Strategy, ThreadPolicy, VmName

QosClass: TypeAlias = Literal["Guaranteed", "Burstable", "BestEffort"]
COMPUTE: Final = "compute"
PLACEHOLDER: Final = "dedicated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container; resource names as in Kubernetes (`cpu`, `memory`, `hugepages-2Mi`).

    `role` is `init` (runs before the others), `sidecar` (a restartable init container) or `app`.
    """

    name: str
    requests: Mapping[str, Quantity] = field(default_factory=lambda: MappingProxyType({}))
    limits: Mapping[str, Quantity] = field(default_factory=lambda: MappingProxyType({}))
    role: Literal["app", "init", "sidecar"] = "app"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestShape:
    """What placement must know of the guest beyond the pod's resources.

    `vcpu_container` names the container whose exclusive CPUs the vCPUs get. `emulator_cpus` and `io_cpus` are taken from
    the same set after the vCPUs, `io_cpus` first (KubeVirt's order). `dedicated_vcpus` is empty for a shared VM.
    """

    topology: GuestTopology
    strategy: Strategy = "dedicated"
    vcpu_container: str = PLACEHOLDER
    dedicated_vcpus: frozenset[int] = frozenset()
    emulator_cpus: int = 0
    io_cpus: int = 0
    numa_passthrough: bool = False
    memory_bytes: int = 0
    hugepage_bytes: int | None = None
    realtime_vcpus: frozenset[int] = frozenset()
    thread_policy: ThreadPolicy = "none"
    single_l3: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LauncherPod:
    """The pod of one VM. Containers stand in the order in which Kubernetes admits them: init and sidecars, then the others."""

    vm: VmName
    uid: str
    containers: tuple[Container, ...]
    guest: GuestShape
    qos: QosClass
    pod_requests: Mapping[str, Quantity] = field(default_factory=lambda: MappingProxyType({}))
    pod_limits: Mapping[str, Quantity] = field(default_factory=lambda: MappingProxyType({}))
    node_selector: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    share_process_namespace: bool = False
