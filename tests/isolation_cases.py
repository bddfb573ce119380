"""VMs, plans and cgroups for the tests of isolation: QEMU with every kind of thread, in every layout."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Final

from quietcore.model import (
    Assignment,
    CgroupFacts,
    CpuSet,
    HostThread,
    Mechanism,
    Plan,
    Role,
    Strategy,
    ThreadCensus,
    VcpuPlacement,
    VmName,
)

EVERYONE: Final = CpuSet.range(8)
SHARED: Final = CpuSet.parse("0-1,7")
PID: Final = 100
LAYOUTS: Final[dict[str, tuple[Mechanism, CgroupFacts]]] = {
    "v2 with partitions in libvirt's groups": ("partition", CgroupFacts(version=2, mount="/cg", layout="libvirt", home="/machine/vm")),
    "v2 with partitions in our own groups": ("partition", CgroupFacts(version=2, mount="/cg", layout="bare", home="/quietcore/vm")),
    "v2 without partitions in libvirt's groups": ("threaded", CgroupFacts(version=2, mount="/cg", layout="libvirt", home="/machine/vm")),
    "v2 without partitions in our own groups": ("threaded", CgroupFacts(version=2, mount="/cg", layout="bare", home="/quietcore/vm")),
    "v1 in libvirt's groups": ("cpuset-v1", CgroupFacts(version=1, mount="/cg", layout="libvirt", home="/machine/vm")),
    "v1 in our own groups": ("cpuset-v1", CgroupFacts(version=1, mount="/cg", layout="bare", home="/quietcore/vm")),
    "no cgroup to write": (
        "affinity",
        CgroupFacts(version=2, mount="", layout="none", home="/", why_not="no cpuset hierarchy can be written here"),
    ),
}


def plan(
    vcpus: str = "4,5", *, strategy: Strategy = "dedicated", emulator: str = "", io: str = "", realtime: frozenset[int] = frozenset()
) -> Plan:
    """A VM: one pCPU per vCPU ("-" for a shared vCPU); `emulator` and `io` are more CPUs of its own."""
    pcpus = [None if word == "-" else int(word) for word in vcpus.split(",")]
    own = CpuSet.from_iterable(pcpu for pcpu in pcpus if pcpu is not None)
    extra, threads = CpuSet.parse(emulator), CpuSet.parse(io)
    return Plan(
        vm=VmName(name="vm"),
        uid="uid",
        strategy=strategy,
        vcpus=tuple(VcpuPlacement(vcpu=vcpu, pcpu=pcpu, realtime=vcpu in realtime) for vcpu, pcpu in enumerate(pcpus)),
        shared=SHARED,
        emulator=own | threads if strategy == "whole" else extra or SHARED,
        io=MappingProxyType({number: CpuSet.of(cpu) for number, cpu in enumerate(threads, 1)}),
        assignments=(Assignment(container="dedicated", cpus=own | extra | threads),),
    )


def census(facts: CgroupFacts, vcpus: int = 2) -> ThreadCensus:
    """QEMU as it stands after its paused start: helpers, an I/O thread, the vCPUs, and the kernel's own threads for it."""
    threads = [
        _thread(facts, PID, "qemu-system-x86", "emulator"),
        _thread(facts, PID + 1, "call_rcu", "emulator"),
        replace(_thread(facts, PID + 2, "IO iothread1", "iothread"), iothread=1),
        *(replace(_thread(facts, PID + 3 + vcpu, f"CPU {vcpu}/KVM", "vcpu", f"vcpu{vcpu}"), vcpu=vcpu) for vcpu in range(vcpus)),
        _thread(facts, PID + 50, "worker", "worker"),
        replace(_thread(facts, PID + 60, f"vhost-{PID}", "vhost"), kernel=True, cgroup="/"),
        replace(_thread(facts, PID + 61, f"kvm-pit/{PID}", "pit"), kernel=True, cgroup="/"),
    ]
    return ThreadCensus(pid=PID, threads=tuple(threads))


def around(facts: CgroupFacts, vcpus: int = 2, **changes: object) -> CgroupFacts:
    """The groups as libvirt made them, or as they are before ours are made."""
    if facts.layout == "libvirt":
        facts = replace(
            facts,
            vcpu_groups=MappingProxyType({vcpu: f"{facts.home}/vcpu{vcpu}" for vcpu in range(vcpus)}),
            io_groups=MappingProxyType({1: f"{facts.home}/iothread1"}),
            emulator_group=f"{facts.home}/emulator",
        )
    quota_mount = "/cg" if facts.version == 2 else "/cg-cpu"
    return replace(facts, quota_mount=quota_mount, root_cpus=EVERYONE, weights=facts.version == 2 and facts.layout != "none", **changes)


def _thread(facts: CgroupFacts, tid: int, comm: str, role: Role, group: str = "emulator") -> HostThread:
    group = "iothread1" if role == "iothread" else group
    return HostThread(tid=tid, comm=comm, role=role, allowed=EVERYONE, cgroup=f"{facts.home}/{group}" if facts.layout == "libvirt" else "/")
