"""Small VM specs and plans for tests, written by hand: what the manifest reader and the placement would make."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from quietcore.model import (
    Assignment,
    ContainerDisk,
    CpuSet,
    CpuSpec,
    Disk,
    GuestTopology,
    MemorySpec,
    Plan,
    Quantity,
    Resources,
    Strategy,
    VcpuPlacement,
    VmName,
    VmSpec,
)

MI = 1 << 20
GI = 1 << 30
UID = "6f1c7a52-0a35-4f0e-9b52-0b8f7f4f2a10"


def vm(name: str = "web", *, cpu: dict[str, Any] | None = None, memory: dict[str, Any] | None = None, **fields: Any) -> VmSpec:
    """A spec with a few fields changed; `cpu` and `memory` are fields of their own values."""
    return VmSpec(
        vm=VmName(name=name),
        cpu=CpuSpec(**({"topology": GuestTopology(cores=2)} | (cpu or {}))),
        memory=MemorySpec(**({"guest_bytes": GI} | (memory or {}))),
        **fields,
    )


def dedicated(name: str = "rt", vcpus: int = 4, *, cpu: dict[str, Any] | None = None, **fields: Any) -> VmSpec:
    """A spec with dedicated CPUs, one core each."""
    return vm(name, cpu={"topology": GuestTopology(cores=vcpus), "dedicated": True} | (cpu or {}), **fields)


def asking(**texts: str) -> Resources:
    """Resources from texts: `asking(cpu_request="2", memory_limit="1Gi")`."""
    return Resources(**{name: Quantity.parse(text) for name, text in texts.items()})


def root_disk(name: str = "root", **fields: Any) -> Disk:
    """A virtio disk from the image store."""
    return Disk(name=name, source=ContainerDisk(image="registry:5000/cirros:devel"), **fields)


def plan_for(spec: VmSpec, pcpus: list[int | None], *, strategy: Strategy = "dedicated", shared: str = "0-1", **fields: Any) -> Plan:
    """A plan that gives vCPU i the pCPU pcpus[i] (None: the shared pool)."""
    realtime = spec.cpu.realtime.vcpus if spec.cpu.realtime else frozenset()
    vcpus = tuple(VcpuPlacement(vcpu=i, pcpu=pcpu, node=0, core=pcpu, realtime=i in realtime) for i, pcpu in enumerate(pcpus))
    own = CpuSet.from_iterable(pcpu for pcpu in pcpus if pcpu is not None)
    container = "dedicated" if strategy == "dedicated" else "compute"
    made: dict[str, Any] = {
        "vm": spec.vm,
        "uid": UID,
        "strategy": strategy,
        "vcpus": vcpus,
        "shared": CpuSet.parse(shared),
        "emulator": CpuSet.parse(shared),
        "io": MappingProxyType({}),
        "assignments": (Assignment(container=container, cpus=own),),
    }
    return Plan(**(made | fields))
