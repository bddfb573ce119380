"""What a flavor and an image ask for together, rule by rule, with Nova's refusals (nova/virt/hardware.py; Nova 34.0.0)."""

from __future__ import annotations

import re
from typing import Final

from quietcore.manifest.flavor_values import Flavor, Image, masked, parse_cpu_spec, refusal, truth
from quietcore.model.cpuset import CpuSet

CPU_POLICIES: Final = ("dedicated", "shared", "mixed")
THREAD_POLICIES: Final = ("prefer", "isolate", "require")
EMULATOR_POLICIES: Final = ("share", "isolate")
PCI_POLICIES: Final = ("required", "legacy", "preferred", "socket")
SMALL_PAGES: Final = -1
LARGE_PAGES: Final = -2
ANY_PAGES: Final = -3
_PAGE_WORDS: Final = {"small": SMALL_PAGES, "large": LARGE_PAGES, "any": ANY_PAGES}
_PAGE_SIZE: Final = re.compile(r"(\d{1,15})([KMGT]i?B)?")
_KIB: Final = {"K": 1, "M": 1 << 10, "G": 1 << 20, "T": 1 << 30}
_NO_ROOM: Final = "Use of realtime CPUs requires either one or more non-realtime CPU(s) or offloaded emulator threads."
_NO_SUBSET: Final = (
    "Realtime policy vCPU(s) mask is configured with RT vCPUs that are not a subset of the vCPUs in the flavor. "
    "See hw:cpu_realtime_mask or hw_cpu_realtime_mask"
)


def _both(flavor: Flavor, image: Image, name: str) -> tuple[str | None, str | None]:
    extra, own = flavor.extra_specs.get(f"hw:{name}"), image.properties.get(f"hw_{name}")
    return extra, None if own is None else str(own)


def cpu_policy(flavor: Flavor, image: Image) -> str | None:
    """Shared, dedicated or mixed. The flavor's `dedicated` wins; its `shared` and `mixed` may not be raised by the image."""
    extra, own = _both(flavor, image, "cpu_policy")
    for value, source in ((extra, "flavor extra specs"), (own, "image properties")):
        if value is not None and value not in CPU_POLICIES:
            message = f"CPU policy requested from '{source}' is invalid, given: '{value}', available: '{CPU_POLICIES}'."
            raise refusal("InvalidCPUAllocationPolicy", message, "hw:cpu_policy")
    forbidden = {"mixed": ("dedicated",), "shared": ("mixed", "dedicated")}.get(extra or "", ())
    if own in forbidden:
        message = "Image property 'hw_cpu_policy' is not permitted to override CPU pinning policy set against the flavor"
        raise refusal("ImageCPUPinningForbidden", message, "hw_cpu_policy")
    return extra or own


def thread_policy(flavor: Flavor, image: Image) -> str | None:
    """What is wanted of hyperthreads; the image may repeat the flavor's answer only, or choose where it has `prefer` or none."""
    extra, own = _both(flavor, image, "cpu_thread_policy")
    for value, source in ((extra, "flavor extra specs"), (own, "image properties")):
        if value is not None and value not in THREAD_POLICIES:
            message = f"CPU thread policy requested from '{source}' is invalid, given: '{value}', available: '{THREAD_POLICIES}'."
            raise refusal("InvalidCPUThreadAllocationPolicy", message, "hw:cpu_thread_policy")
    if extra in {None, "prefer"}:
        return own or extra
    if own is not None and own != extra:
        message = "Image property 'hw_cpu_thread_policy' is not permitted to override CPU thread pinning policy set against the flavor"
        raise refusal("ImageCPUThreadPolicyForbidden", message, "hw_cpu_thread_policy")
    return extra


def emulator_policy(flavor: Flavor) -> str | None:
    """Where QEMU's other threads run: on a CPU of their own, on the shared set, or (None) with the vCPUs."""
    value = flavor.extra_specs.get("hw:emulator_threads_policy")
    if value is not None and value not in EMULATOR_POLICIES:
        message = f"CPU emulator threads option requested is invalid, given: '{value}', available: '{EMULATOR_POLICIES}'."
        raise refusal("InvalidEmulatorThreadsPolicy", message, "hw:emulator_threads_policy")
    return value


