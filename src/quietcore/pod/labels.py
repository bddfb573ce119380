"""Labels, annotations and the node selector of a launcher pod."""

from __future__ import annotations

from typing import Final

from quietcore.model import Strategy, VmSpec

STRATEGY: Final = "quietcore.io/strategy"
CPU_QUOTA: Final = "quietcore.io/compute-cpu-quota"
TOPOLOGY_SCOPE: Final = "quietcore.io/topology-scope"
MEMLOCK: Final = "quietcore.io/memlock"
MEANINGS: Final = {
    STRATEGY: "the strategy in force",
    CPU_QUOTA: "`max`: on cgroup v2 the vCPU threads stay below `compute`, where the kubelet writes a CPU quota for every fractional "
    "limit; it would throttle them to a few per cent, so the node lifts it before the guest runs, and shared work is bounded by weight",
    TOPOLOGY_SCOPE: "`pod`: the CPUs stand on the placeholder and the memory on `compute`, so that only the pod scope of the Topology "
    "Manager can align them",
    MEMLOCK: "`unlimited`: the guest's memory is locked and the launcher has no CAP_IPC_LOCK, so the node raises QEMU's limit",
}
_LABEL_LENGTH: Final = 63
_KUBECTL: Final = "kubectl.kubernetes.io/"


def labels_of(spec: VmSpec, uid: str) -> dict[str, str]:
    """The VM's own labels and KubeVirt's."""
    name = spec.vm.name[:_LABEL_LENGTH].rstrip("-.")  # a label is shorter than a name may be
    return {**spec.labels, "kubevirt.io": "virt-launcher", "kubevirt.io/created-by": uid, "vm.kubevirt.io/name": name}


def annotations_of(spec: VmSpec, strategy: Strategy, *, split: bool) -> dict[str, str]:
    """The VM's own annotations and what the node must do for this pod beyond what its resources say (see `MEANINGS`)."""
    ours = {"kubevirt.io/domain": spec.vm.name, STRATEGY: strategy}
    if split:
        ours |= {CPU_QUOTA: "max", TOPOLOGY_SCOPE: "pod"}
    if spec.memory.locked or spec.cpu.realtime is not None:
        ours[MEMLOCK] = "unlimited"
    return {key: value for key, value in spec.annotations.items() if not key.startswith(_KUBECTL)} | ours


def node_selector_of(spec: VmSpec) -> dict[str, str]:
    """The user's selector and the node labels that KubeVirt's node labeller sets; hugepages select by being a resource."""
    wanted = {"kubevirt.io/schedulable": "true", "kubernetes.io/arch": spec.architecture}
    if spec.cpu.dedicated:
        wanted["kubevirt.io/cpumanager"] = "true"
    if spec.cpu.realtime is not None:
        wanted["kubevirt.io/realtime"] = "true"
    if spec.cpu.model not in {"", "host-model", "host-passthrough"}:
        wanted[f"cpu-model.node.kubevirt.io/{spec.cpu.model}"] = "true"
    for feature in spec.cpu.features:
        if feature.policy == "require":
            wanted[f"cpu-feature.node.kubevirt.io/{feature.name}"] = "true"
    return {**spec.node_selector, **wanted}
