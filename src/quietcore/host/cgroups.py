"""The cgroup hierarchy that carries cpuset: where it is, what stands around a VM, and whether isolated partitions work.

What the kernel can do is decided by a probe in scratch groups with read-back, never by its version: cpuset.cpus.exclusive
exists from Linux 6.7 on, but is independent of cpuset.cpus only since commit 737bb142a00d (6.11).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal

from quietcore.host.fs import HostFs
from quietcore.host.threads import cgroup_of
from quietcore.model import OWN_ROOT, CgroupFacts, CpuSet, ThreadCensus, levels_of

_PROBE: Final = "/quietcore-probe"
_ABSENT: Final = "no such file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """The mounted hierarchy with the cpuset controller; `mount` is "" where there is none."""

    version: Literal[1, 2]
    mount: str
    writable: bool
    systemd: bool


def hierarchy(fs: HostFs) -> Hierarchy:
    """Find the hierarchy. A v1 cpuset mount wins over an empty v2 one (a hybrid host)."""
    mounts = [line.split() for line in fs.read_or("/proc/self/mounts", "").splitlines()]
    systemd = fs.is_dir("/run/systemd/system")
    for fields in mounts:
        if len(fields) > 3 and fields[2] == "cgroup" and "cpuset" in fields[3].split(","):
            return Hierarchy(version=1, mount=fields[1], writable="rw" in fields[3].split(","), systemd=systemd)
    for fields in mounts:
        if len(fields) > 3 and fields[2] == "cgroup2" and "cpuset" in fs.read_or(f"{fields[1]}/cgroup.controllers", "").split():
            return Hierarchy(version=2, mount=fields[1], writable="rw" in fields[3].split(","), systemd=systemd)
    return Hierarchy(version=2, mount="", writable=False, systemd=systemd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Whether a remote isolated partition can be made, and the sentence when not."""

    works: bool
    why_not: str = ""


def probe_partitions(fs: HostFs, tree: Hierarchy, cpu: int) -> Probe:
    """Make an isolated partition of `cpu` two levels down, read it back and remove it. `cpu` should be about to be dedicated."""
    if tree.version == 1 or not tree.writable:
        return Probe(works=False, why_not="cgroup v1 has no isolated partitions" if tree.version == 1 else "no cgroup can be written")
    outer, inner = f"{tree.mount}{_PROBE}", f"{tree.mount}{_PROBE}/inner"
    sweep_probe(fs, tree)
    try:
        with ExitStack() as undo:
            undo.callback(sweep_probe, fs, tree)
            fs.write(f"{tree.mount}/cgroup.subtree_control", "+cpuset")
            for group in (outer, inner):
                fs.mkdir(group)
                fs.write(f"{group}/cpuset.cpus.exclusive", str(cpu))
                if group == outer:
                    fs.write(f"{group}/cgroup.subtree_control", "+cpuset")
            fs.write(f"{inner}/cpuset.cpus.partition", "isolated")
            state = fs.read(f"{inner}/cpuset.cpus.partition").strip()
    except FileNotFoundError as err:
        return Probe(works=False, why_not=f"this kernel has no {str(err.filename or '').rpartition('/')[2] or 'exclusive cpusets'}")
    except OSError as err:
        return Probe(works=False, why_not=f"the kernel refused an isolated partition in a scratch group: {err.strerror or err}")
    return Probe(works=True) if state == "isolated" else Probe(works=False, why_not=f"the kernel answered {state!r} to a scratch partition")


