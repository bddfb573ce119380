"""The launcher pod of one VM: which containers it has, what each of them asks for, what placement must know of the guest."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from quietcore.model import (
    COMPUTE,
    PLACEHOLDER,
    Container,
    ContainerDisk,
    GuestShape,
    LauncherPod,
    Quantity,
    Strategy,
    VmSpec,
)
from quietcore.pod.cluster import Cluster, ContainerResources
from quietcore.pod.cpus import CpuCount, cpu_count, dedicated_vcpus, shared_request, shared_share, supplemental_io_threads
from quietcore.pod.labels import annotations_of, labels_of, node_selector_of
from quietcore.pod.memory import compute_memory
from quietcore.pod.qos import qos_class, wants_guaranteed

_DEFAULTS: Final = Cluster()
_EPHEMERAL: Final = Quantity.parse("50M")
"""KubeVirt's ephemeral storage of every launcher, for logs and sockets."""


def launcher_pod(spec: VmSpec, *, strategy: Strategy, uid: str, cluster: Cluster = _DEFAULTS) -> LauncherPod:
    """Build the pod that holds a VM.

    Under the strategy `dedicated` a VM with X dedicated vCPUs has X CPUs (and one for each supplemental I/O thread) on the
    blank container `dedicated`, and compute asks for a fraction of the shared pool; under `whole` and `housekeeping` compute holds
    the X CPUs, and the emulator's under `housekeeping`. A VM without dedicated CPUs has KubeVirt's shared pod whatever the
    strategy. The pod of a VM with dedicated CPUs is Guaranteed. Raises InputError where `cpu_count` does.
    """
    count = cpu_count(spec, strategy)
    split = count.total > 0 and strategy == "dedicated"
    guaranteed = spec.cpu.dedicated or wants_guaranteed(spec.resources)
    containers = [_compute(spec, count, cluster, split=split)]
    if split:
        containers.append(_placeholder(count, cluster))
    containers += [_helper(name, cluster.container_disk, guaranteed=guaranteed) for name in _image_containers(spec)]
    containers += [_hook(f"hook-sidecar-{n}", cluster.hook_sidecar, guaranteed=guaranteed) for n in range(len(spec.sidecars))]
    return LauncherPod(
        vm=spec.vm,
        uid=uid,
        containers=tuple(containers),
        guest=_guest(spec, strategy, count, split=split),
        qos=qos_class(containers),
        node_selector=MappingProxyType(node_selector_of(spec)),
        labels=MappingProxyType(labels_of(spec, uid)),
        annotations=MappingProxyType(annotations_of(spec, strategy, split=split)),
        share_process_namespace=split,
    )


def images_of(spec: VmSpec) -> dict[str, str]:
    """The images of the pod's helper containers, by container: the disks', the kernel's and the hook sidecars'."""
    disks = {f"volume{disk.name}": disk.source.image for disk in spec.disks if isinstance(disk.source, ContainerDisk)}
    kernel = {"kernel-boot-volume": spec.kernel_boot.image} if spec.kernel_boot is not None else {}
    return disks | kernel | {f"hook-sidecar-{number}": image for number, image in enumerate(spec.sidecars)}


def _compute(spec: VmSpec, count: CpuCount, cluster: Cluster, *, split: bool) -> Container:
    memory = compute_memory(spec, cluster)
    request, limit = _compute_cpu(spec, count, cluster, split=split)
    requests = {"cpu": request, **memory.requests, "ephemeral-storage": _EPHEMERAL}
    limits = ({"cpu": limit} if limit is not None else {}) | dict(memory.limits) | dict.fromkeys(cluster.devices, Quantity.of(1))
    return _container(COMPUTE, requests, limits)


def _compute_cpu(spec: VmSpec, count: CpuCount, cluster: Cluster, *, split: bool) -> tuple[Quantity, Quantity | None]:
    if split:
        share = shared_share(spec, cluster.shared_cpu, cluster.cpu_allocation_ratio)
        return share, share
    if count.total:
        return Quantity.of(count.total), Quantity.of(count.total)
    asked = spec.resources
    request = asked.cpu_request or asked.cpu_limit or shared_request(spec, cluster.cpu_allocation_ratio)
    limit = asked.cpu_limit
    if limit is None and cluster.auto_cpu_limit:
        limit = Quantity.of(spec.cpu.topology.vcpus + supplemental_io_threads(spec))
    return request, limit


def _placeholder(count: CpuCount, cluster: Cluster) -> Container:
    owned = {"cpu": Quantity.of(count.total), "memory": cluster.placeholder_memory}
    return _container(PLACEHOLDER, owned, owned)


def _image_containers(spec: VmSpec) -> list[str]:
    names = [f"volume{disk.name}" for disk in spec.disks if isinstance(disk.source, ContainerDisk)]
    return [*names, "kernel-boot-volume"] if spec.kernel_boot is not None else names


def _helper(name: str, resources: ContainerResources, *, guaranteed: bool) -> Container:
    limits = {"cpu": resources.cpu, "memory": resources.memory}
    if guaranteed:
        return _container(name, limits, limits)
    requests = {"cpu": resources.cpu_request, "memory": resources.memory_request}
    return _container(name, {key: value for key, value in requests.items() if value is not None}, limits)


def _hook(name: str, resources: ContainerResources, *, guaranteed: bool) -> Container:
    # KubeVirt gives hook sidecars resources only where the pod has to be Guaranteed.
    return _helper(name, resources, guaranteed=True) if guaranteed else _container(name, {}, {})


def _guest(spec: VmSpec, strategy: Strategy, count: CpuCount, *, split: bool) -> GuestShape:
    realtime = spec.cpu.realtime
    return GuestShape(
        topology=spec.cpu.topology,
        strategy=strategy,
        vcpu_container=PLACEHOLDER if split else COMPUTE,
        dedicated_vcpus=dedicated_vcpus(spec),
        emulator_cpus=count.emulator,
        io_cpus=count.io,
        numa_passthrough=spec.cpu.numa_passthrough,
        memory_bytes=spec.memory.guest_bytes,
        hugepage_bytes=spec.memory.hugepage_bytes,
        realtime_vcpus=realtime.vcpus if realtime is not None else frozenset(),
        thread_policy=spec.cpu.thread_policy,
        single_l3=spec.cpu.single_l3,
    )


def _container(name: str, requests: Mapping[str, Quantity], limits: Mapping[str, Quantity]) -> Container:
    return Container(name=name, requests=MappingProxyType(dict(requests)), limits=MappingProxyType(dict(limits)))
