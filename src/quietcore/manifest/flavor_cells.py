"""Everything that a flavor and an image say about CPUs and NUMA, checked against each other in Nova's order (numa_get_constraints)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quietcore.manifest.flavor_rules import cpu_policy, dedicated_mask, emulator_policy, page_size, realtime_vcpus, thread_policy
from quietcore.manifest.flavor_values import Flavor, Image, parse_cpu_spec, refusal
from quietcore.model.cpuset import CpuSet

_TRAIT: Final = "HW_CPU_HYPERTHREADING"
_MIXED_MASK: Final = (
    "Dedicated CPU set can be specified from either 'hw:cpu_dedicated_mask' or 'hw:cpu_realtime_mask' when using 'mixed' CPU policy. "
    "'hw:cpu_dedicated_mask' and 'hw:cpu_realtime_mask' can not be specified at the same time, or be specified with none of them."
)
_MOST_CELLS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One NUMA cell of the guest: its shared and its dedicated vCPUs, and memory in MiB."""

    cell: int
    shared: CpuSet
    dedicated: CpuSet
    memory_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The answer. `cells` is empty where nothing asks for NUMA; `page_kib` as `page_size` has it."""

    policy: str | None = None
    threads: str | None = None
    emulator: str | None = None
    realtime: CpuSet | None = None
    dedicated: CpuSet = CpuSet()
    page_kib: int | None = None
    cells: tuple[Cell, ...] = ()


def constraints(flavor: Flavor, image: Image) -> Wanted:
    """Read and check all constraints. Raises InputError with the code and the text of the first that Nova refuses."""
    page_kib = page_size(flavor, image)
    policy, threads = cpu_policy(flavor, image), thread_policy(flavor, image)
    realtime, mask, emulator = realtime_vcpus(flavor, image), dedicated_mask(flavor), emulator_policy(flavor)
    policy = _explicit_pcpus(flavor, policy, emulator)
    threads = _hyperthreading(flavor, image, threads)
    _policy_fits(policy, threads, emulator, mask, realtime=realtime is not None)
    dedicated = _dedicated(flavor, policy, mask, realtime)
    nodes = _nodes(flavor, image)
    if nodes is None and (page_kib is not None or flavor.extra_specs.get("hw:pmem") or dedicated):
        nodes = 1
    return Wanted(
        policy=policy,
        threads=threads,
        emulator=emulator,
        realtime=realtime,
        dedicated=dedicated,
        page_kib=page_kib,
        cells=() if nodes is None else _cells(flavor, image, nodes, dedicated),
    )


def _explicit_pcpus(flavor: Flavor, policy: str | None, emulator: str | None) -> str | None:
    """The newer spelling of `dedicated`: resources:PCPU."""
    virtual, physical = (_count(flavor, f"resources:{kind}") for kind in ("VCPU", "PCPU"))
    if policy and (virtual or physical):
        message = (
            "It is not possible to use the 'resources:VCPU' or 'resources:PCPU' extra specs in combination with the 'hw:cpu_policy' "
            "extra spec or 'hw_cpu_policy' image metadata property; use one or the other"
        )
        raise refusal("InvalidRequest", message, "hw:cpu_policy")
    if virtual and physical:
        message = "It is not possible to specify both 'resources:VCPU' and 'resources:PCPU' extra specs; use one or the other"
        raise refusal("InvalidRequest", message, "resources:PCPU")
    if not physical:
        return policy
    if emulator == "isolate" and physical != flavor.vcpus + 1:
        message = (
            "You have requested 'hw:emulator_threads_policy=isolate' but have not requested sufficient PCPUs to handle this policy; "
            "you must allocate exactly flavor.vcpus + 1 PCPUs."
        )
        raise refusal("InvalidRequest", message, "resources:PCPU")
    if emulator != "isolate" and physical != flavor.vcpus:
        message = (
            "There is a mismatch between the number of PCPUs requested via 'resourcesNN:PCPU' and the flavor); "
            "you must allocate exactly flavor.vcpus PCPUs"
        )
        raise refusal("InvalidRequest", message, "resources:PCPU")
    return "dedicated"


def _count(flavor: Flavor, name: str) -> int:
    text = flavor.extra_specs.get(name, "0").strip()
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise refusal("InvalidRequest", f"{text!r} is no number of CPUs", name)
    return int(text)


def _hyperthreading(flavor: Flavor, image: Image, threads: str | None) -> str | None:
    """The newer spelling of `require` and `isolate`: a trait."""
    trait = flavor.extra_specs.get(f"trait:{_TRAIT}")
    listed = image.properties.get("traits_required")
    if trait is None and isinstance(listed, list | tuple) and _TRAIT in listed:
        trait = "required"
    if trait is None:
        return threads
    if threads is not None:
        message = (
            f"It is not possible to use the 'trait:{_TRAIT}' extra spec in combination with the 'hw:cpu_thread_policy' extra spec or "
            "'hw_cpu_thread_policy' image metadata property; use one or the other"
        )
        raise refusal("InvalidRequest", message, f"trait:{_TRAIT}")
    return {"forbidden": "isolate", "required": "require"}.get(trait)


def _policy_fits(policy: str | None, threads: str | None, emulator: str | None, mask: CpuSet | None, *, realtime: bool) -> None:
    if policy in {None, "shared"}:
        if threads is not None:
            message = "Cannot set cpu thread pinning policy in a non dedicated cpu pinning policy"
            raise refusal("CPUThreadPolicyConfigurationInvalid", message, "hw:cpu_thread_policy")
        if emulator == "isolate":
            message = "An isolated CPU emulator threads option requires a dedicated CPU policy option."
            raise refusal("BadRequirementEmulatorThreadsPolicy", message, "hw:emulator_threads_policy")
        if realtime:
            message = "Cannot set realtime policy in a non dedicated cpu pinning policy"
            raise refusal("RealtimeConfigurationInvalid", message, "hw:cpu_realtime")
    if policy != "mixed" and mask is not None:
        message = "Cannot specify 'hw:cpu_dedicated_mask' without the 'mixed' policy."
        raise refusal("RequiredMixedInstancePolicy", message, "hw:cpu_dedicated_mask")


def _dedicated(flavor: Flavor, policy: str | None, mask: CpuSet | None, realtime: CpuSet | None) -> CpuSet:
    every = CpuSet.range(flavor.vcpus)
    if policy != "mixed":
        return every if policy == "dedicated" else CpuSet()
    if (mask is None) == (realtime is None):
        raise refusal("RequiredMixedOrRealtimeCPUMask", _MIXED_MASK, "hw:cpu_dedicated_mask")
    dedicated = mask if mask is not None else realtime or CpuSet()
    if not (dedicated and dedicated < every):
        message = "Mixed instance must have at least 1 pinned vCPU and 1 unpinned vCPU. See 'hw:cpu_dedicated_mask'."
        raise refusal("InvalidMixedInstanceDedicatedMask", message, "hw:cpu_dedicated_mask")
    return dedicated


def _forbidden(name: str) -> Exception:
    message = f"Image property 'hw_{name}' is not permitted to override NUMA configuration set against the flavor"
    return refusal("ImageNUMATopologyForbidden", message, f"hw_{name}")


def _nodes(flavor: Flavor, image: Image) -> int | None:
    extra, own = flavor.extra_specs.get("hw:numa_nodes"), image.properties.get("hw_numa_nodes")
    if extra is not None and own is not None:
        raise _forbidden("numa_nodes")
    value = extra if extra is not None else own
    if value is None:
        return None
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and int(text[:6]) > 0 and int(text[:6]) < _MOST_CELLS):
        message = f"The property 'numa_nodes' cannot be '{value}'. It must be a number greater than 0"
        raise refusal("InvalidNUMANodesNumber", message, "hw:numa_nodes")
    return int(text)


def _cells(flavor: Flavor, image: Image, nodes: int, dedicated: CpuSet) -> tuple[Cell, ...]:
    cpus, memory = _listed(flavor, image, "numa_cpus"), _listed(flavor, image, "numa_mem")
    if cpus is None and memory is None:
        if flavor.vcpus % nodes or flavor.memory_mb % nodes:
            message = (
                "Instance CPUs and/or memory cannot be evenly distributed across instance NUMA nodes. "
                "Explicit assignment of CPUs and memory to nodes is required"
            )
            raise refusal("ImageNUMATopologyAsymmetric", message, "hw:numa_nodes")
        each = flavor.vcpus // nodes
        sets = [CpuSet.range((node + 1) * each) - CpuSet.range(node * each) for node in range(nodes)]
        sizes = [flavor.memory_mb // nodes] * nodes
    else:
        if cpus is None or memory is None or len(cpus) != nodes or len(memory) != nodes:
            message = "CPU and memory allocation must be provided for all NUMA nodes"
            raise refusal("ImageNUMATopologyIncomplete", message, "hw:numa_nodes")
        sets, sizes = [_set(one) for one in cpus], [_size(one) for one in memory]
        _complete(flavor, sets, sizes)
    return tuple(
        Cell(cell=cell, shared=one - dedicated, dedicated=one & dedicated, memory_mb=size)
        for cell, (one, size) in enumerate(zip(sets, sizes, strict=True))
    )


def _listed(flavor: Flavor, image: Image, name: str) -> list[object] | None:
    """The values for cell 0, 1, ... up to the first that is missing; an image may hold them as one list."""
    extra: list[object] = []
    while (value := flavor.extra_specs.get(f"hw:{name}.{len(extra)}")) is not None:
        extra.append(value)
    whole = image.properties.get(f"hw_{name}")
    own: list[object] = list(whole) if isinstance(whole, list | tuple) else []
    while not whole and (found := image.properties.get(f"hw_{name}.{len(own)}")) is not None:
        own.append(found)
    if extra and own:
        raise _forbidden(name)
    return extra or own or None


def _set(value: object) -> CpuSet:
    if isinstance(value, list | tuple):
        return CpuSet.from_iterable(int(str(one)) for one in value)
    return parse_cpu_spec(str(value))


def _size(value: object) -> int:
    text = str(value).strip()
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise refusal("InvalidRequest", f"{text!r} is no amount of memory in MiB", "hw:numa_mem")
    return int(text)


def _complete(flavor: Flavor, sets: list[CpuSet], sizes: list[int]) -> None:
    free = CpuSet.range(flavor.vcpus)
    for one in sets:
        for cpu in one:
            if cpu >= flavor.vcpus:
                message = f"CPU number {cpu} is larger than max {flavor.vcpus - 1}"
                raise refusal("ImageNUMATopologyCPUOutOfRange", message, "hw:numa_cpus")
            if cpu not in free:
                raise refusal("ImageNUMATopologyCPUDuplicates", f"CPU number {cpu} is assigned to two nodes", "hw:numa_cpus")
        free -= one
    if free:
        listed = ", ".join(str(cpu) for cpu in free)
        message = f"CPU number {{{listed}}} is not assigned to any node"
        raise refusal("ImageNUMATopologyCPUsUnassigned", message, "hw:numa_cpus")
    if sum(sizes) != flavor.memory_mb:
        message = f"{sum(sizes)} MB of memory assigned, but expected {flavor.memory_mb} MB"
        raise refusal("ImageNUMATopologyMemoryOutOfRange", message, "hw:numa_mem")
