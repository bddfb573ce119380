"""From `VmSpec` to the launcher pod: containers, resources, QoS class, cgroup weights, eviction order. Pure."""

from quietcore.pod.cluster import Cluster, ContainerResources
from quietcore.pod.cpus import CpuCount, cpu_count, emulator_cpus
from quietcore.pod.differences import differences
from quietcore.pod.launcher import images_of, launcher_pod
from quietcore.pod.manifest import manifest
from quietcore.pod.overhead import OverheadInputs, memory_overhead, overhead_inputs
from quietcore.pod.qos import MemoryUse, eviction_order, oom_score_adj, qos_class, wants_guaranteed
from quietcore.pod.shares import cpu_shares, cpu_weight, cpu_weight_linear, shares_of

__all__ = [
    "Cluster",
    "ContainerResources",
    "CpuCount",
    "MemoryUse",
    "OverheadInputs",
    "cpu_count",
    "cpu_shares",
    "cpu_weight",
    "cpu_weight_linear",
    "differences",
    "emulator_cpus",
    "eviction_order",
    "images_of",
    "launcher_pod",
    "manifest",
    "memory_overhead",
    "oom_score_adj",
    "overhead_inputs",
    "qos_class",
    "shares_of",
    "wants_guaranteed",
]
