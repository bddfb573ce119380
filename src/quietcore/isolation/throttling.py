"""What the kernel takes from a vCPU that polls, so that other tasks live: said always, switched off only where the host allows it.

Older kernels throttle real-time tasks (sched_rt_runtime_us); since Linux 6.12 a fair server lends the time to ordinary tasks that
wait (commit 5f6bd380c7bd), and -1 in the older file does not switch it off. With RT_GROUP_SCHED the budgets of groups throttle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from quietcore.isolation.budgets import granted
from quietcore.model import CpuSet, Finding, RealtimeHost, SetValue

THROTTLE: Final = "/proc/sys/kernel/sched_rt_runtime_us"
FAIR_SERVERS: Final = "/sys/kernel/debug/sched/fair_server"
_MILLISECOND_NS: Final = 1_000_000


def fair_server_file(cpu: int) -> str:
    """Where the kernel keeps how much its fair server may lend on one CPU, in nanoseconds."""
    return f"{FAIR_SERVERS}/cpu{cpu}/runtime"


def unthrottling_steps(host: RealtimeHost) -> tuple[SetValue, ...]:
    """Leave the CPUs of real-time vCPUs to them. Only after the kernel's own threads are above: nothing else gets time from then on.

    Throttling first: while it is on, some kernels refuse a fair server of no runtime (EBUSY on 6.12).
    """
    steps = [SetValue(path=THROTTLE, value="-1")] if host.throttle is not None and host.throttle.runtime >= 0 else []
    steps += [SetValue(path=fair_server_file(cpu), value="0") for cpu, lent in sorted(host.fair_servers.items()) if lent.runtime]
    return tuple(steps)


def taken(host: RealtimeHost) -> Iterator[str]:
    """In sentences, what a polling vCPU loses on this host as it is now."""
    budget = granted(host)[-1] if host.levels else None
    if budget is not None and budget.share < 1:
        yield f"RT_GROUP_SCHED: a polling real-time vCPU gets {budget.runtime} of every {budget.period} us on its CPU"
    for lent, cpus in _alike(host):
        yield (
            f"the kernel's fair server lends ordinary tasks {_ms(lent[0])} of every {_ms(lent[1])} ms on CPUs {cpus}, "
            "which a polling real-time vCPU loses while such a task waits there"
        )
    throttle = host.throttle
    if throttle is not None and throttle.share < 1 and not host.fair_servers and not host.levels:
        lost = throttle.period - throttle.runtime
        yield f"the kernel takes a polling real-time vCPU off its CPU for {lost} of every {throttle.period} us (sched_rt_runtime_us)"


def throttled(host: RealtimeHost) -> Iterator[Finding]:
    """What throttles again although the host's configuration switches it off."""
    for step in unthrottling_steps(host):
        cpu = step.path.removeprefix(f"{FAIR_SERVERS}/cpu").partition("/")[0]
        lent = host.fair_servers[int(cpu)] if cpu.isdigit() else host.throttle
        yield Finding(
            code="realtime-throttled",
            severity="warning",
            kind="file",
            id=step.path,
            expected=step.value,
            actual=str(lent.runtime if lent is not None else ""),
            hint="somebody switched it on again; `quietcore apply` of the same manifest switches it off",
        )


def _alike(host: RealtimeHost) -> Iterator[tuple[tuple[int, int], CpuSet]]:
    alike: dict[tuple[int, int], CpuSet] = {}
    for cpu, lent in sorted(host.fair_servers.items()):
        if lent.runtime:
            key = (lent.runtime, lent.period)
            alike[key] = alike.get(key, CpuSet()) | CpuSet.of(cpu)
    yield from alike.items()


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / _MILLISECOND_NS:g}"
