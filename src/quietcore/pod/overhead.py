"""The memory that a VM needs beside its guest's: KubeVirt's formula (pkg/hypervisor/kvm/hypervisorbackend.go)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from quietcore.model import VmSpec
from quietcore.pod.qos import wants_guaranteed

_MI: Final = 1 << 20
PROCESSES_BYTES: Final = (25 + 100 + 25 + 40 + 50) * _MI
"""virt-launcher-monitor, virt-launcher, virtlogd, virtqemud and QEMU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadInputs:
    """Everything that the formula looks at.

    `requested_bytes` is resources.requests.memory alone: a manifest with only memory.guest counts as 0 here.
    """

    requested_bytes: int
    vcpus: int
    graphics: bool = True
    arm64: bool = False
    vfio: bool = False
    tpm: bool = False
    sev: bool = False
    downward_metrics: bool = False
    exec_probes: int = 0
    guaranteed: bool = False
    added_bytes: int = 0


def memory_overhead(inputs: OverheadInputs, ratio: Fraction = Fraction(1)) -> int:
    """The overhead in bytes; `ratio` is additionalGuestMemoryOverheadRatio."""
    page_tables = -(-inputs.requested_bytes // 1000) * 1000 // 512
    parts = (
        page_tables,
        PROCESSES_BYTES,
        8 * _MI * max(inputs.vcpus, 1),
        8 * _MI,  # I/O threads, whether there are any or not
        32 * _MI if inputs.graphics else 0,
        128 * _MI if inputs.arm64 else 0,
        1024 * _MI if inputs.vfio else 0,
        _MI if inputs.downward_metrics else 0,
        (10 * inputs.exec_probes + 100) * _MI if inputs.exec_probes else 0,
        256 * _MI if inputs.sev else 0,
        53 * _MI if inputs.tpm else 0,
        100 * _MI if inputs.guaranteed else 0,
        inputs.added_bytes,
    )
    return int(sum(parts) * ratio)


def overhead_inputs(spec: VmSpec) -> OverheadInputs:
    """What the formula looks at, read from a spec."""
    requested = spec.resources.memory_request
    return OverheadInputs(
        requested_bytes=requested.value if requested else 0,
        vcpus=spec.cpu.topology.vcpus,
        graphics=spec.graphics,
        arm64=spec.architecture == "arm64",
        guaranteed=spec.cpu.dedicated or wants_guaranteed(spec.resources),
        added_bytes=spec.memory.overhead_bytes,
    )
