"""Instancetypes applied to a VM's template, and the guest topology that a preference spreads (KubeVirt's pkg/instancetype/apply)."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

from quietcore.manifest.causes import Cause
from quietcore.manifest.tree import Tree
from quietcore.model.quantity import Quantity
from quietcore.model.spec import GuestTopology

DEPRECATED: Final = {
    "preferSockets": "sockets",
    "preferCores": "cores",
    "preferThreads": "threads",
    "preferSpread": "spread",
    "preferAny": "any",
}
SUPPORTED: Final = frozenset({"sockets", "cores", "threads", "spread", "any", *DEPRECATED})
ACROSS: Final = ("SocketsCores", "CoresThreads", "SocketsCoresThreads")
_THREADS_PER_CORE: Final = 2
_DEFAULT_RATIO: Final = 2
_CPU_PARTS: Final = {
    "model": "model",
    "dedicatedCPUPlacement": "dedicatedCpuPlacement",
    "isolateEmulatorThread": "isolateEmulatorThread",
    "numa": "numa",
    "realtime": "realtime",
    "maxSockets": "maxSockets",
}


def preferred_topology(preference: Tree) -> str:
    """The topology by its present name; sockets where nothing is preferred."""
    written = preference.text("cpu.preferredCPUTopology", "sockets")
    return DEPRECATED.get(written, written)


def spread_options(preference: Tree) -> tuple[int, str]:
    """The ratio and what it is spread across."""
    ratio = preference.number("preferSpreadSocketToCoreRatio") or _DEFAULT_RATIO
    return preference.number("cpu.spreadOptions.ratio", ratio), preference.text("cpu.spreadOptions.across", ACROSS[0])


def topology(vcpus: int, preference: Tree) -> GuestTopology:
    """The guest topology of an instancetype's vCPUs. A spread drops what does not divide; `spread_fault` says so beforehand."""
    preferred = preferred_topology(preference)
    if vcpus <= 1:
        return GuestTopology()
    if preferred == "cores":
        return GuestTopology(cores=vcpus)
    if preferred == "threads":
        return GuestTopology(threads=vcpus)
    if preferred != "spread":
        return GuestTopology(sockets=vcpus)
    ratio, across = spread_options(preference)
    if across == "CoresThreads":
        return GuestTopology(cores=vcpus // ratio, threads=ratio)
    if across == "SocketsCoresThreads":
        return GuestTopology(sockets=vcpus // _THREADS_PER_CORE // ratio, cores=ratio, threads=_THREADS_PER_CORE)
    return GuestTopology(sockets=vcpus // ratio, cores=ratio)


def spread_fault(vcpus: int, preference: Tree) -> str:
    """Why the vCPUs cannot be spread evenly, in KubeVirt's words; "" where they can."""
    if preferred_topology(preference) != "spread":
        return ""
    ratio, across = spread_options(preference)
    start = f"{vcpus} vCPUs provided by the instance type are not divisible by the"
    names = "Spec.PreferSpreadSocketToCoreRatio or Spec.CPU.PreferSpreadOptions.Ratio of"
    if across == "SocketsCores" and vcpus % ratio:
        return f"{start} {names} {ratio} provided by the preference"
    if across == "CoresThreads" and vcpus % ratio:
        return f"{start} number of threads per core {ratio}"
    if across == "SocketsCoresThreads" and (vcpus % _THREADS_PER_CORE or vcpus // _THREADS_PER_CORE % ratio):
        return f"{start} number of threads per core {_THREADS_PER_CORE} and {names} {ratio}"
    return ""


def apply_instancetype(instancetype: Tree, preference: Tree, spec: Tree, annotations: dict[str, str], prefix: str) -> tuple[Cause, ...]:
    """Write the instancetype's values into the VMI's spec and annotations, or say which fields conflict with it."""
    fault = spread_fault(instancetype.number("cpu.guest"), preference)
    if fault:
        return (Cause(field="instancetype.spec.cpu.guest", message=fault),)
    conflicts = _conflicts(instancetype, spec, annotations)
    if conflicts:
        paths = [path if path.startswith("annotations.") else f"{prefix}.{path}" for path in conflicts]
        return tuple(Cause(field=path, message=f"VM field(s) {path} conflicts with selected instance type") for path in paths)
    _apply_cpu(instancetype, preference, spec)
    _apply_memory(instancetype, spec)
    for path in ("ioThreads.supplementalPoolThreadCount", "ioThreadsPolicy"):
        if instancetype.has(path):
            spec.put(f"domain.{path}", instancetype.get(path))
    if instancetype.has("nodeSelector"):
        spec.put("nodeSelector", instancetype.get("nodeSelector"))
    annotations.update(instancetype.mapping("annotations"))
    return ()


def _conflicts(instancetype: Tree, spec: Tree, annotations: dict[str, str]) -> list[str]:
    found = ["nodeSelector"] if instancetype.has("nodeSelector") and spec.has("nodeSelector") else []
    found += [f"domain.resources.{side}.cpu" for side in ("requests", "limits") if spec.has(f"domain.resources.{side}.cpu")]
    found += [f"domain.cpu.{part}" for part in ("sockets", "cores", "threads") if spec.number(f"domain.cpu.{part}")]
    for theirs, part in _CPU_PARTS.items():
        if part == "maxSockets" or not instancetype.has(f"cpu.{theirs}"):
            continue
        if spec.get(f"domain.cpu.{part}") not in (None, "", False):
            found.append(f"domain.cpu.{theirs}")
    found += _memory_conflict(instancetype, spec)
    for path in ("ioThreads.supplementalPoolThreadCount", "ioThreadsPolicy"):
        if instancetype.has(path) and spec.has(f"domain.{path}"):
            found.append(f"domain.{path}")
    for name, value in instancetype.mapping("annotations").items():
        if annotations.get(name, value) != value:
            found.append(f"annotations.{name}")
    return found


def _memory_conflict(instancetype: Tree, spec: Tree) -> list[str]:
    """KubeVirt reports the first of them only."""
    if spec.has("domain.memory.guest"):
        return ["domain.memory.guest"]
    for part in ("hugepages", "maxGuest"):
        if spec.has(f"domain.memory.{part}") and instancetype.has(f"memory.{part}"):
            return [f"domain.memory.{part}"]
    for side in ("requests", "limits"):
        if spec.has(f"domain.resources.{side}.memory"):
            return [f"domain.resources.{side}.memory"]
    return []


def _apply_cpu(instancetype: Tree, preference: Tree, spec: Tree) -> None:
    for theirs, part in _CPU_PARTS.items():
        if instancetype.has(f"cpu.{theirs}"):
            spec.put(f"domain.cpu.{part}", instancetype.child("cpu").copy().get(theirs))
    chosen = topology(instancetype.number("cpu.guest"), preference)
    spec.put("domain.cpu.sockets", chosen.sockets)
    spec.put("domain.cpu.cores", chosen.cores)
    spec.put("domain.cpu.threads", chosen.threads)


def _apply_memory(instancetype: Tree, spec: Tree) -> None:
    memory = instancetype.child("memory").copy()
    guest = memory.quantity("guest")
    for part in ("guest", "hugepages", "maxGuest"):
        if memory.has(part):
            spec.put(f"domain.memory.{part}", memory.get(part))
    overcommit = memory.number("overcommitPercent")
    if overcommit > 0 and guest is not None:
        requested = int(guest.value * (1 - Fraction(overcommit, 100)))
        spec.put("domain.resources.requests.memory", Quantity(Fraction(requested), guest.form))


def instancetype_faults(instancetype: Tree) -> tuple[Cause, ...]:
    """What KubeVirt's webhook for instancetypes refuses."""
    causes: list[Cause] = []
    path, percent = "spec.memory.overcommitPercent", instancetype.number("memory.overcommitPercent")
    if not 0 <= percent <= 100:
        causes.append(Cause(field=path, message=f"{path} '{percent}': must be in range between 0 and 100."))
    if percent and instancetype.has("memory.hugepages"):
        causes.append(Cause(field=path, message=f"{path} and spec.memory.hugepages should not be requested together."))
    return tuple(causes)
