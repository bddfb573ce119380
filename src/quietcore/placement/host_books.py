"""One host at one moment in the managers' terms: its topology, its policy, who owns what, and which CPUs a VM may take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from quietcore.model import CpuSet, Ledger, Machine, Options, VmName
from quietcore.placement.allocator import check_options
from quietcore.placement.cpu_state import CpuState
from quietcore.placement.hints import NumaInfo
from quietcore.placement.reserved import reserved_cpus
from quietcore.placement.static_policy import StaticPolicy
from quietcore.placement.topology import CpuTopology


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBooks:
    """The books in which one VM is to be entered. `pool` is the shared pool before; `cpus` the CPU Manager's state."""

    machine: Machine
    ledger: Ledger
    options: Options
    topology: CpuTopology
    policy: StaticPolicy
    numa: NumaInfo
    cpus: CpuState

    @classmethod
    def of(cls, machine: Machine, ledger: Ledger, options: Options) -> HostBooks:
        """Open the books. Raises InputError for options that contradict each other or the machine."""
        topology = CpuTopology.from_machine(machine)
        check_options(options.cpu, options.topology_policy, topology)
        policy = StaticPolicy(
            topology=topology,
            reserved=reserved_cpus(machine, options),
            options=options.cpu,
            compat=options.compat,
            pod_level_resources=options.pod_level_resources,
            pod_level_resource_managers=options.pod_level_resource_managers,
        )
        return cls(
            machine=machine,
            ledger=ledger,
            options=options,
            topology=topology,
            policy=policy,
            numa=NumaInfo.of(machine, prefer_closest=options.prefer_closest_numa_nodes),
            cpus=_cpu_state(machine, ledger, policy),
        )

    @property
    def available(self) -> CpuSet:
        """The CPUs that may be handed out exclusively."""
        return self.policy.available(self.cpus)

    def offering(self, cpus: CpuSet) -> HostBooks:
        """The same books with only these of the available CPUs on offer; the others count as taken."""
        return replace(self, cpus=replace(self.cpus, default=self.cpus.default - (self.available - cpus)))

    def without(self, vm: VmName) -> HostBooks:
        """The same books as if this VM had never been there."""
        ledger = self.ledger.without(vm)
        return replace(self, ledger=ledger, cpus=_cpu_state(self.machine, ledger, self.policy))

    def with_policy(self, policy: StaticPolicy) -> HostBooks:
        """The same books under another CPU Manager policy."""
        return replace(self, policy=policy)


def _cpu_state(machine: Machine, ledger: Ledger, policy: StaticPolicy) -> CpuState:
    pool = machine.usable - ledger.owned
    if policy.options.strict_cpu_reservation:
        pool -= policy.reserved
    owned = {plan.uid: MappingProxyType({one.container: one.cpus for one in plan.assignments if one.cpus}) for plan in ledger.plans}
    return CpuState(default=pool, assignments=MappingProxyType(owned))
