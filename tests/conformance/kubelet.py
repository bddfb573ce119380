"""Machines, pods and states of the kubelet's CPU Manager tables as our values."""

from tests.conformance.tables import table

from quietcore.model import Container, CpuSet, GuestShape, GuestTopology, LauncherPod, Quantity, VmName
from quietcore.placement import CpuTopology
from quietcore.placement.cpu_options import parse_cpu_options
from quietcore.placement.cpu_state import CpuState

TOPOLOGIES = {
    name: CpuTopology.from_rows(one["cpus"], one["declared"])
    for source in ("cpu_assignment", "topology_hints")
    for name, one in table(source)["topologies"].items()
}


def options_of(names):
    """Policy options from upstream's map of name -> boolean text; the rows assume all feature gates."""
    return parse_cpu_options(names or {}, alpha=True)


def container_of(one, role):
    """A container. Upstream's helpers give every container with CPUs the same memory request and limit."""
    memory = {"memory": Quantity.parse("100Mi")}
    requests, limits = (memory | ({"cpu": Quantity.parse(one[key])} if key in one else {}) for key in ("cpuRequest", "cpuLimit"))
    return Container(name=one["name"], requests=requests, limits=limits, role=role)


def pod_of(row):
    """A pod with the QoS class that Kubernetes would give it; pod-level resources decide where there are any."""
    inits = [container_of(one, "sidecar" if one.get("restartPolicy") == "Always" else "init") for one in row.get("initContainers", ())]
    containers = (*inits, *(container_of(one, "app") for one in row["containers"]))
    memory = {"memory": Quantity.parse("300Mi")}
    requests, limits = ({"cpu": Quantity.parse(row[key]), **memory} if key in row else {} for key in ("podCpuRequest", "podCpuLimit"))
    guaranteed = requests == limits if requests else all("cpu" in one.requests and one.requests == one.limits for one in containers)
    return LauncherPod(
        vm=VmName(name="row"),
        uid=row["uid"],
        containers=containers,
        guest=GuestShape(topology=GuestTopology()),
        qos="Guaranteed" if guaranteed else "Burstable",
        pod_requests=requests,
        pod_limits=limits,
    )


def state_of(row, *, default="stDefaultCPUSet", assignments="stAssignments"):
    """The state before."""
    owned = {uid: {name: CpuSet.parse(cpus) for name, cpus in pod.items()} for uid, pod in row.get(assignments, {}).items()}
    return CpuState(default=CpuSet.parse(row.get(default, "")), assignments=owned)
