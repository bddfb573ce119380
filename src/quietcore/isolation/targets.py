"""Where each thread of a VM belongs: the three strategies differ in nothing else.

`whole` puts everything on the VM's own CPUs, `housekeeping` puts all but the vCPUs on the extra CPUs that the VM pays for,
`dedicated` leaves all but the vCPUs on the shared pool. Placement already decided the sets; here they meet the threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from quietcore.model import CgroupFacts, CpuSet, HostThread, Mechanism, Plan, Policy, ThreadCensus

HOUSEKEEPING = "housekeeping"
_HIGHEST = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thread's place: the CPUs it may use, its group ("" where groups are not ours to set), its policy (None: left alone)."""

    thread: HostThread
    cpus: CpuSet
    group: str
    policy: Policy | None = None
    priority: int = 0


def vcpu_cpus(plan: Plan, vcpu: int) -> CpuSet:
    """The CPUs of one vCPU: its own pCPU, or for a vCPU without one the shared pool; under the other strategies it stays with the VM."""
    for placement in plan.vcpus:
        if placement.vcpu == vcpu and placement.pcpu is not None:
            return CpuSet.of(placement.pcpu)
    return plan.shared if plan.strategy == "dedicated" else plan.emulator


def other_cpus(plan: Plan, thread: HostThread) -> CpuSet:
    """The CPUs of a thread that is no vCPU."""
    if thread.role == "pit":
        return vcpu_cpus(plan, 0)  # KubeVirt's rule: the timer's kernel thread follows vCPU 0
    if thread.iothread is not None and thread.iothread in plan.io:
        return plan.io[thread.iothread]
    return plan.emulator


def has_own_cpu(plan: Plan, vcpu: int | None) -> bool:
    """Whether this vCPU has a pCPU of its own."""
    return any(placement.vcpu == vcpu and placement.pcpu is not None for placement in plan.vcpus)


def partition_cpus(plan: Plan) -> CpuSet:
    """What isolated partitions take from the host: the dedicated CPUs or, under `whole`, everything of its own that the VM runs on."""
    return (plan.dedicated | plan.emulator) & plan.exclusive if plan.strategy == "whole" else plan.dedicated


def vcpu_group(facts: CgroupFacts, vcpu: int) -> str:
    """The group of one vCPU: libvirt's own, or ours below `home`."""
    return facts.vcpu_groups.get(vcpu, f"{facts.home}/vcpu{vcpu}")


def targets(plan: Plan, census: ThreadCensus, facts: CgroupFacts, mechanism: Mechanism, priority: int) -> tuple[Target, ...]:
    """The place of every thread of the census. `priority` is the SCHED_FIFO priority of real-time vCPUs."""
    placed = [(thread, other_cpus(plan, thread) if thread.vcpu is None else vcpu_cpus(plan, thread.vcpu)) for thread in census.threads]
    return tuple(
        Target(
            thread=thread,
            cpus=cpus,
            group=_group(thread, cpus, facts, mechanism, plan),
            policy="fifo" if (wanted := _fifo(plan, thread, cpus, priority)) else None,
            priority=wanted,
        )
        for thread, cpus in placed
    )


def _fifo(plan: Plan, thread: HostThread, cpus: CpuSet, priority: int) -> int:
    """The SCHED_FIFO priority of a thread, 0 for none.

    The timer's thread stands above the vCPUs that wait for its ticks, as in KubeVirt. vhost workers carry a real-time guest's packets:
    on CPUs that the VM pays for they run before QEMU's other work; on the shared pool they would take other VMs' time.
    """
    realtime = {placement.vcpu for placement in plan.vcpus if placement.realtime}
    if not realtime:
        return 0
    if thread.role == "pit":
        return min(priority + 1, _HIGHEST)
    owned = thread.role == "vhost" and cpus <= plan.exclusive
    return priority if thread.vcpu in realtime or owned else 0


def _group(thread: HostThread, cpus: CpuSet, facts: CgroupFacts, mechanism: Mechanism, plan: Plan) -> str:
    if mechanism == "affinity":
        return ""
    if thread.kernel and (mechanism != "partition" or cpus.isdisjoint(partition_cpus(plan))):
        return ""  # kernel threads stay where the kernel put them: affinity decides; a partition's CPUs are only reached from inside it
    if thread.role == "pit":
        return vcpu_group(facts, 0)
    if thread.vcpu is not None:
        return vcpu_group(facts, thread.vcpu)
    if facts.layout == "libvirt":
        return facts.io_groups.get(thread.iothread or 0, facts.emulator_group)
    if mechanism == "partition" and plan.strategy != "whole":
        return facts.home  # the vCPUs' partitions need no second group: what is born later stays in home
    return f"{facts.home}/{HOUSEKEEPING}"
