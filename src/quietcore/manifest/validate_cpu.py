"""KubeVirt's admission rules for CPUs, NUMA, real time and I/O threads, in the order of vmi-create-admitter.go."""

from __future__ import annotations

from typing import Final

from quietcore.manifest.causes import Check
from quietcore.model.quantity import Quantity

ZERO: Final = Quantity.of(0)
_POLICIES: Final = frozenset({"", "force", "require", "optional", "disable", "forbid"})
_IO_POLICIES: Final = frozenset({"shared", "auto", "supplementalPool"})
_REQUEST: Final = "domain.resources.requests.cpu"
_LIMIT: Final = "domain.resources.limits.cpu"
_DEDICATED: Final = "domain.cpu.dedicatedCpuPlacement"
_PASSTHROUGH: Final = "domain.cpu.numa.guestMappingPassthrough"


def check_cpu(check: Check) -> None:
    """Every rule of this file."""
    _amounts(check)
    if check.spec.flag(_DEDICATED):
        _dedicated(check)
    _numa(check)
    _emulator(check)
    _features(check)
    _hotplug(check)
    _realtime(check)
    _io_threads(check)


def vcpus_as_written(check: Check) -> int:
    """KubeVirt's GetNumberOfVCPUs: the product of those of cores, sockets and threads that are not 0, and 0 where all are."""
    parts = [check.spec.number(f"domain.cpu.{part}") for part in ("cores", "sockets", "threads")]
    product = 1
    for part in parts:
        product *= part or 1
    return product if any(parts) else 0


def _amounts(check: Check) -> None:
    request, limit = check.spec.quantity(_REQUEST) or ZERO, check.spec.quantity(_LIMIT) or ZERO
    if request.milli_value < 0:
        check.invalid(_REQUEST, f"{check.at(_REQUEST)} '{request}': must be greater than or equal to 0.")
    if limit.milli_value < 0:
        check.invalid(_LIMIT, f"{check.at(_LIMIT)} '{limit}': must be greater than or equal to 0.")
    if 0 < limit.milli_value < request.milli_value:
        check.invalid(_REQUEST, f"{check.at(_REQUEST)} '{request}' is greater than {check.at(_LIMIT)} '{limit}'")


def _dedicated(check: Check) -> None:
    spec = check.spec
    memory_request, memory_limit = (spec.quantity(f"domain.resources.{side}.memory") or ZERO for side in ("requests", "limits"))
    guest = spec.quantity("domain.memory.guest") or ZERO
    request_path, limit_path = check.at("domain.resources.requests.memory"), check.at("domain.resources.limits.memory")
    if not (memory_limit.value or memory_request.value or spec.has("domain.memory.hugepages") or guest.value):
        check.invalid(
            "domain.resources.limits.memory",
            f"{request_path}, {limit_path}, {check.at('domain.memory.hugepages')} or {check.at('domain.memory.guest')} should be provided",
        )
    request, limit = spec.quantity(_REQUEST) or ZERO, spec.quantity(_LIMIT) or ZERO
    if not request.is_whole:
        check.invalid(_REQUEST, "provided resources CPU requests must be an interger")
    if not limit.is_whole:
        check.invalid(_LIMIT, "provided resources CPU limits must be an interger")
    if memory_request.value > 0 and memory_limit.value > 0 and memory_request != memory_limit:
        check.invalid("domain.resources.requests.memory", f"{request_path} must be equal to {limit_path}")
    _dedicated_counts(check, request.value, limit.value)


def _dedicated_counts(check: Check, request: int, limit: int) -> None:
    vcpus = vcpus_as_written(check)
    either = f"{check.at(_REQUEST)} or {check.at(_LIMIT)}"
    cores, threads_path = check.at("domain.cpu.cores"), check.at("domain.cpu.threads")
    if request == 0 and limit == 0 and vcpus == 0:
        check.invalid(_DEDICATED, f"either {either} or {cores} must be provided when DedicatedCPUPlacement is true ")
    if request > 0 and limit > 0 and request != limit:
        check.invalid(_DEDICATED, f"{either} must be equal when DedicatedCPUPlacement is true ")
    if (request > 0 or limit > 0) and vcpus > 0 and vcpus not in (request, limit):
        check.invalid(_DEDICATED, f"{either} must not be provided at the same time with {cores} when DedicatedCPUPlacement is true ")
    threads = check.spec.number("domain.cpu.threads")
    architecture = check.spec.text("architecture") or check.cluster.architecture
    if architecture == "arm64" and threads > 1:
        path = check.at("architecture")
        check.invalid("architecture", f"threads must not be greater than 1 at {threads_path} (got {threads}) when {path} is arm64")
    if threads > 2:
        message = f"Not more than two threads must be provided at {threads_path} (got {threads}) when DedicatedCPUPlacement is true"
        check.invalid(_DEDICATED, message)


def _numa(check: Check) -> None:
    if not check.spec.has(_PASSTHROUGH):
        return
    asked = f"when NUMA topology strategy is set in {check.at(_PASSTHROUGH)}"
    if not check.spec.flag(_DEDICATED):
        check.invalid(_PASSTHROUGH, f"{check.at(_DEDICATED)} must be set to true {asked}")
    if not check.spec.has("domain.memory.hugepages"):
        check.invalid(_PASSTHROUGH, f"{check.at('domain.memory.hugepages')} must be requested {asked}")


def _emulator(check: Check) -> None:
    if check.spec.flag("domain.cpu.isolateEmulatorThread") and not check.spec.flag(_DEDICATED):
        check.invalid(
            "domain.cpu.isolateEmulatorThread",
            "IsolateEmulatorThread should be only set in combination with DedicatedCPUPlacement",
        )


def _features(check: Check) -> None:
    for index, feature in enumerate(check.spec.items("domain.cpu.features")):
        name, policy = feature.text("name"), feature.text("policy")
        if policy not in _POLICIES:
            message = f"CPU feature {name} uses policy {policy} that is not supported."
            check.invalid(f"domain.cpu.features[{index}].policy", message, "FieldValueNotSupported")


def _hotplug(check: Check) -> None:
    ceiling = check.spec.number("domain.cpu.maxSockets")
    if ceiling and check.spec.number("domain.cpu.sockets") > ceiling:
        check.invalid("domain.cpu.sockets", "Number of sockets in CPU topology is greater than the maximum sockets allowed")


def _realtime(check: Check) -> None:
    realtime = "domain.cpu.realtime"
    if not check.spec.has(realtime):
        return
    if not check.spec.flag(_DEDICATED):
        message = f"{check.at(_DEDICATED)} must be set to true when {check.at(realtime)} is used"
        check.invalid(_DEDICATED, message, "FieldValueRequired")
    if not check.spec.has(_PASSTHROUGH):
        check.invalid(_PASSTHROUGH, f"{check.at(_PASSTHROUGH)} must be defined when {check.at(realtime)} is used", "FieldValueRequired")


def _io_threads(check: Check) -> None:
    if not check.spec.has("domain.ioThreadsPolicy"):
        return
    policy = check.spec.text("domain.ioThreadsPolicy")
    if policy not in _IO_POLICIES:
        check.invalid("domain.ioThreadsPolicy", f"Invalid IOThreadsPolicy ({policy})")
    if policy == "supplementalPool" and check.spec.number("domain.ioThreads.supplementalPoolThreadCount") < 1:
        # KubeVirt names a field that does not exist; it stays as it is
        check.invalid("domain.ioThreads.count", "the number of iothreads needs to be set and positive for the dedicated policy")
