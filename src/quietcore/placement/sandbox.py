"""A sandbox is a VM that hosts containers, as Kata's do, and owns the union of their CPUs: which vCPU backs which of them.

The containers' CPUs were chosen elsewhere (by the kubelet), so nothing is chosen here: CPUs and vCPUs are matched, and as few vCPUs
as the change allows go to another CPU.
"""

from __future__ import annotations

from dataclasses import replace

from quietcore.model import (
    PLACEHOLDER,
    Assignment,
    CpuSet,
    Ledger,
    LogicalCpu,
    Machine,
    Options,
    Plan,
    Reason,
    Refusal,
    VcpuPlacement,
)
from quietcore.placement.admission import empty_pool, shared_pool
from quietcore.placement.host_books import HostBooks
from quietcore.placement.moving import unusable
from quietcore.placement.vcpu_order import SHARED

_RULE = "the lowest vCPU that was free for a container's CPU"


def sandbox_plan(current: Plan, machine: Machine, ledger: Ledger, options: Options, cpus: CpuSet) -> Plan | Refusal:
    """The plan of a running VM whose containers have `cpus` now; an entry of the same VM in the ledger counts as absent.

    Each of the CPUs backs one vCPU; a vCPU whose CPU stays keeps it, those that are left over share the pool. A refusal names all
    that is wrong with the CPUs: never does a vCPU silently stay without one that a container was promised.
    """
    books = HostBooks.of(machine, ledger, options, current.vm)
    reasons = tuple(unusable(books, cpus))
    running, wanted = len(current.vcpus), len(cpus)
    if wanted > running:
        message = f"the containers have {wanted} CPUs and {current.vm} runs {running} vCPUs: plug in {wanted - running} more first"
        reasons = (*reasons, Reason(constraint="vcpu-count", message=message, wanted=str(wanted), free=str(running)))
    if reasons:
        return Refusal(message=reasons[0].message, vm=current.vm, reasons=reasons)
    shared = shared_pool(books) - cpus
    others = tuple(replace(one, cpus=CpuSet()) for one in current.assignments if one.container != PLACEHOLDER)
    plan = replace(
        current,
        vcpus=_backed(current.vcpus, machine, cpus),
        shared=shared,
        emulator=shared,
        unpinned=CpuSet(),
        assignments=(*others, Assignment(container=PLACEHOLDER, cpus=cpus)) if cpus else others,
    )
    refusal = empty_pool(plan, books)
    return replace(refusal, vm=current.vm) if refusal is not None else plan


def with_running(plan: Plan, running: frozenset[int]) -> Plan:
    """A sandbox's plan after its runtime plugged vCPUs in or out: new ones share the pool, the CPUs of lost ones stay its own."""
    kept = tuple(one for one in plan.vcpus if one.vcpu in running)
    came = tuple(VcpuPlacement(vcpu=vcpu, rule=SHARED) for vcpu in running - {one.vcpu for one in kept})
    plan = replace(plan, vcpus=tuple(sorted((*kept, *came), key=lambda one: one.vcpu)))
    return replace(plan, unpinned=plan.exclusive - plan.dedicated)


def _backed(vcpus: tuple[VcpuPlacement, ...], machine: Machine, cpus: CpuSet) -> tuple[VcpuPlacement, ...]:
    """The vCPUs with each CPU given to one of them: new CPUs first to those that lose theirs, on their node where that can be."""
    placed = {one.vcpu: one for one in vcpus if one.pcpu is not None and one.pcpu in cpus}
    waiting = [one for one in vcpus if one.vcpu not in placed]
    came = cpus - CpuSet.from_iterable(one.pcpu for one in placed.values() if one.pcpu is not None)
    for cpu in sorted((one for one in machine.cpus if one.cpu in came), key=_by_core):
        one = min(waiting, key=lambda free: (free.pcpu is None, free.node != cpu.node, free.vcpu))
        waiting.remove(one)
        placed[one.vcpu] = replace(one, pcpu=cpu.cpu, node=cpu.node, core=cpu.core, rule=_RULE)
    placed |= {one.vcpu: VcpuPlacement(vcpu=one.vcpu, rule=SHARED) for one in waiting}
    return tuple(placed[one.vcpu] for one in vcpus)


def _by_core(cpu: LogicalCpu) -> tuple[int, int, int]:
    """Siblings after each other, so that in a new sandbox a guest core's threads sit on one host core."""
    return cpu.node, cpu.core, cpu.cpu
