"""What libvirt says of one domain, read from its XML: for verifying our own and for adopting a foreign one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from quietcore.model.cpuset import CpuSet
from quietcore.model.spec import GuestTopology, Strategy, VmName


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainDisk:
    """One disk: its target (`vda`), the file or other source behind it, and the I/O thread that serves it."""

    target: str
    source: str = ""
    format: str = ""
    device: str = "disk"
    bus: str = ""
    iothread: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuSched:
    """The scheduling policy that libvirt was told to give a vCPU."""

    policy: str
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainFacts:
    """One domain's XML in our words.

    `vm`, `uid` and `strategy` come from our own metadata and are None in a domain that we did not make. `vcpus` are those
    that are switched on, `max_vcpus` those that may be. A missing pin is None (for a vCPU: no key): then `default_cpus`
    holds, and where that is None too, every CPU of the host. `memnodes` maps guest cells to host nodes.
    """

    name: str
    uuid: str
    domain_type: str
    vcpus: int
    max_vcpus: int
    memory_bytes: int
    vm: VmName | None = None
    uid: str | None = None
    strategy: Strategy | None = None
    topology: GuestTopology | None = None
    cpu_mode: str = ""
    default_cpus: CpuSet | None = None
    vcpu_pins: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    vcpu_scheds: Mapping[int, VcpuSched] = field(default_factory=lambda: MappingProxyType({}))
    emulator_pin: CpuSet | None = None
    iothreads: tuple[int, ...] = ()
    iothread_pins: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    numa_nodes: CpuSet | None = None
    memnodes: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    cell_vcpus: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    hugepages: bool = False
    hugepage_bytes: tuple[int, ...] = ()
    locked: bool = False
    quota: bool = False
    disks: tuple[DomainDisk, ...] = ()
    graphics: tuple[str, ...] = ()
    console_tty: str = ""
    emulator: str = ""
