"""What only the host knows about a domain: files, sockets, the emulator, what its libvirt can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from quietcore.model import CpuSet


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFile:
    """One image file; `format` is QEMU's name of it."""

    path: str
    format: Literal["raw", "qcow2"] = "raw"
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """Everything beside spec and plan that the XML needs. An empty text means: there is none.

    `uuid` stands in where the manifest names no firmware uuid. `disks` maps the spec's disk names to files. `console_log` is
    a file that gets a copy of the serial console. `loader` and `nvram` are the EFI code and the VM's own variables, made from
    `nvram_template`. `libvirt_version` is libvirt's number (9000000 is 9.0.0). `passt` says whether that program is
    installed, `bind_memory` whether the host has more than one NUMA node, `may_lock_memory` whether libvirt may raise QEMU's
    limit of locked memory (in a container it often may not). `default_bridge` is the host's bridge for interfaces of the pod
    network. `node_cpus` maps the host's NUMA nodes to their CPUs; where it is left empty QEMU's pin for the start is wider
    than it has to be.
    """

    uuid: str
    domain_type: Literal["kvm", "qemu"] = "kvm"
    emulator: str = "/usr/bin/qemu-system-x86_64"
    disks: Mapping[str, DiskFile] = field(default_factory=lambda: MappingProxyType({}))
    kernel: str = ""
    initrd: str = ""
    console_log: str = ""
    loader: str = ""
    nvram: str = ""
    nvram_template: str = ""
    libvirt_version: int = 9_000_000
    passt: bool = False
    bind_memory: bool = True
    may_lock_memory: bool = True
    default_bridge: str = ""
    node_cpus: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
