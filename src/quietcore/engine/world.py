"""Everything outside that the engine touches, as objects that are handed in: a fault or a fake enters here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from quietcore.model import CpuSet, Ledger, VmName

if TYPE_CHECKING:  # a reader of events needs none of what a world is made of
    from quietcore.config import Config
    from quietcore.host.fs import HostFs
    from quietcore.host.kvm import Acceleration
    from quietcore.host.threads import ThreadControl
    from quietcore.images import ImageStore, Runner
    from quietcore.virt.hypervisor import DomainView, QemuThreads


class Hypervisor(Protocol):
    """What the engine asks of libvirt; see `virt.LibvirtHypervisor`. Every method raises HypervisorError."""

    def version(self) -> int:
        """libvirt's own number of its version (9000000 is 9.0.0)."""
        ...

    def create_paused(self, xml: str) -> DomainView:
        """Create a transient domain, paused."""
        ...

    def find(self, name: str) -> DomainView | None:
        """The domain of this name, or None."""
        ...

    def domains(self) -> tuple[DomainView, ...]:
        """Every active domain."""
        ...

    def resume(self, name: str) -> None:
        """Let the vCPUs run."""
        ...

    def shutdown(self, name: str) -> None:
        """Ask the guest to power off."""
        ...

    def destroy(self, name: str) -> None:
        """End the domain now."""
        ...

    def threads(self, name: str) -> QemuThreads:
        """QEMU's own answer about its threads."""
        ...

    def xml(self, name: str) -> str:
        """The live XML."""
        ...

    def write_guest_file(self, name: str, path: str, text: str) -> None:
        """Write a file inside the guest, by its guest agent."""
        ...

    def pin_vcpu(self, name: str, vcpu: int, cpus: CpuSet) -> None:
        """Tell libvirt's books where a vCPU is."""
        ...

    def pin_emulator(self, name: str, cpus: CpuSet) -> None:
        """Tell libvirt's books where QEMU's other threads are."""
        ...

    def pin_iothread(self, name: str, thread: int, cpus: CpuSet) -> None:
        """Tell libvirt's books where an I/O thread is."""
        ...


class Books(Protocol):
    """The ledger's file; see `LedgerFile`."""

    def load(self) -> Ledger:
        """Read it."""
        ...

    def save(self, ledger: Ledger) -> None:
        """Replace it durably."""
        ...

    def set_aside(self) -> str:
        """Keep a copy of the file as it is; gives its place, "" where there is none."""
        ...

    def locked(self, timeout_s: float = 60.0) -> AbstractContextManager[None]:
        """Hold the host's only write lock."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One step of a command that has happened: which VM, a word, what came of it, and how long it took."""

    vm: VmName
    step: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One host. `acceleration` is asked once per start; `clock` counts seconds; `report` hears every event."""

    config: Config
    fs: HostFs
    control: ThreadControl
    hypervisor: Hypervisor
    books: Books
    store: ImageStore
    runner: Runner
    acceleration: Callable[[], Acceleration]
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    report: Callable[[Event], None] = lambda _event: None

    @property
    def boot_id(self) -> str:
        """The host's boot, so that what was true before a reboot is not believed after it."""
        return self.fs.read_or("/proc/sys/kernel/random/boot_id", "").strip()

    @property
    def online(self) -> CpuSet:
        """The CPUs that are online now."""
        return CpuSet.parse(self.fs.read_or("/sys/devices/system/cpu/online", ""))

    def vm_directory(self, vm: VmName) -> Path:
        """Where a VM's files are."""
        return Path(self.config.state_dir) / "vms" / vm.domain
