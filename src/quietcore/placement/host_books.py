"""One host at one moment in the managers' terms: its topology, its policy, who owns what, and which CPUs a VM may take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from quietcore.model import CpuSet, Entry, Ledger, Machine, Options, VmName
from quietcore.placement.allocator import check_options
from quietcore.placement.cpu_state import CpuState
from quietcore.placement.guest_cells import hugepage_type
from quietcore.placement.hardware import Hardware
from quietcore.placement.hints import NumaInfo
from quietcore.placement.memory_manager import memory_state
from quietcore.placement.memory_state import MemoryState
from quietcore.placement.reserved import reserved_cpus
from quietcore.placement.static_policy import StaticPolicy
from quietcore.placement.topology import CpuTopology
from quietcore.placement.topology_options import check_start


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBooks:
    """The books in which one VM is to be entered: the states of the CPU and the Memory Manager, that VM itself left out.

    `ledger` is without the VM, `whole_ledger` with it: its pages may be among those that the kernel reports as used.
    """

    machine: Machine
    ledger: Ledger
    whole_ledger: Ledger
    options: Options
    hardware: Hardware
    policy: StaticPolicy
    numa: NumaInfo
    cpus: CpuState
    memory: MemoryState

    @classmethod
    def of(cls, machine: Machine, whole_ledger: Ledger, options: Options, vm: VmName) -> HostBooks:
        """Open the books for one VM. Raises InputError for options that contradict each other or the machine."""
        check_start(options.topology_policy, options.topology_scope, machine)
        ledger = whole_ledger.without(vm)
        hardware = Hardware.of(machine)
        check_options(options.cpu, options.topology_policy, hardware.topology)
        policy = StaticPolicy(
            topology=hardware.topology,
            reserved=reserved_cpus(machine, options),
            options=options.cpu,
            compat=options.compat,
            pod_level_resources=options.pod_level_resources,
            pod_level_resource_managers=options.pod_level_resource_managers,
        )
        return cls(
            machine=machine,
            ledger=ledger,
            whole_ledger=whole_ledger,
            options=options,
            hardware=hardware,
            policy=policy,
            numa=NumaInfo.of(machine, prefer_closest=options.prefer_closest_numa_nodes),
            cpus=_cpu_state(hardware.usable(machine), ledger, policy),
            memory=memory_state(machine, ledger, options),
        )

    @property
    def topology(self) -> CpuTopology:
        """The machine as the CPU Manager sees it."""
        return self.hardware.topology

    @property
    def usable(self) -> CpuSet:
        """The online CPUs that this system may use."""
        return self.hardware.usable(self.machine)

    @property
    def available(self) -> CpuSet:
        """The CPUs that may be handed out exclusively."""
        return self.policy.available(self.cpus)

    def offering(self, cpus: CpuSet) -> HostBooks:
        """The same books with only these of the available CPUs on offer; the others count as taken."""
        return replace(self, cpus=replace(self.cpus, default=self.cpus.default - (self.available - cpus)))

    def without(self, vm: VmName) -> HostBooks:
        """The same books as if this VM had never been there."""
        gone = self.ledger.find(vm)
        machine = self.machine if gone is None else _with_pages_back(self.machine, gone)
        ledger = self.ledger.without(vm)
        return replace(
            self,
            machine=machine,
            ledger=ledger,
            whole_ledger=self.whole_ledger.without(vm),
            cpus=_cpu_state(self.usable, ledger, self.policy),
            memory=memory_state(machine, ledger, self.options),
        )

    def with_policy(self, policy: StaticPolicy) -> HostBooks:
        """The same books under another CPU Manager policy."""
        return replace(self, policy=policy)


def _cpu_state(usable: CpuSet, ledger: Ledger, policy: StaticPolicy) -> CpuState:
    pool = usable - ledger.owned
    if policy.options.strict_cpu_reservation:
        pool -= policy.reserved
    owned = {plan.uid: MappingProxyType({one.container: one.cpus for one in plan.assignments if one.cpus}) for plan in ledger.plans}
    return CpuState(default=pool, assignments=MappingProxyType(owned))


def _with_pages_back(machine: Machine, gone: Entry) -> Machine:
    """The machine with the hugepages free that this VM's guest cells hold; pages of unknown place stay used."""
    back = {(binding.node, binding.type): binding.size_bytes for binding in gone.plan.memory} if gone.plan and gone.plan.cells else {}
    nodes = []
    for node in machine.nodes:
        if node.free_hugepages is None:
            nodes.append(node)
            continue
        free = {size: count + back.get((node.node, hugepage_type(size)), 0) // size for size, count in node.free_hugepages.items()}
        nodes.append(replace(node, free_hugepages=MappingProxyType(free)))
    return replace(machine, nodes=tuple(nodes))
