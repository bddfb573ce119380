"""Whole-pod admission: what the kubelet's managers and KubeVirt's launcher would decide about one VM, as one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

from quietcore.model import Assignment, Container, CpuSet, LauncherPod, Ledger, Machine, Options, Plan, Reason, Refusal, VcpuPlacement
from quietcore.placement.allocator import allocate, check_options
from quietcore.placement.packed import Taken
from quietcore.placement.reserved import reserved_cpus
from quietcore.placement.topology import CpuTopology
from quietcore.placement.vcpu_order import SHARED, VcpuOrder, order_vcpus


def admit(pod: LauncherPod, machine: Machine, ledger: Ledger, options: Options) -> Plan | Refusal:
    """Decide what the VM gets on this machine beside the VMs of the ledger; an entry of the same VM counts as absent.

    Raises InputError for options that contradict each other or the machine.
    """
    host = _Host.of(machine, ledger.without(pod.vm), options)
    taken = _exclusive_cpus(pod, host)
    if isinstance(taken, Refusal):
        return replace(taken, vm=pod.vm)
    answer = _plan(pod, host, taken)
    return replace(answer, vm=pod.vm) if isinstance(answer, Refusal) else answer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Host:
    """One machine at one moment: what may be handed out, and what is left for everybody."""

    machine: Machine
    options: Options
    topology: CpuTopology
    available: CpuSet
    pool: CpuSet

    @classmethod
    def of(cls, machine: Machine, ledger: Ledger, options: Options) -> _Host:
        topology = CpuTopology.from_machine(machine)
        check_options(options.cpu, options.topology_policy, topology)
        reserved = reserved_cpus(machine, options)
        free = machine.usable - ledger.owned
        return cls(
            machine=machine,
            options=options,
            topology=topology,
            available=free - reserved,
            pool=free - reserved if options.cpu.strict_cpu_reservation else free,
        )


def _wanted(pod: LauncherPod, container: Container) -> int:
    cpu = container.requests.get("cpu")
    if pod.qos != "Guaranteed" or cpu is None or not cpu.is_whole:
        return 0
    return cpu.value


def _exclusive_cpus(pod: LauncherPod, host: _Host) -> dict[str, Taken] | Refusal:
    available = host.available
    result: dict[str, Taken] = {}
    for container in pod.containers:
        count = _wanted(pod, container)
        taken = allocate(host.topology, available, count, host.options.cpu, host.options.compat)
        if isinstance(taken, Refusal):
            return taken
        result[container.name] = taken
        available -= taken.cpus
    return result


def _plan(pod: LauncherPod, host: _Host, taken: dict[str, Taken]) -> Plan | Refusal:
    guest = pod.guest
    owned = taken.get(guest.vcpu_container, Taken(cpus=CpuSet()))
    order = _order(pod, host, owned)
    if isinstance(order, Refusal):
        return order
    exclusive = CpuSet()
    for one in taken.values():
        exclusive |= one.cpus
    shared = host.pool - exclusive
    emulator = _emulator(pod, order, shared)
    if not emulator:
        message = "no CPU is left for the VM's other threads: the shared pool would be empty"
        return Refusal(message=message, reasons=(Reason(constraint="shared-pool", message=message, wanted="1", free="0"),))
    return Plan(
        vm=pod.vm,
        uid=pod.uid,
        strategy=guest.strategy,
        vcpus=order.vcpus,
        shared=shared,
        emulator=emulator,
        io=MappingProxyType({thread: CpuSet.of(cpu) for thread, cpu in enumerate(order.io, 1)}),
        unpinned=order.leftover,
        assignments=tuple(Assignment(container=container.name, cpus=taken[container.name].cpus) for container in pod.containers),
        notes=order.notes,
    )


def _order(pod: LauncherPod, host: _Host, owned: Taken) -> VcpuOrder | Refusal:
    guest = pod.guest
    if not guest.dedicated_vcpus:
        return VcpuOrder(vcpus=tuple(VcpuPlacement(vcpu=vcpu, rule=SHARED) for vcpu in range(guest.topology.vcpus)))
    order = order_vcpus(
        host.machine,
        owned.cpus,
        guest.topology,
        strict=guest.numa_passthrough,
        io_cpus=guest.io_cpus,
        emulator_cpus=guest.emulator_cpus if guest.strategy == "housekeeping" else 0,
        dedicated=guest.dedicated_vcpus,
        realtime=guest.realtime_vcpus,
    )
    if isinstance(order, Refusal):
        return order
    return replace(order, vcpus=tuple(_with_rule(vcpu, owned) for vcpu in order.vcpus))


def _with_rule(vcpu: VcpuPlacement, owned: Taken) -> VcpuPlacement:
    return vcpu if vcpu.pcpu is None else replace(vcpu, rule=f"{owned.rule_of(vcpu.pcpu)}; {vcpu.rule}")


def _emulator(pod: LauncherPod, order: VcpuOrder, shared: CpuSet) -> CpuSet:
    if not pod.guest.dedicated_vcpus or pod.guest.strategy == "dedicated":
        return shared
    if pod.guest.strategy == "housekeeping":
        return order.emulator
    return CpuSet.from_iterable(vcpu.pcpu for vcpu in order.vcpus if vcpu.pcpu is not None) | order.leftover
