"""How a host hands out its CPUs and memory: the kubelet's policies and their options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from quietcore.model.cpuset import CpuSet

Compat: TypeAlias = Literal["fixed", "1.36"]
TopologyPolicy: TypeAlias = Literal["none", "best-effort", "restricted", "single-numa-node"]
TopologyScope: TypeAlias = Literal["container", "pod"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuPolicyOptions:
    """The options of the static CPU Manager, named as in Kubernetes with underscores."""

    full_pcpus_only: bool = False
    distribute_cpus_across_numa: bool = False
    align_by_socket: bool = False
    distribute_cpus_across_cores: bool = False
    strict_cpu_reservation: bool = False
    prefer_align_cpus_by_uncorecache: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All policies of one host. `reserved_memory` maps node -> resource name -> bytes.

    `reserved_cpus` None means our default: all threads of the first core or, where that leaves nothing, its first thread only.
    """

    compat: Compat = "fixed"
    cpu: CpuPolicyOptions = CpuPolicyOptions()
    topology_policy: TopologyPolicy = "best-effort"
    topology_scope: TopologyScope = "pod"
    prefer_closest_numa_nodes: bool = False
    reserved_cpus: CpuSet | None = None
    reserved_memory: Mapping[int, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    pod_level_resources: bool = False
    pod_level_resource_managers: bool = False