def sweep_probe(fs: HostFs, tree: Hierarchy) -> None:
    """Remove the scratch groups, and with them their partition; also those of a probe that was killed."""
    for group in (f"{tree.mount}{_PROBE}/inner", f"{tree.mount}{_PROBE}"):
        if tree.mount and fs.is_dir(group):
            fs.rmdir(group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups of one VM before anything else is known of them; `cpu` are its vCPUs' groups in cgroup v1's cpu hierarchy."""

    layout: Literal["libvirt", "bare", "none"]
    home: str
    vcpus: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    io: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    emulator: str = ""
    cpu: tuple[str, ...] = ()
    why_none: str = ""


def groups_of(fs: HostFs, tree: Hierarchy, census: ThreadCensus, domain: str) -> Groups:
    """Recognise libvirt's layout by its emulator group, whichever group the threads stand in now."""
    own_home = f"{OWN_ROOT}/{domain}"
    if not tree.writable:
        return Groups(layout="none", home="/", why_none="no cpuset hierarchy can be written here")
    cpu = tuple(sorted(set(cpu_groups(fs, (thread.tid for thread in census.vcpus)).values()))) if tree.version == 1 else ()
    main = next((thread.cgroup for thread in census.threads if thread.tid == census.pid), "/")
    candidates = [main.rpartition("/")[0], *(thread.cgroup.rpartition("/")[0] for thread in census.threads)]
    for home in candidates:
        if home and not home.startswith(OWN_ROOT + "/") and fs.is_dir(f"{tree.mount}{home}/emulator"):
            return Groups(
                layout="libvirt",
                home=home,
                vcpus=_numbered(fs, tree, home, "vcpu"),
                io=_numbered(fs, tree, home, "iothread"),
                emulator=f"{home}/emulator",
                cpu=cpu,
            )
    if tree.version == 2 and tree.systemd:
        return Groups(
            layout="none",
            home="/",
            why_none="systemd owns this cgroup tree and would silently drop a cpuset below a directory that is no unit:"
            " use libvirt's default cgroup_controllers",
        )
    return Groups(layout="bare", home=own_home, cpu=cpu)


def _numbered(fs: HostFs, tree: Hierarchy, home: str, prefix: str) -> Mapping[int, str]:
    names = [name for name in fs.listdir(f"{tree.mount}{home}") if name.startswith(prefix) and name[len(prefix) :].isdigit()]
    return MappingProxyType({int(name[len(prefix) :]): f"{home}/{name}" for name in names})


def facts(fs: HostFs, tree: Hierarchy, groups: Groups, probe: Probe) -> CgroupFacts:
    """Read everything that isolation must know around one VM."""
    bare = CgroupFacts(
        version=tree.version,
        mount=tree.mount,
        layout=groups.layout,
        home=groups.home,
        vcpu_groups=groups.vcpus,
        io_groups=groups.io,
        emulator_group=groups.emulator,
        partitions=probe.works and groups.layout != "none",
        why_not=groups.why_none or probe.why_not,
    )
    if groups.layout == "none":
        return bare
    bare = replace(bare, quota_mount=tree.mount if tree.version == 2 else v1_mount(fs, "cpu"))
    home = f"{tree.mount}{groups.home}"
    children = [f"{groups.home}/{name}" for name in fs.listdir(home) if fs.is_dir(f"{home}/{name}")] if fs.is_dir(home) else []
    exclusive = {level: fs.read_or(bare.file(level, "cpuset.cpus.exclusive"), _ABSENT) for level in bare.levels}
    states = {group: fs.read_or(bare.file(group, "cpuset.cpus.partition"), "").strip() for group in (groups.home, *children)}
    vcpus = [group for group in children if group.startswith(f"{groups.home}/vcpu")]
    above = dict.fromkeys(level for group in groups.cpu for level in levels_of(group))
    bare = replace(bare, quota_groups=(*bare.levels, *vcpus) if tree.version == 2 else tuple(above))
    quotas = {group: _quota(fs, bare, group) for group in bare.quota_groups}
    return replace(
        bare,
        home_cpus=CpuSet.parse(fs.read_or(bare.file(groups.home, "cpuset.cpus"), "")),
        exclusive=MappingProxyType({level: CpuSet.parse(text) for level, text in exclusive.items() if text != _ABSENT}),
        partition_states=MappingProxyType({group: state for group, state in states.items() if state}),
        quotas=MappingProxyType({group: quota for group, quota in quotas.items() if quota}),
        weights=tree.version == 2 and _has_weight(fs, tree, groups),
        root_cpus=CpuSet.parse(fs.read_or(f"{tree.mount}/cpuset.cpus", "") or fs.read_or(f"{tree.mount}/cpuset.cpus.effective", "")),
        root_mems=(fs.read_or(f"{tree.mount}/cpuset.mems", "") or fs.read_or(f"{tree.mount}/cpuset.mems.effective", "0")).strip(),
    )


def room(fs: HostFs, tree: Hierarchy, group: str) -> CpuSet:
    """The CPUs that the kernel leaves to the tasks of a group now: those of the group above where none of its own is left.

    None that is offline or in somebody's partition is among them. Empty where there is no cpuset controller.
    """
    name = "cpuset.cpus.effective" if tree.version == 2 else "cpuset.effective_cpus"
    for level in (*reversed(levels_of(group)), ""):  # a group that the controller does not reach has what the next above it has
        text = fs.read_or(f"{tree.mount}{level}/{name}", "").strip() if tree.mount else ""
        if text:
            return CpuSet.parse(text)
    return CpuSet()


def _has_weight(fs: HostFs, tree: Hierarchy, groups: Groups) -> bool:
    if groups.layout == "bare":
        return "cpu" in fs.read_or(f"{tree.mount}/cgroup.controllers", "").split()
    return any(fs.exists(f"{tree.mount}{group}/cpu.weight") for group in groups.vcpus.values())


def _quota(fs: HostFs, facts_: CgroupFacts, group: str) -> str:
    """The finite CPU quota of a group as the kernel prints it, "" for none."""
    path = facts_.quota_file(group)
    text = fs.read_or(path, "").strip() if path else ""
    return "" if text.startswith(("max", "-")) else text


def cpu_groups(fs: HostFs, tids: Iterable[int]) -> Mapping[int, str]:
    """Where threads stand in cgroup v1's cpu hierarchy; a thread that ended is left out, and all of them where it is not mounted."""
    texts = {tid: fs.read_or(f"/proc/{tid}/cgroup", "") for tid in tids} if v1_mount(fs, "cpu") else {}
    return MappingProxyType({tid: cgroup_of(text, 1, "cpu") for tid, text in texts.items() if text})


def v1_mount(fs: HostFs, controller: str) -> str:
    """Where one of cgroup v1's controllers is mounted; "" where it is not."""
    for line in fs.read_or("/proc/self/mounts", "").splitlines():
        fields = line.split()
        if len(fields) > 3 and fields[2] == "cgroup" and controller in fields[3].split(","):
            return fields[1]
    return ""
