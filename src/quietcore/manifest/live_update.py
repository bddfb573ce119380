"""Why the memory of a VM cannot be hot-plugged (KubeVirt's pkg/liveupdate/memory/memory.go): the first reason only, as there."""

from __future__ import annotations

from typing import Final

from quietcore.manifest.tree import Tree
from quietcore.model.quantity import Quantity

_BLOCK: Final = Quantity.parse("2Mi")
_GIANT_BLOCK: Final = Quantity.parse("1Gi")


def memory_hotplug_obstacle(spec: Tree, max_guest: Quantity | None) -> str:
    """The reason in KubeVirt's words, "" where memory can be hot-plugged up to `max_guest`."""
    block = _GIANT_BLOCK if spec.text("domain.memory.hugepages.pageSize") == "1Gi" else _BLOCK
    guest = spec.quantity("domain.memory.guest")
    if spec.has("domain.cpu.realtime"):
        return "Memory hotplug is not compatible with realtime VMs"
    if spec.has("domain.cpu.numa.guestMappingPassthrough"):
        return "Memory hotplug is not compatible with guest mapping passthrough"
    if guest is None:
        return "Guest memory must be configured when memory hotplug is enabled"
    if max_guest is None:
        return "Max guest memory must be configured when memory hotplug is enabled"
    if guest > max_guest:
        return "Guest memory is greater than the configured maxGuest memory"
    if guest.value % block.value:
        return f"Guest memory must be {block} aligned"
    if max_guest.value % block.value:
        return f"MaxGuest must be {block} aligned"
    if spec.text("architecture") != "amd64":
        return "Memory hotplug is only available for x86_64 VMs"
    if guest < _GIANT_BLOCK:
        return "Memory hotplug is only available for VMs with at least 1Gi of guest memory"
    return ""
