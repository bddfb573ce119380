"""The answer of the managers: a `Plan`, or a `Refusal` with every reason and the nearest fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from quietcore.model.cpuset import CpuSet, union
from quietcore.model.spec import Strategy, VmName


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuPlacement:
    """Where one vCPU runs. A vCPU on the shared pool has no pCPU of its own: `pcpu`, `node` and `core` are None.

    `rule` says in the kubelet's and KubeVirt's terms which step took the CPU.
    """

    vcpu: int
    pcpu: int | None = None
    node: int | None = None
    core: int | None = None
    realtime: bool = False
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBlock:
    """Memory that the Memory Manager booked for one container: bytes of a resource over a group of nodes."""

    nodes: tuple[int, ...]
    type: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBinding:
    """Guest memory bound to one host node, in bytes; `type` is `memory` or `hugepages-<size>`."""

    node: int
    type: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestCell:
    """One NUMA cell of the guest: its vCPUs and memory, and the host node that backs it (guestMappingPassthrough)."""

    cell: int
    node: int
    vcpus: tuple[int, ...]
    memory_bytes: int
    distances: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one container of the pod got: exclusive CPUs (empty: the shared pool) and memory blocks."""

    container: str
    cpus: CpuSet = CpuSet()
    memory: tuple[MemoryBlock, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A placement that fits.

    `shared` is the pool that is left for everything else when this plan is in force; `emulator` is the set for QEMU's
    other threads (`shared`, or the extra CPUs of `housekeeping`, or the vCPUs' own under `whole`); `io` maps an I/O
    thread (from 1) to its CPUs. `unpinned` holds exclusive CPUs that no thread was given (KubeVirt leaves such ones over).
    """

    vm: VmName
    uid: str
    strategy: Strategy
    vcpus: tuple[VcpuPlacement, ...]
    shared: CpuSet
    emulator: CpuSet
    io: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    unpinned: CpuSet = CpuSet()
    memory: tuple[MemoryBinding, ...] = ()
    cells: tuple[GuestCell, ...] = ()
    assignments: tuple[Assignment, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def dedicated(self) -> CpuSet:
        """The pCPUs of the dedicated vCPUs."""
        return CpuSet.from_iterable(vcpu.pcpu for vcpu in self.vcpus if vcpu.pcpu is not None)

    @property
    def exclusive(self) -> CpuSet:
        """Every CPU that this VM owns, for vCPUs or other threads."""
        return union(assignment.cpus for assignment in self.assignments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One constraint that failed: its stable name, where, what was wanted and what was free, and the sentence for people."""

    constraint: str
    message: str
    node: int | None = None
    wanted: str = ""
    free: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestFit:
    """The smallest change that would fit; `vm` is the VM that would have to move, where that is the change."""

    change: str
    vm: VmName | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A VM that does not fit. `message` carries the kubelet's own text; `reason` its admission reason."""

    message: str
    vm: VmName | None = None
    reason: str = ""
    reasons: tuple[Reason, ...] = ()
    nearest: NearestFit | None = None
