"""What must stand above real-time vCPUs before they become SCHED_FIFO.

A guest that polls never leaves its CPU. The kernel's own threads of that CPU then run only if their priority is higher; where it
is not, whatever waits for every CPU waits for ever: dropping caches, loading a module, arming or removing a trace.
"""

from __future__ import annotations

from collections.abc import Iterator

from quietcore.model import CpuSet, Finding, HostThread, Plan, SetScheduler, Severity

_REALTIME_CLASSES = ("fifo", "rr")


def polling_cpus(plan: Plan) -> CpuSet:
    """The CPUs of the real-time vCPUs, which a guest that polls never leaves."""
    return CpuSet.from_iterable(vcpu.pcpu for vcpu in plan.vcpus if vcpu.pcpu is not None and vcpu.realtime)


def realtime_cpus(plan: Plan) -> CpuSet:
    """The CPUs on which threads of the VM may be SCHED_FIFO; none for a VM without real-time vCPUs.

    Beside the real-time vCPUs' own these are vCPU 0's (the timer's thread goes there) and the CPUs that the VM pays for its other
    threads (vhost workers).
    """
    if not any(vcpu.realtime for vcpu in plan.vcpus):
        return CpuSet()
    own = CpuSet.from_iterable(vcpu.pcpu for vcpu in plan.vcpus if vcpu.pcpu is not None and (vcpu.realtime or vcpu.vcpu == 0))
    return own | (plan.emulator & plan.exclusive)


def raising_steps(cpu_kthreads: tuple[HostThread, ...], priority: int) -> tuple[SetScheduler, ...]:
    """Lift those of a CPU's kernel threads (ksoftirqd, ktimers, rcuc, rcub) that are not above this SCHED_FIFO priority just above it.

    Above priority 99 there is nothing: the kernel will refuse the step, as it does for a thread that may not be changed.
    """
    return tuple(
        SetScheduler(tid=thread.tid, policy="fifo", priority=priority + 1) for thread in cpu_kthreads if is_below(thread, priority)
    )


def inversions(cpu_kthreads: tuple[HostThread, ...], priority: int, *, allowed: bool) -> Iterator[Finding]:
    """The kernel threads that a polling vCPU of this priority starves: an error, or a warning where the VM was allowed it by name."""
    severity: Severity = "warning" if allowed else "error"
    for thread in cpu_kthreads:
        if is_below(thread, priority):
            yield Finding(
                code="priority-inversion",
                severity=severity,
                kind="thread",
                id=f"{thread.tid} ({thread.comm})",
                expected=f"above fifo {priority}",
                actual=f"{thread.policy} {thread.priority}",
                hint="a polling vCPU keeps this kernel thread from running and can hang the host; "
                "`quietcore apply` of the same manifest raises it again",
            )


def is_below(thread: HostThread | SetScheduler, priority: int) -> bool:
    """Whether a thread does not preempt one that is SCHED_FIFO with this priority."""
    if thread.policy in _REALTIME_CLASSES:
        return thread.priority <= priority
    return thread.policy != "deadline"
