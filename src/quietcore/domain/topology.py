"""The guest's CPU topology and the number of its vCPUs, those that may be plugged in later included."""

from __future__ import annotations

from quietcore.domain.draft import Draft, add


def contribute(draft: Draft) -> None:
    """Write <vcpu>, <vcpus> and <topology> as KubeVirt does (converter/compute/cpu.go).

    `cpuset` is where every thread starts that has no pin of its own: QEMU's set, never the dedicated CPUs.
    """
    topology, ceiling = draft.spec.cpu.topology, draft.spec.cpu.max_sockets
    sockets = max(ceiling, topology.sockets)
    possible = sockets * topology.cores * topology.threads
    add(
        draft.root,
        "vcpu",
        possible,
        placement="static",
        cpuset=str(draft.plan.emulator) or None,
        current=_current(topology.vcpus, possible),
    )
    if ceiling:
        per_socket = topology.cores * topology.threads
        listed = draft.section("vcpus")
        for vcpu in range(possible):
            enabled, pluggable = vcpu < topology.vcpus, vcpu >= per_socket
            add(listed, "vcpu", id=vcpu, enabled=_yes(enabled), hotpluggable=_yes(pluggable))
    add(draft.section("cpu"), "topology", sockets=sockets, cores=topology.cores, threads=topology.threads)


def _current(vcpus: int, possible: int) -> int | None:
    return vcpus if vcpus < possible else None


def _yes(value: bool) -> str:  # noqa: FBT001  # a word for a truth value has one argument
    return "yes" if value else "no"