def realtime_vcpus(flavor: Flavor, image: Image) -> CpuSet | None:
    """The vCPUs that get FIFO, or None. The image's mask wins; all vCPUs may be real-time only with an emulator thread policy."""
    if not truth(flavor.extra_specs.get("hw:cpu_realtime", "")):
        return None
    extra, own = _both(flavor, image, "cpu_realtime_mask")
    every, mask = CpuSet.range(flavor.vcpus), own or extra
    chosen = masked(mask, flavor.vcpus) if mask else every
    if not chosen:
        raise refusal("RealtimeMaskNotFoundOrInvalid", _NO_ROOM, "hw:cpu_realtime_mask")
    if not chosen <= every:
        raise refusal("RealtimeMaskNotFoundOrInvalid", _NO_SUBSET, "hw:cpu_realtime_mask")
    if chosen == every and emulator_policy(flavor) is None:
        raise refusal("RealtimeMaskNotFoundOrInvalid", _NO_ROOM, "hw:cpu_realtime_mask")
    return chosen


def dedicated_mask(flavor: Flavor) -> CpuSet | None:
    """The vCPUs that a mixed flavor dedicates, or None where it does not say; they need not exist."""
    mask = flavor.extra_specs.get("hw:cpu_dedicated_mask")
    if mask is None:
        return None
    return masked(mask, flavor.vcpus) if mask.strip() else parse_cpu_spec(mask)


def page_size(flavor: Flavor, image: Image) -> int | None:
    """KiB per page, one of the three words as its number, or None. The image may narrow `any` and `large` only."""
    extra, own = _both(flavor, image, "mem_page_size")
    wanted = None if extra is None else _page_size(extra)
    if own is None:
        return wanted
    if wanted not in {ANY_PAGES, LARGE_PAGES}:
        raise refusal("MemoryPageSizeForbidden", f"Page size {own} forbidden against '{extra or '<empty>'}'", "hw_mem_page_size")
    return _page_size(own)


def _page_size(text: str) -> int:
    if text in _PAGE_WORDS:
        return _PAGE_WORDS[text]
    match = _PAGE_SIZE.fullmatch(text)
    size = int(match[1]) * (_KIB[match[2][0]] if match[2] else 1) if match else 0
    if size <= 0:
        raise refusal("MemoryPageSizeInvalid", f"Invalid memory page size '{text}'", "hw:mem_page_size")
    return size


def pmu(flavor: Flavor, image: Image) -> bool | None:
    """Whether the guest has a PMU; None where nobody says."""
    extra, own = flavor.extra_specs.get("hw:pmu"), image.properties.get("hw_pmu")
    if extra is None or own is None:
        return None if extra is None and own is None else truth(extra if own is None else own)
    if truth(extra) != truth(own):
        message = (
            f"Flavor {flavor.name} has hw:pmu extra spec explicitly set to {truth(extra)}, conflicting with image {image.name} "
            f"which has hw_pmu explicitly set to {truth(own)}."
        )
        raise refusal("FlavorImageConflict", message, "hw:pmu")
    return truth(extra)


def locked_memory(flavor: Flavor, image: Image) -> bool:
    """Whether memory is locked: where asked (then a page size is needed too), and always under memory encryption."""
    if truth(flavor.extra_specs.get("hw:mem_encryption", "")) or truth(image.properties.get("hw_mem_encryption", "")):
        return True
    extra, own = flavor.extra_specs.get("hw:locked_memory"), image.properties.get("hw_locked_memory")
    if extra is not None and own is not None and truth(extra) != truth(own):
        values = f"image ({truth(own)}) and flavor ({truth(extra)})"
        message = f"locked_memory value in {values} conflict. A consistent value is expected if both specified."
        raise refusal("FlavorImageLockedMemoryConflict", message, "hw:locked_memory")
    wanted = truth(extra if extra is not None else own if own is not None else "")
    if wanted and _both(flavor, image, "mem_page_size") == (None, None):
        message = "locked_memory value in image or flavor is forbidden when mem_page_size is not set."
        raise refusal("LockMemoryForbidden", message, "hw:locked_memory")
    return wanted


def pci_policy(flavor: Flavor, image: Image) -> str | None:
    """How near PCI devices must be."""
    extra, own = _both(flavor, image, "pci_numa_affinity_policy")
    if extra is not None and own is not None and extra != own:
        message = (
            "Image property 'hw_pci_numa_affinity_policy' is not permitted to override the 'hw:pci_numa_affinity_policy' flavor extra spec."
        )
        raise refusal("ImagePCINUMAPolicyForbidden", message, "hw_pci_numa_affinity_policy")
    value = extra or own
    if value is not None and value not in PCI_POLICIES:
        raise refusal("InvalidPCINUMAAffinity", f"Invalid PCI NUMA affinity configured: {value}", "hw:pci_numa_affinity_policy")
    return value
