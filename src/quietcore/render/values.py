"""The values that commands and the API print as a whole, made of the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count, islice, product
from string import ascii_uppercase
from typing import Literal, TypeAlias

from quietcore.errors import QuietcoreError
from quietcore.model import CpuSet, Entry, Finding, Machine, Plan, Refusal, ThreadCensus, VcpuPlacement, VmName

CpuState: TypeAlias = Literal["vcpu", "other", "reserved", "isolated", "unavailable", "shared", "offline"]
"""`other`: owned by a VM for its emulator or I/O threads. `isolated`: by the kernel, and nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanList:
    """The answers for several VMs, in the order in which they were asked for."""

    items: tuple[Plan | Refusal, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """What the agent did for one VM since the VM or the agent started.

    A reaction is the time from an event to the moment when everything was in its place again; what only the slow
    resync found counts as a repair without a reaction. `findings` could not be put right.
    """

    repairs: int = 0
    last_reaction_s: float | None = None
    max_reaction_s: float | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """One VM: its entry in the books, what the hypervisor says it does, its threads if it runs, and the agent's care if one answers."""

    entry: Entry
    phase: str
    census: ThreadCensus | None = None
    care: Care | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptionList:
    """Several VMs."""

    items: tuple[Description, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A VM that hosts containers: the host CPUs of each container, and which vCPU backs which CPU (`vcpus`, those on the pool included)."""

    vm: VmName
    domain: str
    containers: Mapping[str, CpuSet]
    vcpus: tuple[VcpuPlacement, ...]

    def backing(self, cpus: CpuSet) -> CpuSet:
        """The vCPUs that back these host CPUs."""
        return CpuSet.from_iterable(one.vcpu for one in self.backed if one.pcpu in cpus)

    @property
    def backed(self) -> tuple[VcpuPlacement, ...]:
        """The vCPUs that have a CPU of a container."""
        return tuple(one for one in self.vcpus if one.pcpu is not None)

    @property
    def unbacked(self) -> CpuSet:
        """The vCPUs that share the pool."""
        return CpuSet.from_iterable(one.vcpu for one in self.vcpus if one.pcpu is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What reading the kernel back has found about one VM."""

    vm: VmName
    findings: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no finding of severity `error`."""
        return all(finding.severity != "error" for finding in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationList:
    """What was found about several VMs."""

    items: tuple[Verification, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuUse:
    """Who has one CPU. `vm`, `mark` and `owner` (from 0, for colours) are set where a VM owns it, `vcpu` where it is a vCPU's own."""

    cpu: int
    state: CpuState
    vm: VmName | None = None
    vcpu: int | None = None
    owner: int | None = None
    mark: str = ""

    @property
    def sentence(self) -> str:
        """The use in words."""
        match self.state:
            case "vcpu":
                return f"vCPU {self.vcpu} of {self.vm}"
            case "other":
                return f"other threads of {self.vm}"
            case "reserved":
                return "reserved for the host"
            case "isolated":
                return "isolated by the kernel, nobody's"
            case "unavailable":
                return "not for this system to use"
            case "shared":
                return "shared pool"
            case "offline":
                return "offline"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMap:
    """A machine and who has which of its CPUs: `plans` are the placements in force (`ledger.plans`), `reserved` the host's CPUs."""

    machine: Machine
    plans: tuple[Plan, ...] = ()
    reserved: CpuSet = CpuSet()

    @property
    def marks(self) -> Mapping[VmName, str]:
        """A mark for each VM that owns CPUs: A to Z, then AA, AB, ..."""
        owners = [plan.vm for plan in self.plans if plan.exclusive]
        words = ("".join(letters) for length in count(1) for letters in product(ascii_uppercase, repeat=length))
        return dict(zip(owners, islice(words, len(owners)), strict=True))

    def uses(self) -> Mapping[int, CpuUse]:
        """The use of every online and offline CPU, by number."""
        machine, marks = self.machine, self.marks
        uses = {cpu.cpu: CpuUse(cpu=cpu.cpu, state=self._unowned(cpu.cpu)) for cpu in machine.cpus}
        uses |= {cpu: CpuUse(cpu=cpu, state="offline") for cpu in machine.offline}
        for owner, plan in enumerate(plan for plan in self.plans if plan.exclusive):
            vcpus = {vcpu.pcpu: vcpu.vcpu for vcpu in plan.vcpus if vcpu.pcpu is not None}
            for cpu in plan.exclusive:
                state: CpuState = "vcpu" if cpu in vcpus else "other"
                state = "offline" if cpu in machine.offline else state
                uses[cpu] = CpuUse(cpu=cpu, state=state, vm=plan.vm, vcpu=vcpus.get(cpu), owner=owner, mark=marks[plan.vm])
        return dict(sorted(uses.items()))

    def _unowned(self, cpu: int) -> CpuState:
        if cpu not in self.machine.usable:
            return "unavailable"
        if cpu in self.reserved:
            return "reserved"
        return "isolated" if cpu in self.machine.isolated else "shared"


Printable: TypeAlias = PlanList | Description | DescriptionList | Sandbox | Verification | VerificationList | HostMap | QuietcoreError
