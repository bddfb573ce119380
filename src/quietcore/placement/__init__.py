"""The kubelet's CPU, Memory and Topology Manager and KubeVirt's vCPU order as pure code: (pod, machine, ledger, options) -> answer."""

from quietcore.placement.admission import admit
from quietcore.placement.reserved import reserved_cpus
from quietcore.placement.topology import CpuTopology

__all__ = ["CpuTopology", "admit", "reserved_cpus"]
