"""How many CPUs a VM pays for, and in which container: the one place where emulator parity is computed."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from quietcore.errors import InputError, Problem
from quietcore.model import Quantity, Strategy, VmSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuCount:
    """The exclusive CPUs of a VM by their use; all zero for a VM without dedicated CPUs."""

    vcpus: int = 0
    io: int = 0
    emulator: int = 0

    @property
    def total(self) -> int:
        """Every exclusive CPU."""
        return self.vcpus + self.io + self.emulator


def emulator_cpus(vcpus: int, io_cpus: int, *, even_parity: bool) -> int:
    """CPUs for QEMU's other threads: one, or two where that makes the total even and an even total is asked for.

    KubeVirt's pod counts the supplemental I/O threads twice here and its launcher once, so for an odd number of them its two
    halves disagree (the VM does not start, or owns a CPU that nothing uses); this is the launcher's count, used for both.
    """
    return 2 if even_parity and (vcpus + io_cpus) % 2 == 0 else 1


def supplemental_io_threads(spec: VmSpec) -> int:
    """I/O threads that get a CPU each. A count beside another policy is ignored, as KubeVirt's launcher (not its pod) does."""
    return spec.io_threads.pool if spec.io_threads.policy == "supplementalPool" else 0


def dedicated_vcpus(spec: VmSpec) -> frozenset[int]:
    """The vCPUs that own a CPU each; empty for a VM without dedicated CPUs."""
    if not spec.cpu.dedicated:
        return frozenset()
    every = frozenset(range(spec.cpu.topology.vcpus))
    return every if spec.cpu.dedicated_vcpus is None else every & spec.cpu.dedicated_vcpus


def cpu_count(spec: VmSpec, strategy: Strategy) -> CpuCount:
    """What the VM owns under a strategy: only `housekeeping` pays for the emulator.

    Raises InputError for a mix of dedicated and shared vCPUs under another strategy than `dedicated`: there all of
    compute's CPUs are exclusive, so a shared vCPU would have nowhere to run.
    """
    dedicated = dedicated_vcpus(spec)
    if not dedicated:
        return CpuCount()
    if strategy != "dedicated" and len(dedicated) < spec.cpu.topology.vcpus:
        raise InputError.of((_mixed_needs_dedicated(strategy),))
    io = supplemental_io_threads(spec)
    extra = emulator_cpus(len(dedicated), io, even_parity=spec.cpu.even_parity) if strategy == "housekeeping" else 0
    return CpuCount(vcpus=len(dedicated), io=io, emulator=extra)


def shared_request(spec: VmSpec, allocation_ratio: int) -> Quantity:
    """KubeVirt's request for CPUs that are not dedicated: (vCPUs + supplemental I/O threads) / cpuAllocationRatio, to the nano."""
    wanted = Fraction(spec.cpu.topology.vcpus + supplemental_io_threads(spec), allocation_ratio)
    return Quantity(Fraction(-(-wanted.numerator * 10**9 // wanted.denominator), 10**9))


def shared_share(spec: VmSpec, base: Quantity, allocation_ratio: int) -> Quantity:
    """The request of compute beside a placeholder: `base` for QEMU's threads, and the usual share for each vCPU that is not dedicated.

    Never a whole number: the kubelet gives a container of a Guaranteed pod exclusive CPUs for that.
    """
    shared = spec.cpu.topology.vcpus - len(dedicated_vcpus(spec))
    milli = Quantity(base.amount + Fraction(shared, allocation_ratio)).milli_value
    return Quantity.milli(milli + 1 if milli % 1000 == 0 else milli)


def _mixed_needs_dedicated(strategy: Strategy) -> Problem:
    return Problem(
        message=f"only some vCPUs are dedicated, which the strategy {strategy} cannot hold: its compute container has exclusive CPUs only",
        code="mixed-needs-dedicated",
        hint="use the strategy dedicated, or make all vCPUs dedicated",
        ours=True,
    )
