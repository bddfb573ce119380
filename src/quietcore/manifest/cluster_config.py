"""The KubeVirt custom resource -> ClusterConfig."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from quietcore.manifest.annotations import PARITY
from quietcore.manifest.causes import Cause
from quietcore.manifest.tree import Tree
from quietcore.model.cluster import ClusterConfig


def cluster_config(content: Tree, base: ClusterConfig) -> tuple[ClusterConfig, tuple[Cause, ...]]:
    """The configuration that a KubeVirt resource states, over `base`, and what is wrong with it."""
    path = "spec.configuration"
    configuration = content.child(path)
    developer, live = configuration.child("developerConfiguration"), configuration.child("liveUpdateConfiguration")
    gates = frozenset(developer.texts("featureGates")) - frozenset(developer.texts("disabledFeatureGates"))
    causes: list[Cause] = []

    def at_least_one(tree: Tree, name: str, below: str, default: int) -> int:
        value = tree.number(name) or default  # KubeVirt takes 0 for unset
        if value < 1:
            causes.append(Cause(field=f"{path}.{below}.{name}", message="must be at least 1", ours=True, hint=f"the default is {default}"))
        return max(value, 1)

    strategy = configuration.text("vmRolloutStrategy", "LiveUpdate" if base.live_update else "Stage")
    if strategy not in {"LiveUpdate", "Stage"}:
        causes.append(Cause(field=f"{path}.vmRolloutStrategy", message=f"{strategy!r} is unknown", ours=True, hint="LiveUpdate or Stage"))
    maximum = live.quantity("maxGuest")
    config = replace(
        base,
        feature_gates=base.feature_gates | gates,
        machine_type=configuration.text("machineType", base.machine_type),
        cpu_model=configuration.text("cpuModel", base.cpu_model),
        cpu_request=configuration.quantity("cpuRequest") or base.cpu_request,
        cpu_allocation_ratio=at_least_one(developer, "cpuAllocationRatio", "developerConfiguration", base.cpu_allocation_ratio),
        memory_overcommit_percent=at_least_one(developer, "memoryOvercommit", "developerConfiguration", base.memory_overcommit_percent),
        guest_overhead_ratio=_ratio(configuration, f"{path}.additionalGuestMemoryOverheadRatio", base.guest_overhead_ratio, causes),
        even_parity=base.even_parity or (PARITY in content.mapping("metadata.annotations") and "AlignCPUs" in gates),
        live_update=strategy == "LiveUpdate",
        max_cpu_sockets=live.number("maxCpuSockets", base.max_cpu_sockets),
        max_guest_bytes=base.max_guest_bytes if maximum is None else max(maximum.value, 0),
        max_hotplug_ratio=at_least_one(live, "maxHotplugRatio", "liveUpdateConfiguration", base.max_hotplug_ratio),
    )
    return config, tuple(causes)


def _ratio(configuration: Tree, path: str, base: Fraction, causes: list[Cause]) -> Fraction:
    written = configuration.text("additionalGuestMemoryOverheadRatio")
    if not written:
        return base
    digits = written.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit() and len(written) <= 32 and Fraction(written) >= 1):
        causes.append(Cause(field=path, message=f"{written!r} is no ratio of at least 1", ours=True, hint='for example "1.2"'))
        return base
    return Fraction(written)
