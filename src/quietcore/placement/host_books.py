"""One host at one moment in the managers' terms: its topology, its policy, who owns what, and which CPUs a VM may take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from quietcore.model import CpuSet, Ledger, Machine, Options, Plan, VmName
from quietcore.placement.allocator import check_options
from quietcore.placement.cpu_state import CpuState
from quietcore.placement.guest_cells import hugepage_type
from quietcore.placement.hardware import Hardware
from quietcore.placement.hints import NumaInfo
from quietcore.placement.memory_manager import memory_state, release
from quietcore.placement.memory_state import MemoryState
from quietcore.placement.reserved import reserved_cpus
from quietcore.placement.static_policy import StaticPolicy
from quietcore.placement.topology import CpuTopology
from quietcore.placement.topology_options import check_start


@dataclass(frozen=True, slots=True, kw_only=True)
class HostBooks:
    """The books in which one VM is to be entered: the states of the CPU and the Memory Manager, that VM itself left out.

    `ledger` is without the VM, `whole_ledger` with it: its pages may be among those that the kernel reports as used.
    `free` are the usable CPUs without an owner, reserved ones included.
    """

    machine: Machine
    ledger: Ledger
    whole_ledger: Ledger
    options: Options
    hardware: Hardware
    free: CpuSet
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
        free = hardware.usable(machine) - ledger.owned
        return cls(
            machine=machine,
            free=free,
            ledger=ledger,
            whole_ledger=whole_ledger,
            options=options,
            hardware=hardware,
            policy=policy,
            numa=NumaInfo.of(machine, prefer_closest=options.prefer_closest_numa_nodes),
            cpus=_cpu_state(free, ledger, policy),
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

    def withholding(self, cpus: CpuSet) -> HostBooks:
        """The same books with these CPUs taken by somebody."""
        return replace(self, free=self.free - cpus, cpus=replace(self.cpus, default=self.cpus.default - cpus))

    def without(self, vm: VmName) -> HostBooks:
        """The same books as if this VM had never been there."""
        gone = self.ledger.find(vm)
        if gone is None or gone.plan is None:
            return self
        ledger, free = self.ledger.without(vm), self.free | (gone.owned & self.usable)
        return replace(
            self,
            machine=_with_pages_back(self.machine, gone.plan),
            ledger=ledger,
            whole_ledger=ledger,
            free=free,
            cpus=_cpu_state(free, ledger, self.policy),
            memory=release(self.memory, gone.plan.uid),
        )

    def with_policy(self, policy: StaticPolicy) -> HostBooks:
        """The same books under another CPU Manager policy."""
        return replace(self, policy=policy)


def _cpu_state(free: CpuSet, ledger: Ledger, policy: StaticPolicy) -> CpuState:
    pool = free - policy.reserved if policy.options.strict_cpu_reservation else free
    owned = {plan.uid: MappingProxyType({one.container: one.cpus for one in plan.assignments if one.cpus}) for plan in ledger.plans}
    return CpuState(default=pool, assignments=MappingProxyType(owned))


def _with_pages_back(machine: Machine, gone: Plan) -> Machine:
    """The machine with the hugepages free that this VM's guest cells hold; pages of unknown place stay used."""
    if not gone.cells or all(node.free_hugepages is None for node in machine.nodes):
        return machine
    back = {(binding.node, binding.type): binding.size_bytes for binding in gone.memory}
    nodes = []
    for node in machine.nodes:
        known = node.free_hugepages or {}
        free = {size: count + back.get((node.node, hugepage_type(size)), 0) // size for size, count in known.items()}
        nodes.append(node if node.free_hugepages is None else replace(node, free_hugepages=MappingProxyType(free)))
    return replace(machine, nodes=tuple(nodes))
