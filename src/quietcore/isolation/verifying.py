"""Reading the kernel back: is every thread of a VM where the plan says, and who else may run on its CPUs?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from quietcore.isolation.foreign import ForeignTask, IrqFact
from quietcore.isolation.realtime import inversions
from quietcore.isolation.targets import Target, targets, vcpu_group
from quietcore.isolation.throttling import throttled
from quietcore.model import CgroupFacts, CpuSet, Finding, HostThread, Mechanism, Plan, RealtimeHost, ThreadCensus


def verify(
    plan: Plan,
    census: ThreadCensus,
    facts: CgroupFacts,
    mechanism: Mechanism,
    *,
    priority: int = 1,
    foreign: tuple[ForeignTask, ...] = (),
    irqs: tuple[IrqFact, ...] = (),
    cpu_kthreads: tuple[HostThread, ...] = (),
    may_invert: bool = False,
    unthrottled: RealtimeHost | None = None,
    online: CpuSet | None = None,
) -> tuple[Finding, ...]:
    """Every fact that is not as the plan says, errors first.

    `cpu_kthreads` are the kernel threads of the CPUs where the VM has real-time threads; `may_invert` says that the VM was allowed to
    outrank them; `unthrottled` is the host as it is now, where its configuration switches throttling off for this VM; `online` are the
    host's CPUs, where they are to be looked at.
    A task or interrupt that is merely allowed on the VM's CPUs is `info` where the mechanism cannot exclude it and
    `error` inside an isolated partition, which promises exactly that.
    """
    findings = (
        *offline(plan.exclusive if online is not None else CpuSet(), online or CpuSet()),
        *_missing(plan, census),
        *(finding for place in targets(plan, census, facts, mechanism, priority) for finding in _thread(place, plan)),
        *_partitions(plan, census, facts, mechanism),
        *_quotas(plan, facts),
        *(throttled(unthrottled) if unthrottled is not None else ()),
        *inversions(cpu_kthreads, priority, allowed=may_invert),
        *_foreign(plan, mechanism, foreign),
        *_irqs(plan, mechanism, irqs),
    )
    return by_severity(findings)


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings; each kind in the order in which it was found."""
    order = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(findings, key=lambda one: order[one.severity]))


def offline(owned: CpuSet, online: CpuSet) -> Iterator[Finding]:
    """The CPUs of a VM that went away below it."""
    for cpu in owned - online:
        yield Finding(
            code="cpu-offline",
            severity="error",
            kind="cpu",
            id=str(cpu),
            expected="online",
            actual="offline",
            hint=f"its thread waits elsewhere; echo 1 > /sys/devices/system/cpu/cpu{cpu}/online, and the agent or `quietcore apply` of "
            "the same manifest puts it back",
        )


def _missing(plan: Plan, census: ThreadCensus) -> Iterator[Finding]:
    found = {thread.vcpu for thread in census.vcpus}
    for placement in plan.vcpus:
        if placement.vcpu not in found:
            yield Finding(
                code="vcpu-missing",
                severity="error",
                kind="vcpu",
                id=str(placement.vcpu),
                expected="one thread",
                actual="none",
                hint="QEMU reports no thread for this vCPU: describe the VM and look at its log",
            )
    for vcpu in sorted(vcpu for vcpu in found if vcpu is not None and vcpu not in {one.vcpu for one in plan.vcpus}):
        yield Finding(
            code="vcpu-unplanned",
            severity="error",
            kind="vcpu",
            id=str(vcpu),
            expected="no such vCPU",
            actual="a running thread",
            hint="a vCPU was plugged in behind our back and has no CPU of its own",
        )


