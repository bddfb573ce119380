"""Who owns which CPUs and memory on this host, and what was begun but not finished: the single source of truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

from quietcore.model.cgroups import OWN_ROOT, Layout, SetScheduler, SetValue
from quietcore.model.cluster import ClusterConfig
from quietcore.model.cpuset import CpuSet, union
from quietcore.model.plan import Plan
from quietcore.model.spec import VmName, VmSpec
from quietcore.model.threads import HostThread, Mechanism

Phase: TypeAlias = Literal["creating", "running", "stopped", "deleting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """A running libvirt domain that is not ours, and what stood on the host before it got CPUs of its own.

    `pid` and `started` (the kernel's start time of that process) tell it from a later run of the same domain. `threads` are
    its threads as they were; `files` the kernel files that we write, with their text; `made` the groups that did not exist;
    `cpu_groups` says where each thread stood in cgroup v1's cpu hierarchy, which real time makes it leave.
    `vcpu_pins`, `io_pins` and `emulator_pin` are libvirt's own books; a pin that they did not hold is absent.
    """

    domain: str
    pid: int
    started: str
    threads: tuple[HostThread, ...] = ()
    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    made: tuple[str, ...] = ()
    cpu_groups: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    vcpu_pins: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    io_pins: Mapping[int, CpuSet] = field(default_factory=lambda: MappingProxyType({}))
    emulator_pin: CpuSet | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One VM in the books.

    `plan` is None for a VM that is stopped: it owns nothing. `phase` is the intent: `creating` and `deleting` were recorded
    before the first write to the host, so a command that was killed leaves one of them for the next command to finish or undo.
    `digest` identifies the manifest's text, for "nothing changed"; `boot_id` is the host's at the time of the start;
    `known` says that the VM was in the books before this start, so that undoing the start leaves it there, stopped; `earlier` is what
    they said of it where the start came with another manifest.
    `cluster` is the KubeVirt configuration that came with the manifest: the pod of a later start follows from it as well.
    `mechanism`, `limits` and `cgroup_home` are what isolation chose when the VM started.
    `settings` are kernel files (real-time budgets, throttling) with what they held before the first VM changed them, in that order.
    `directory` holds the files that belong to the VM and go with it. `restore` gives per-CPU kernel threads back what they had.
    `moving` is the other placement that the VM owns while its vCPUs move: a command that finds it brings the VM to `plan` and
    gives the rest back. `adopted` marks a domain that is not ours: it is never ended by us, and its entry goes when it ends.
    `sandbox` holds the containers that a sandbox hosts and the host CPUs of each: the VM owns their union.
    """

    spec: VmSpec
    digest: str
    manifest: str
    phase: Phase
    plan: Plan | None = None
    boot_id: str = ""
    domain_uuid: str = ""
    known: bool = False
    earlier: Entry | None = None
    mechanism: Mechanism = "affinity"
    limits: tuple[str, ...] = ()
    cgroup_home: str = ""
    directory: str = ""
    restore: tuple[SetScheduler, ...] = ()
    settings: tuple[SetValue, ...] = ()
    moving: Plan | None = None
    adopted: Adoption | None = None
    sandbox: Mapping[str, CpuSet] | None = None
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    @property
    def vm(self) -> VmName:
        """The VM's name."""
        return self.spec.vm

    @property
    def domain(self) -> str:
        """The name of its libvirt domain."""
        return self.adopted.domain if self.adopted is not None else self.vm.domain

    @property
    def layout(self) -> Layout:
        """Whose groups hold its threads."""
        if not self.cgroup_home:
            return "none"
        return "bare" if self.cgroup_home.startswith(f"{OWN_ROOT}/") else "libvirt"

    @property
    def owned(self) -> CpuSet:
        """Every CPU that the VM owns, while it moves also those of the other placement."""
        return union(plan.exclusive for plan in (self.plan, self.moving) if plan is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All VMs, sorted by name. Raises ValueError for a CPU with two owners or a VM that is listed twice.

    `irqs` keeps the CPUs (as a list text) that an interrupt was allowed on before we moved it off dedicated ones;
    `unmovable_irqs` are those that the kernel would not let us move.
    """

    entries: tuple[Entry, ...] = ()
    irqs: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    unmovable_irqs: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        names = [entry.vm for entry in self.entries]
        if names != sorted(set(names)):
            raise ValueError("the ledger's VMs are not listed once each in order")
        taken = CpuSet()
        for entry in self.entries:
            if not entry.owned.isdisjoint(taken):
                raise ValueError(f"CPUs {entry.owned & taken} of {entry.vm} have a second owner")
            taken |= entry.owned

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The placements in force."""
        return tuple(entry.plan for entry in self.entries if entry.plan is not None)

    @property
    def owned(self) -> CpuSet:
        """Every CPU that has an exclusive owner."""
        return union(entry.owned for entry in self.entries)

    def find(self, vm: VmName) -> Entry | None:
        """The entry of a VM, or None."""
        return next((entry for entry in self.entries if entry.vm == vm), None)

    def owner(self, cpu: int) -> Plan | None:
        """The placement that owns this CPU, or None."""
        return next((entry.plan or entry.moving for entry in self.entries if cpu in entry.owned), None)

    def with_entry(self, entry: Entry) -> Ledger:
        """This ledger with one entry added or replaced."""
        rest = tuple(other for other in self.entries if other.vm != entry.vm)
        return replace(self, entries=tuple(sorted((*rest, entry), key=lambda one: one.vm)))

    def without(self, vm: VmName) -> Ledger:
        """This ledger without one VM."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.vm != vm))
