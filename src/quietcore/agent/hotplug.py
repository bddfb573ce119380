"""vCPUs that were plugged in or out while the VM runs: what the books must say of them. Pure: the caller saves and acts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quietcore.model import CpuSet, Entry, Ledger, LogicalCpu, Machine, Plan, VcpuPlacement
from quietcore.placement import with_running, with_vcpu, without_vcpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """A VM's entry after its vCPUs changed: those that came with their CPUs, those that went, and why others got none."""

    entry: Entry
    came: tuple[VcpuPlacement, ...] = ()
    went: tuple[VcpuPlacement, ...] = ()
    refused: tuple[tuple[int, str], ...] = ()


def adjust(entry: Entry, running: frozenset[int], machine: Machine, ledger: Ledger, reserved: CpuSet) -> Adjusted:
    """Compare the plan with the vCPUs that QEMU runs.

    A vCPU that the plan does not know gets a CPU of its own where the manifest allows as many (maxSockets) and one is free,
    nearest to the VM's other CPUs first; else it stays on the shared pool. One that was plugged out gives its CPU back; the
    vCPUs that the VM started with are never given up, because they missing is an error. A sandbox's runtime plugs as it likes
    and then says which CPUs its containers have (`quietcore sandbox update`).
    """
    plan = entry.plan
    if plan is None:
        return Adjusted(entry=entry)
    if entry.sandbox is not None:
        after = with_running(plan, running)
        came, went = (tuple(one for one in some.vcpus if one not in others.vcpus) for some, others in ((after, plan), (plan, after)))
        return Adjusted(entry=replace(entry, plan=after), came=came, went=went)
    went = tuple(one for one in plan.vcpus if one.vcpu >= entry.spec.cpu.topology.vcpus and one.vcpu not in running)
    for one in went:
        plan = without_vcpu(plan, one)
    plugged, refused = [], []
    for vcpu in sorted(running - {one.vcpu for one in plan.vcpus}):
        free = machine.usable - machine.isolated - reserved - ledger.with_entry(replace(entry, plan=plan)).owned
        answer = _place(entry, plan, vcpu, machine, free)
        if isinstance(answer, str):
            refused.append((vcpu, answer))
            continue
        plugged.append(answer)
        plan = with_vcpu(plan, answer)
    return Adjusted(entry=replace(entry, plan=plan), came=tuple(plugged), went=went, refused=tuple(refused))


def possible_vcpus(entry: Entry) -> int:
    """How many vCPUs the manifest lets the VM have."""
    topology = entry.spec.cpu.topology
    return max(entry.spec.cpu.max_sockets, topology.sockets) * topology.cores * topology.threads


def _place(entry: Entry, plan: Plan, vcpu: int, machine: Machine, free: CpuSet) -> VcpuPlacement | str:
    if vcpu >= possible_vcpus(entry):
        return f"the manifest allows {possible_vcpus(entry)} vCPUs"
    if not plan.dedicated:
        return VcpuPlacement(vcpu=vcpu, rule="plugged in, on the shared pool as the VM's others")
    if not free:
        return "no CPU is free"
    chosen = min((cpu for cpu in machine.cpus if cpu.cpu in free), key=lambda cpu: _distance(cpu, plan, machine, free))
    realtime = entry.spec.cpu.realtime is not None and vcpu in entry.spec.cpu.realtime.vcpus
    return VcpuPlacement(
        vcpu=vcpu, pcpu=chosen.cpu, node=chosen.node, core=chosen.core, realtime=realtime, rule="plugged in: nearest free CPU"
    )


def _distance(cpu: LogicalCpu, plan: Plan, machine: Machine, free: CpuSet) -> tuple[bool, bool, bool, int]:
    """On a node of the VM; beside a thread of the VM on its core; on a core that nobody else uses; then by number."""
    nodes = {one.node for one in plan.vcpus}
    siblings = machine.siblings(cpu.cpu) - CpuSet.of(cpu.cpu)
    return (cpu.node not in nodes, not (siblings and siblings <= plan.exclusive), not siblings <= free | plan.exclusive, cpu.cpu)