def _thread(place: Target, plan: Plan) -> Iterator[Finding]:
    thread = place.thread
    subject = f"{thread.tid} ({thread.comm})"
    is_vcpu = thread.vcpu is not None
    if place.group and thread.cgroup != place.group:
        yield Finding(
            code="vcpu-cgroup" if is_vcpu else "thread-cgroup",
            severity="error" if is_vcpu else "warning",
            kind="thread",
            id=subject,
            expected=place.group,
            actual=thread.cgroup,
            hint="moved by someone else; `quietcore apply` of the same manifest puts it back",
        )
    if is_vcpu and thread.allowed != place.cpus:
        yield Finding(
            code="vcpu-affinity",
            severity="error",
            kind="thread",
            id=subject,
            expected=str(place.cpus),
            actual=str(thread.allowed),
            hint="this vCPU may run elsewhere than planned; `quietcore apply` of the same manifest puts it back",
        )
    elif not is_vcpu and thread.role != "pit" and plan.strategy != "whole" and not thread.allowed.isdisjoint(plan.dedicated):
        yield Finding(
            code="thread-on-dedicated",
            severity="error",
            kind="thread",
            id=subject,
            expected=f"no CPU of {plan.dedicated}",
            actual=str(thread.allowed),
            hint="a helper thread of this VM may preempt its vCPUs; `quietcore apply` of the same manifest moves it away",
        )
    elif not is_vcpu and thread.allowed != place.cpus:
        yield Finding(
            code="thread-affinity",
            severity="warning",
            kind="thread",
            id=subject,
            expected=str(place.cpus),
            actual=str(thread.allowed),
        )
    if place.policy is not None and (thread.policy, thread.priority) != (place.policy, place.priority):
        yield Finding(
            code="vcpu-policy" if is_vcpu else "thread-policy",
            severity="error" if is_vcpu else "warning",
            kind="thread",
            id=subject,
            expected=f"{place.policy} {place.priority}",
            actual=f"{thread.policy} {thread.priority}",
            hint="a real-time vCPU lost its scheduling policy" if is_vcpu else "this thread works for real-time vCPUs and comes too late",
        )


def _partitions(plan: Plan, census: ThreadCensus, facts: CgroupFacts, mechanism: Mechanism) -> Iterator[Finding]:
    if mechanism != "partition":
        return
    groups = [facts.home] if plan.strategy == "whole" else []
    if plan.strategy != "whole":
        owners = {placement.vcpu for placement in plan.vcpus if placement.pcpu is not None}
        groups = [vcpu_group(facts, thread.vcpu) for thread in census.vcpus if thread.vcpu is not None and thread.vcpu in owners]
    for group in groups:
        state = facts.partition_states.get(group, "no partition")
        if state != "isolated":
            yield Finding(
                code="partition-invalid",
                severity="error",
                kind="cgroup",
                id=group,
                expected="isolated",
                actual=state,
                hint="the kernel dropped the partition: other tasks may run on these CPUs until it is repaired",
            )


def _quotas(plan: Plan, facts: CgroupFacts) -> Iterator[Finding]:
    if not plan.dedicated:
        return
    for group, quota in sorted(facts.quotas.items()):
        yield Finding(
            code="cpu-quota",
            severity="error",
            kind="cgroup",
            id=group,
            expected="no CPU quota",
            actual=quota,
            hint="a quota above a vCPU throttles the guest; write max to its cpu.max (v1: -1 to cpu.cfs_quota_us)",
        )


def _foreign(plan: Plan, mechanism: Mechanism, foreign: tuple[ForeignTask, ...]) -> Iterator[Finding]:
    guests = {cpu: tuple(task for task in foreign if cpu in task.allowed) for cpu in plan.dedicated}
    for cpus, tasks in _alike(guests):
        yield Finding(
            code="foreign-task-allowed",
            severity="error" if mechanism == "partition" else "info",
            kind="cpu",
            id=str(cpus),
            expected="only the VM's own vCPU",
            actual=f"{_count(len(tasks), 'other task')} may run here: {_some(sorted({task.comm for task in tasks}))}",
            hint="find them in /proc/*/status by Cpus_allowed_list"
            if mechanism == "partition"
            else "this mechanism cannot exclude them; cgroup v2 partitions (Linux 6.11) can",
        )


def _irqs(plan: Plan, mechanism: Mechanism, irqs: tuple[IrqFact, ...]) -> Iterator[Finding]:
    for managed in (False, True):
        here = {cpu: tuple(irq for irq in irqs if irq.managed is managed and cpu in irq.allowed) for cpu in plan.dedicated}
        for cpus, some in _alike(here):
            yield Finding(
                code="irq-allowed",
                severity="error" if mechanism == "partition" and not managed else "info",
                kind="cpu",
                id=str(cpus),
                expected="no interrupt of a device",
                actual=f"{_count(len(some), 'interrupt')} may be delivered here: {_some([f'{irq.irq} {irq.name}' for irq in some])}",
                hint="placed by the kernel itself (managed); isolcpus=managed_irq keeps them away"
                if managed
                else "see /proc/irq/*/smp_affinity_list",
            )


_Fact = TypeVar("_Fact")


def _alike(facts: Mapping[int, tuple[_Fact, ...]]) -> Iterator[tuple[CpuSet, tuple[_Fact, ...]]]:
    """The CPUs about which the same is to be said, together: a VM has many of them. CPUs with nothing to say are left out."""
    alike: dict[tuple[_Fact, ...], CpuSet] = {}
    for cpu, some in facts.items():
        if some:
            alike[some] = alike.get(some, CpuSet()) | CpuSet.of(cpu)
    yield from ((cpus, some) for some, cpus in alike.items())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
