"""The kubelet's tables for the Memory Manager: policy_static_test.go."""

from types import MappingProxyType
from typing import Any

import pytest
from tests.conformance.tables import label, table

from quietcore.errors import InputError
from quietcore.model import (
    Container,
    GuestShape,
    GuestTopology,
    LauncherPod,
    LogicalCpu,
    Machine,
    MemoryBlock,
    NumaNode,
    Quantity,
    Refusal,
    VmName,
)
from quietcore.placement.hints import Hint, HintFamily, mask_of, nodes_of
from quietcore.placement.memory_manager import Allocation, allocate, memory_hints, pod_requests
from quietcore.placement.memory_state import MemoryState, MemoryTable, NodeMemory, Reusable, release, require_reserved, restore

_TABLE = table("memory_manager")


def _state(row: dict[str, Any]) -> MemoryState:
    nodes = {
        int(node): NodeMemory(
            assignments=memory["assignments"],
            group=mask_of(memory["cells"]),
            tables={
                kind: MemoryTable(
                    total=amounts["total"],
                    system_reserved=amounts["systemReserved"],
                    allocatable=amounts["allocatable"],
                    reserved=amounts["reserved"],
                    free=amounts["free"],
                )
                for kind, amounts in memory["memoryMap"].items()
            },
        )
        for node, memory in row["machineState"].items()
    }
    reusable = next(iter(row.get("initContainersReusableMemory", {"": {}})))
    return MemoryState(nodes=nodes, assignments=_assignments(row.get("assignments", {})), reusable=Reusable(pod=reusable))


def _assignments(row: dict[str, Any]) -> dict[str, dict[str, tuple[MemoryBlock, ...]]]:
    return {
        pod: {
            container: tuple(MemoryBlock(nodes=tuple(one["numaAffinity"]), type=one["type"], size_bytes=one["size"]) for one in blocks)
            for container, blocks in containers.items()
        }
        for pod, containers in row.items()
    }


def _container(row: dict[str, Any], role: str) -> Container:
    return Container(
        name=row["name"],
        requests={kind: Quantity.parse(text) for kind, text in row["requests"].items()},
        role="sidecar" if row["restartable"] else role,
    )


def _pod(row: dict[str, Any]) -> LauncherPod:
    init = [_container(one, "init") for one in row["initContainers"]]
    apps = [_container(one, "app") for one in row["containers"]]
    return LauncherPod(
        vm=VmName(name="vm"), uid=row["uid"], qos=row["qos"], containers=(*init, *apps), guest=GuestShape(topology=GuestTopology())
    )


def _reserved(row: dict[str, Any]) -> dict[int, dict[str, int]]:
    return {int(node): kept for node, kept in row["systemReserved"].items()}


def _machine(row: dict[str, Any]) -> Machine:
    nodes = [
        NumaNode(
            node=node["id"],
            memory_bytes=node["memory"],
            hugepages=MappingProxyType({pages["pageSizeKiB"] * 1024: pages["numPages"] for pages in node["hugepages"]}),
        )
        for node in row["machineInfo"]
    ] or [NumaNode(node=0, memory_bytes=0)]  # a Machine has a node; the one row without any fails before it looks
    return Machine(name="row", cpus=(LogicalCpu(cpu=0, core=0, socket=0, node=nodes[0].node, l3=0),), nodes=tuple(nodes))


def _hint(row: dict[str, Any]) -> Hint:
    return Hint(mask=None if row["affinity"] is None else mask_of(row["affinity"]), preferred=row["preferred"])


def _comparable(state: MemoryState) -> object:
    """As upstream compares: free and reserved summed over a node's group; blocks as sets."""
    per_node = {node: (memory.assignments, memory.group) for node, memory in state.nodes.items()}
    totals = {
        (node, kind): (table.total, table.system_reserved, table.allocatable)
        for node, memory in state.nodes.items()
        for kind, table in memory.tables.items()
    }
    sums: dict[tuple[int, str], list[int]] = {}
    for node, memory in state.nodes.items():
        for kind, amounts in memory.tables.items():
            group = sums.setdefault((memory.group or 1 << node, kind), [0, 0])
            group[0] += amounts.free
            group[1] += amounts.reserved
    assignments = {pod: {name: frozenset(blocks) for name, blocks in containers.items()} for pod, containers in state.assignments.items()}
    return per_node, totals, sums, assignments


def _expected(row: dict[str, Any]) -> object:
    return _comparable(_state({"machineState": row["expectedMachineState"], "assignments": row["expectedAssignments"]}))


@pytest.mark.parametrize("row", _TABLE["new"], ids=label)
def test_the_policy_wants_reserved_memory(row):
    if row["expectedError"] is None:
        require_reserved(_reserved(row))
    else:
        with pytest.raises(InputError, match="should specify the system reserved memory") as caught:
            require_reserved(_reserved(row))
        assert caught.value.problems[0].message == row["expectedError"]


@pytest.mark.parametrize("row", _TABLE["start"], ids=label)
def test_saved_books_are_checked_at_the_start(row):
    saved = _state(row)
    if "expectedError" in row:
        with pytest.raises(InputError) as caught:
            restore(saved, _machine(row), _reserved(row))
        assert row["expectedError"] in [problem.message for problem in caught.value.problems]
    else:
        assert _comparable(restore(saved, _machine(row), _reserved(row))) == _expected(row)


@pytest.mark.parametrize("row", _TABLE["allocate"], ids=label)
def test_a_container_gets_its_memory_or_the_kubelets_error(row):
    pod, state = _pod(row["pod"]), _state(row)
    result = allocate(state, pod, pod.containers[0], _hint(row["topologyHint"]))
    if "expectedError" in row:
        assert isinstance(result, Refusal)
        assert result.message == row["expectedError"]
        assert result.reasons
    else:
        assert isinstance(result, Allocation)
        assert _comparable(result.state) == _expected(row)


@pytest.mark.parametrize("row", [*_TABLE["allocate_init"], *_TABLE["allocate_restartable"]], ids=label)
def test_containers_reuse_the_memory_of_finished_init_containers(row):
    pod, state = _pod(row["pod"]), _state(row)
    for container in pod.containers:
        result = allocate(state, pod, container, _hint(row["topologyHint"]))
        assert isinstance(result, Allocation)
        state = result.state
    assert _comparable(state) == _expected(row)


@pytest.mark.parametrize("row", _TABLE["remove"], ids=label)
def test_a_removed_container_gives_its_memory_back(row):
    assert _comparable(release(_state(row), "pod1", "container1")) == _expected(row)


def _listed(hints: Any) -> set[tuple[tuple[int, ...], bool]]:
    return {(nodes_of(hint.mask), hint.preferred) for hint in (hints.hints() if isinstance(hints, HintFamily) else hints)}


@pytest.mark.parametrize("row", _TABLE["hints"], ids=label)
def test_hints_are_the_kubelets(row):
    pod = _pod(row["pod"])
    hints = memory_hints(_state(row), pod, pod.containers[0])
    expected = row["expectedTopologyHints"]
    assert (hints is None) == (expected is None)
    assert {kind: _listed(one) for kind, one in (hints or {}).items()} == {
        kind: {(tuple(one["affinity"]), one["preferred"]) for one in listed} for kind, listed in (expected or {}).items()
    }


@pytest.mark.parametrize("row", _TABLE["pod_requests"], ids=label)
def test_a_pod_needs_what_it_needs_at_its_fullest(row):
    assert pod_requests(_pod(row["pod"])) == row["expected"]
