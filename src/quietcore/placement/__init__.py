"""The kubelet's CPU, Memory and Topology Manager and KubeVirt's vCPU order as pure code: (pod, machine, ledger, options) -> answer."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.placement.admission import admit
    from quietcore.placement.moving import Fit, fit_of, move
    from quietcore.placement.reserved import reserved_cpus
    from quietcore.placement.topology import CpuTopology
else:
    __getattr__ = names_of(
        __name__,
        admission="admit",
        moving="Fit fit_of move",
        reserved="reserved_cpus",
        topology="CpuTopology",
    )

__all__ = ["CpuTopology", "Fit", "admit", "fit_of", "move", "reserved_cpus"]
