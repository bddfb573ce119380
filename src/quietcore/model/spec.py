"""What the user asked for, with defaults resolved and in our words. Made by `manifest`, read by everybody below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from quietcore.model.quantity import Quantity

Strategy: TypeAlias = Literal["whole", "housekeeping", "dedicated"]
ThreadPolicy: TypeAlias = Literal["none", "prefer", "require", "isolate"]
RunStrategy: TypeAlias = Literal["Always", "RerunOnFailure", "Manual", "Halted", "Once"]
IoThreadsPolicy: TypeAlias = Literal["shared", "auto", "supplementalPool"]
Bus: TypeAlias = Literal["virtio", "sata", "scsi", "usb"]


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class VmName:
    """A VM's identity. Both parts are DNS labels or subdomains (checked by `manifest`), so they are safe in paths and XML."""

    namespace: str = "default"
    name: str

    @property
    def domain(self) -> str:
        """The libvirt domain name, `<namespace>_<name>`: an underscore cannot be part of either."""
        return f"{self.namespace}_{self.name}"

    @classmethod
    def from_domain(cls, domain: str) -> VmName:
        """The inverse of `domain`. Raises ValueError for a domain that is not named by us."""
        namespace, underscore, name = domain.partition("_")
        if not underscore or not namespace or not name or "_" in name:
            raise ValueError(f"{domain!r} is not <namespace>_<name>")
        return cls(namespace=namespace, name=name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestTopology:
    """Sockets x cores x threads that the guest sees; all at least 1."""

    sockets: int = 1
    cores: int = 1
    threads: int = 1

    @property
    def vcpus(self) -> int:
        """The number of vCPUs."""
        return self.sockets * self.cores * self.threads


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFeature:
    """One CPU feature by libvirt's name; an empty KubeVirt policy means `require`."""

    name: str
    policy: Literal["force", "require", "optional", "disable", "forbid"] = "require"


@dataclass(frozen=True, slots=True, kw_only=True)
class Realtime:
    """Real-time vCPUs: `vcpus` is what the mask came to; `priority` is the SCHED_FIFO priority (KubeVirt and libvirt use 1).

    `allow_inversion` starts the VM even where kernel threads of its CPUs cannot be raised above it: a polling guest then hangs the host.
    """

    mask: str = ""
    vcpus: frozenset[int] = frozenset()
    priority: int = 1
    allow_inversion: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSpec:
    """Everything about the guest's CPUs.

    `max_sockets` is the hotplug ceiling (0: none). `model` is `host-model`, `host-passthrough` or a libvirt model name.
    `dedicated_vcpus` is None when all vCPUs follow `dedicated`; otherwise only these are dedicated (our `mixed` mode).
    """

    topology: GuestTopology = GuestTopology()
    max_sockets: int = 0
    model: str = "host-model"
    features: tuple[CpuFeature, ...] = ()
    dedicated: bool = False
    dedicated_vcpus: frozenset[int] | None = None
    isolate_emulator: bool = False
    even_parity: bool = False
    numa_passthrough: bool = False
    realtime: Realtime | None = None
    thread_policy: ThreadPolicy = "none"
    single_l3: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySpec:
    """Guest memory in bytes; `hugepage_bytes` is the page size, None for ordinary pages; `locked` keeps it from being swapped."""

    guest_bytes: int
    hugepage_bytes: int | None = None
    locked: bool = False
    max_guest_bytes: int = 0
    memfd: bool = True
    overhead_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The manifest's own requests and limits after defaulting; None where it has none."""

    cpu_request: Quantity | None = None
    cpu_limit: Quantity | None = None
    memory_request: Quantity | None = None
    memory_limit: Quantity | None = None
    overcommit_guest_overhead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IoThreads:
    """I/O threads: the policy and, for `supplementalPool`, the number of threads."""

    policy: IoThreadsPolicy | None = None
    pool: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDisk:
    """A disk image from the image store, named as a container image."""

    image: str
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDisk:
    """A raw image file on the host; `create` makes it with `capacity_bytes` when it does not exist."""

    path: str
    create: bool = False
    capacity_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyDisk:
    """A disk that begins empty and lives as long as the VM."""

    capacity_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudInit:
    """A cloud-init seed; the texts are already decoded."""

    kind: Literal["nocloud", "configdrive"]
    user_data: str = ""
    network_data: str = ""


Source: TypeAlias = ContainerDisk | HostDisk | EmptyDisk | CloudInit


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """One disk of the guest with its volume already looked up."""

    name: str
    source: Source
    bus: Bus = "virtio"
    device: Literal["disk", "cdrom"] = "disk"
    readonly: bool = False
    boot_order: int | None = None
    dedicated_iothread: bool = False
    cache: str = ""
    io: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One network interface: `masquerade` (user-mode network), `bridge` (of the named host bridge) or `vhostuser` (a socket path)."""

    name: str
    binding: Literal["masquerade", "bridge", "vhostuser"] = "masquerade"
    model: str = "virtio"
    mac: str = ""
    source: str = ""
    ports: tuple[int, ...] = ()
    boot_order: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBoot:
    """Direct kernel boot from a container image of the store."""

    image: str
    kernel_path: str
    initrd_path: str = ""
    args: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """BIOS (the default) or EFI; `uuid` and `serial` are the guest's SMBIOS values, "" where unset."""

    efi: bool = False
    secure_boot: bool = False
    uuid: str = ""
    serial: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """One VM: what the user asked for, complete.

    `run_strategy` is `Once` for a bare VirtualMachineInstance. `annotations` and `labels` are the template's own.
    """

    vm: VmName
    cpu: CpuSpec
    memory: MemorySpec
    kind: Literal["VirtualMachine", "VirtualMachineInstance"] = "VirtualMachineInstance"
    run_strategy: RunStrategy = "Once"
    start_paused: bool = False
    resources: Resources = Resources()
    io_threads: IoThreads = IoThreads()
    disks: tuple[Disk, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    kernel_boot: KernelBoot | None = None
    firmware: Firmware = Firmware()
    architecture: str = "amd64"
    machine_type: str = "q35"
    clock_offset: str = "utc"
    graphics: bool = True
    serial_console: bool = True
    memory_balloon: bool = True
    rng: bool = False
    block_multiqueue: bool = False
    network_multiqueue: bool = False
    hostname: str = ""
    termination_grace_seconds: int = 30
    sidecars: tuple[str, ...] = ()
    strategy: Strategy | None = None
    node_selector: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def starts(self) -> bool:
        """Whether its run strategy wants it to run at all."""
        return self.run_strategy not in {"Halted", "Manual"}
