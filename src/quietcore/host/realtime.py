"""What the kernel shows of its limits on real-time tasks: throttling, the fair server, and the budgets of cgroup v1."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType

from quietcore.host.cgroups import cpu_groups, v1_mount
from quietcore.host.fs import HostFs
from quietcore.isolation import fair_server_file
from quietcore.model import Budget, BudgetLevel, CpuSet, RealtimeHost, levels_of

_SYSCTL = "/proc/sys/kernel/sched_rt_"


def realtime_host(fs: HostFs, cpus: CpuSet, tids: Iterable[int]) -> RealtimeHost:
    """The limits on these CPUs, for the threads that are to be real-time. A thread that ended is left out."""
    mount = v1_mount(fs, "cpu")
    budgeted = bool(mount) and fs.exists(f"{mount}/cpu.rt_runtime_us")
    groups = cpu_groups(fs, tids) if budgeted else MappingProxyType({})
    below = sorted({group for group in groups.values() if group != "/"})
    servers = {cpu: _budget(fs, fair_server_file(cpu), fair_server_file(cpu).replace("runtime", "period")) for cpu in cpus}
    return RealtimeHost(
        throttle=_budget(fs, f"{_SYSCTL}runtime_us", f"{_SYSCTL}period_us"),
        fair_servers=MappingProxyType({cpu: budget for cpu, budget in servers.items() if budget is not None}),
        cpu_mount=mount if budgeted else "",
        levels=_levels(fs, mount, _shared_group(fs, mount, below[0])) if below else (),
        groups=groups,
    )


def _shared_group(fs: HostFs, mount: str, group: str) -> str:
    """The group that all of libvirt's VMs share, above what libvirt (and systemd's scope) made for this one; else the group itself."""
    home = group.rpartition("/")[0]
    if not home or not fs.is_dir(f"{mount}{home}/emulator"):
        return group
    above = home.rpartition("/")[0]
    return (above.rpartition("/")[0] if above.endswith(".scope") else above) or "/"


def _levels(fs: HostFs, mount: str, group: str) -> tuple[BudgetLevel, ...]:
    paths = ("/", *levels_of(group))
    return tuple(BudgetLevel(group=path, budget=_group_budget(fs, mount, path), siblings=_siblings(fs, mount, path)) for path in paths)


def _siblings(fs: HostFs, mount: str, group: str) -> MappingProxyType[str, Budget]:
    if group == "/":
        return MappingProxyType({})
    parent = group.rpartition("/")[0]
    names = (f"{parent}/{name}" for name in fs.listdir(f"{mount}{parent}") if fs.is_dir(f"{mount}{parent}/{name}"))
    return MappingProxyType({name: _group_budget(fs, mount, name) for name in names if name != group})


def _group_budget(fs: HostFs, mount: str, group: str) -> Budget:
    folder = f"{mount}{group.rstrip('/')}"
    return _budget(fs, f"{folder}/cpu.rt_runtime_us", f"{folder}/cpu.rt_period_us") or Budget(runtime=0, period=1)


def _budget(fs: HostFs, runtime: str, period: str) -> Budget | None:
    texts = [fs.read_or(path, "").strip() for path in (runtime, period)]
    return Budget(runtime=int(texts[0]), period=int(texts[1])) if all(texts) else None
