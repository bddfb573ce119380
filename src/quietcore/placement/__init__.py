"""The kubelet's CPU, Memory and Topology Manager and KubeVirt's vCPU order as pure code: (pod, machine, ledger, options) -> answer."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.placement.admission import admit
    from quietcore.placement.defrag import Newcomer, Relocation, Room, Tenant, make_room
    from quietcore.placement.moving import Fit, fit_of, move
    from quietcore.placement.plugging import with_vcpu, without_vcpu
    from quietcore.placement.reserved import reserved_cpus
    from quietcore.placement.sandbox import sandbox_plan, with_running
    from quietcore.placement.topology import CpuTopology
else:
    __getattr__ = names_of(
        __name__,
        admission="admit",
        defrag="Newcomer Relocation Room Tenant make_room",
        moving="Fit fit_of move",
        plugging="with_vcpu without_vcpu",
        reserved="reserved_cpus",
        sandbox="sandbox_plan with_running",
        topology="CpuTopology",
    )

__all__ = [
    "CpuTopology",
    "Fit",
    "Newcomer",
    "Relocation",
    "Room",
    "Tenant",
    "admit",
    "fit_of",
    "make_room",
    "move",
    "reserved_cpus",
    "sandbox_plan",
    "with_running",
    "with_vcpu",
    "without_vcpu",
]
