"""Defaulting in KubeVirt's order (pkg/defaults/defaults.go): later steps read what earlier ones wrote."""

from __future__ import annotations

from typing import Final

from quietcore.manifest.annotations import PARITY
from quietcore.manifest.live_update import memory_hotplug_obstacle
from quietcore.manifest.tree import Tree, Value
from quietcore.model.cluster import DEFAULT_CPU_REQUEST, ClusterConfig
from quietcore.model.quantity import Quantity

_MACHINE_TYPES: Final = {"amd64": "q35", "arm64": "virt", "s390x": "s390-ccw-virtio"}
_DISK_BUSES: Final = {"amd64": "sata", "arm64": "virtio", "s390x": "virtio"}
_MOST_VCPUS: Final = 512
"""KubeVirt's ceiling for the vCPUs that its own maxSockets default may lead to."""
DEFAULT_NETWORK: Final = "default"


def default_spec(spec: Tree, cluster: ClusterConfig) -> None:
    """Steps 1 to 4, the pod network and missing disks: what both webhooks do to a VMI's spec. Changes `spec`."""
    _architecture_and_machine(spec, cluster)
    _cpu_request(spec, cluster)
    _guest_memory(spec)
    _topology(spec)
    _network(spec)
    _disks_of_volumes(spec)


def default_instance(spec: Tree, annotations: dict[str, str], cluster: ClusterConfig) -> None:
    """Steps 5 to 7: what KubeVirt adds when the VMI itself is created. Changes `spec` and `annotations`."""
    _disk_buses(spec)
    if spec.text("architecture") == "arm64":
        _arm_firmware(spec)
    if not spec.text("domain.cpu.model"):
        arm = spec.text("architecture") == "arm64"
        spec.put("domain.cpu.model", "host-passthrough" if arm else cluster.cpu_model or "host-model")
    if cluster.live_update and spec.text("architecture") != "arm64":
        _cpu_hotplug(spec, cluster)
        _memory_hotplug(spec, cluster)
    if cluster.even_parity and spec.flag("domain.cpu.isolateEmulatorThread"):
        annotations[PARITY] = ""


def _architecture_and_machine(spec: Tree, cluster: ClusterConfig) -> None:
    architecture = spec.text("architecture") or cluster.architecture
    spec.put("architecture", architecture)
    if not spec.text("domain.machine.type"):
        spec.put("domain.machine.type", cluster.machine_type or _MACHINE_TYPES.get(architecture, ""))


def _cpu_request(spec: Tree, cluster: ClusterConfig) -> None:
    request, limit = spec.quantity("domain.resources.requests.cpu"), spec.quantity("domain.resources.limits.cpu")
    if limit and limit.amount and not (request and request.amount):
        request = limit
        spec.put("domain.resources.requests.cpu", limit)
    configured = cluster.cpu_request != DEFAULT_CPU_REQUEST
    if configured and request is None and not spec.flag("domain.cpu.dedicatedCpuPlacement"):
        spec.put("domain.resources.requests.cpu", cluster.cpu_request)


def _guest_memory(spec: Tree) -> None:
    if spec.has("domain.memory.guest"):
        return
    for path in ("domain.resources.requests.memory", "domain.resources.limits.memory"):
        amount = spec.quantity(path)
        if amount and amount.amount:
            spec.put("domain.memory.guest", amount)
            return
    page = page_size(spec)
    if page:
        spec.put("domain.memory.guest", page)


def page_size(spec: Tree) -> Quantity | None:
    """The hugepage size, or None where there are no hugepages or the text is no quantity."""
    if not spec.has("domain.memory.hugepages"):
        return None
    try:
        return Quantity.parse(spec.text("domain.memory.hugepages.pageSize"))
    except ValueError:
        return None


def _topology(spec: Tree) -> None:
    if any(spec.number(f"domain.cpu.{part}") for part in ("cores", "sockets", "threads")):
        return
    amount = spec.quantity("domain.resources.limits.cpu") or spec.quantity("domain.resources.requests.cpu")
    spec.put("domain.cpu.sockets", 1 if amount is None else max(amount.value, 0))
    spec.put("domain.cpu.cores", 1)
    spec.put("domain.cpu.threads", 1)


def _network(spec: Tree) -> None:
    if not spec.flag("domain.devices.autoattachPodInterface", default=True):
        return
    if spec.get("networks") or spec.get("domain.devices.interfaces"):
        return
    empty: dict[str, Value] = {}
    spec.put("domain.devices.interfaces", [{"name": DEFAULT_NETWORK, "masquerade": empty}])
    spec.put("networks", [{"name": DEFAULT_NETWORK, "pod": dict(empty)}])


def _disks_of_volumes(spec: Tree) -> None:
    named = {disk.text("name") for disk in spec.items("domain.devices.disks")}
    for volume in spec.items("volumes"):
        if volume.text("name") not in named:
            spec.add("domain.devices.disks", {"name": volume.text("name")})


def _disk_buses(spec: Tree) -> None:
    bus = _DISK_BUSES.get(spec.text("architecture"), "sata")
    for disk in spec.items("domain.devices.disks"):
        if not disk.has("disk") and not disk.has("cdrom"):
            disk.put("disk.bus", bus)
        for target in ("disk", "cdrom"):
            if disk.has(target) and not disk.text(f"{target}.bus"):
                disk.put(f"{target}.bus", bus)


def _arm_firmware(spec: Tree) -> None:
    loader = "domain.firmware.bootloader"
    if not spec.has(loader):
        spec.put(f"{loader}.efi", {})
    if spec.has(f"{loader}.efi") and not spec.has(f"{loader}.efi.secureBoot"):
        spec.put(f"{loader}.efi.secureBoot", value=False)


def _cpu_hotplug(spec: Tree, cluster: ClusterConfig) -> None:
    if spec.number("domain.cpu.maxSockets"):
        return
    sockets = spec.number("domain.cpu.sockets")
    ceiling = max(cluster.max_cpu_sockets, sockets) if cluster.max_cpu_sockets else sockets * cluster.max_hotplug_ratio
    per_socket = spec.number("domain.cpu.cores") * spec.number("domain.cpu.threads")
    if not cluster.max_cpu_sockets and ceiling * per_socket > _MOST_VCPUS:
        ceiling = max(_MOST_VCPUS // per_socket, sockets)
    spec.put("domain.cpu.maxSockets", ceiling)


def _memory_hotplug(spec: Tree, cluster: ClusterConfig) -> None:
    guest = spec.quantity("domain.memory.guest")
    if spec.has("domain.memory.maxGuest") or guest is None:
        return
    ceiling = Quantity.of(cluster.max_guest_bytes or guest.value * cluster.max_hotplug_ratio)
    if not memory_hotplug_obstacle(spec, ceiling):
        spec.put("domain.memory.maxGuest", ceiling)
