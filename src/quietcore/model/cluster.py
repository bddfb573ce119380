"""What KubeVirt's own configuration (the KubeVirt custom resource) says that changes the meaning of a manifest."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from quietcore.model.quantity import Quantity

DEFAULT_CPU_REQUEST: Final = Quantity.milli(100)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """KubeVirt's configuration; the defaults are those of KubeVirt (pkg/virt-config/virt-config.go).

    `even_parity` is the annotation alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity on the KubeVirt resource together with the
    gate AlignCPUs. `live_update` is the roll-out strategy LiveUpdate; it gives every VM a hotplug ceiling. `max_cpu_sockets` 0
    means that no ceiling is configured. `cpu_model` and `machine_type` are "" where the cluster does not choose.
    """

    feature_gates: frozenset[str] = frozenset()
    architecture: str = "amd64"
    machine_type: str = ""
    cpu_model: str = ""
    cpu_request: Quantity = DEFAULT_CPU_REQUEST
    cpu_allocation_ratio: int = 10
    memory_overcommit_percent: int = 100
    guest_overhead_ratio: Fraction = Fraction(1)
    even_parity: bool = False
    live_update: bool = True
    max_cpu_sockets: int = 0
    max_guest_bytes: int = 0
    max_hotplug_ratio: int = 4


KUBEVIRT_DEFAULTS: Final = ClusterConfig()
"""A cluster that nobody configured."""
