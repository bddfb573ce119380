"""vCPUs that were plugged in while the VM ran: the placement with them and without them."""

from __future__ import annotations

from dataclasses import replace

from quietcore.model import CpuSet, LauncherPod, Plan, VcpuPlacement


def plugged(pod: LauncherPod, plan: Plan) -> tuple[VcpuPlacement, ...]:
    """The vCPUs that came after the start, which the pod does not know."""
    return tuple(vcpu for vcpu in plan.vcpus if vcpu.vcpu >= pod.guest.topology.vcpus)


def with_vcpu(plan: Plan, one: VcpuPlacement) -> Plan:
    """The placement with one vCPU more."""
    return _moved(plan, CpuSet() if one.pcpu is None else CpuSet.of(one.pcpu), CpuSet(), (*plan.vcpus, one))


def without_vcpu(plan: Plan, gone: VcpuPlacement) -> Plan:
    """The placement without one of its vCPUs."""
    rest = tuple(one for one in plan.vcpus if one != gone)
    return _moved(plan, CpuSet(), CpuSet() if gone.pcpu is None else CpuSet.of(gone.pcpu), rest)


def _moved(plan: Plan, more: CpuSet, less: CpuSet, vcpus: tuple[VcpuPlacement, ...]) -> Plan:
    """The CPU enters or leaves the container that holds the vCPUs' own, and QEMU's other threads where they share these."""
    owner = next((one.container for one in plan.assignments if not one.cpus.isdisjoint(plan.dedicated)), "")
    return replace(
        plan,
        vcpus=tuple(sorted(vcpus, key=lambda one: one.vcpu)),
        emulator=(plan.emulator | more) - less if plan.emulator == plan.dedicated else plan.emulator,
        assignments=tuple(
            replace(one, cpus=(one.cpus | more) - less) if one.container == owner else replace(one, cpus=one.cpus - less)
            for one in plan.assignments
        ),
    )
