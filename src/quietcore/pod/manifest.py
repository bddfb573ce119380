"""The launcher pod as a Kubernetes object, ready to be written as YAML or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from quietcore.model import COMPUTE, PLACEHOLDER, Container, LauncherPod, Quantity

Json: TypeAlias = dict[str, "Json"] | list["Json"] | str | int | bool | None
LAUNCHER_IMAGE: Final = "quietcore.io/launcher"
PLACEHOLDER_IMAGE: Final = "registry.k8s.io/pause:3.10"
_GRACE_SECONDS: Final = 30
_NAME_LENGTH: Final = 253
_HUGEPAGE_MOUNTS: Final = {"hugepages": "/dev/hugepages", "hugetblfs-dir": "/dev/hugepages/libvirt/qemu"}
"""KubeVirt's two volumes and their names (rendervolumes.go), its spelling included."""


def manifest(pod: LauncherPod, images: Mapping[str, str] | None = None, *, grace_seconds: int = _GRACE_SECONDS) -> dict[str, Json]:
    """Write the pod as the dictionary of a v1 Pod.

    `images` maps container names to images; containers that it leaves out get the launcher's, the placeholder a pause image. The
    grace period is KubeVirt's: the VM's own and half as much again, so that the guest's end is seen.
    """
    known = images or {}
    paged = _hugepages(pod)
    init = [_container(one, known, paged=paged) for one in pod.containers if one.role != "app"]
    spec: dict[str, Json] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace_seconds + grace_seconds // 2,
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "nodeSelector": _texts(pod.node_selector),
        **({"initContainers": [*init]} if init else {}),
        "containers": [_container(one, known, paged=paged) for one in pod.containers if one.role == "app"],
    }
    if pod.share_process_namespace:
        spec["shareProcessNamespace"] = True
    if pod.pod_requests or pod.pod_limits:
        spec["resources"] = _resources(pod.pod_requests, pod.pod_limits)
    if paged:
        spec["volumes"] = [{"name": name, "emptyDir": {"medium": "HugePages"}} for name in _HUGEPAGE_MOUNTS]
    name = f"virt-launcher-{pod.vm.name}"[:_NAME_LENGTH].rstrip("-.")
    metadata: dict[str, Json] = {
        "name": name,
        "namespace": pod.vm.namespace,
        "labels": _texts(pod.labels),
        "annotations": _texts(pod.annotations),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _container(container: Container, images: Mapping[str, str], *, paged: bool) -> dict[str, Json]:
    fallback = PLACEHOLDER_IMAGE if container.name == PLACEHOLDER else LAUNCHER_IMAGE
    made: dict[str, Json] = {"name": _dns_label(container.name), "image": images.get(container.name, fallback)}
    if container.requests or container.limits:
        made["resources"] = _resources(container.requests, container.limits)
    if container.role == "sidecar":
        made["restartPolicy"] = "Always"
    if container.name == COMPUTE and paged:
        made["volumeMounts"] = [{"name": name, "mountPath": path} for name, path in _HUGEPAGE_MOUNTS.items()]
    return made


def _hugepages(pod: LauncherPod) -> bool:
    return any(name.startswith("hugepages-") for one in pod.containers for name in one.limits)


def _resources(requests: Mapping[str, Quantity], limits: Mapping[str, Quantity]) -> dict[str, Json]:
    both = {"requests": _texts(requests), "limits": _texts(limits)}
    return {name: amounts for name, amounts in both.items() if amounts}


def _texts(values: Mapping[str, object]) -> dict[str, Json]:
    return {name: str(value) for name, value in values.items()}


def _dns_label(name: str) -> str:
    # A disk's name may be 63 characters long and is prefixed with "volume"; a container's name must stay a DNS label.
    return name[:63].rstrip("-")
