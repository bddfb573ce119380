"""The kubelet's CPU, Memory and Topology Manager and KubeVirt's vCPU order as pure code: (pod, machine, ledger, options) -> answer."""

from quietcore.placement.admission import admit
from quietcore.placement.moving import Fit, fit_of, move
from quietcore.placement.reserved import reserved_cpus
from quietcore.placement.topology import CpuTopology

__all__ = ["CpuTopology", "Fit", "admit", "fit_of", "move", "reserved_cpus"]
