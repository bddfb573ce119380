"""Whole-pod admission where memory decides: bookings per node and per guest cell, hugepages, and both managers together."""

from dataclasses import replace

from tests.unit.test_placement_admission import DEFAULTS, EMPTY, GIB, admitted, machine, pod

from quietcore.model import Entry, Ledger, MemoryBinding, MemoryBlock, NearestFit, Options, Plan, Refusal, VmName
from quietcore.model.quantity import Quantity
from quietcore.model.spec import CpuSpec, MemorySpec, VmSpec
from quietcore.placement import admit


def huge(name="vm", *, gib, vcpus=2, passthrough=True, **guest):
    """A VM whose memory are 1 GiB pages."""
    one = pod(name, vcpus=vcpus, numa_passthrough=passthrough, memory_bytes=gib * GIB, hugepage_bytes=GIB, **guest)
    compute = one.containers[0]
    amounts = {**compute.requests, "hugepages-1Gi": Quantity.of(gib * GIB)}
    return replace(one, containers=(replace(compute, requests=amounts, limits=amounts), *one.containers[1:]))


def beside(plan, *, gib):
    spec = VmSpec(vm=plan.vm, cpu=CpuSpec(), memory=MemorySpec(guest_bytes=gib * GIB, hugepage_bytes=GIB))
    return Entry(spec=spec, digest="", manifest="", phase="running", plan=plan)


def test_memory_comes_from_the_node_of_the_cpus():
    plan = admitted(pod(vcpus=7, memory="2Gi", memory_bytes=GIB), machine(nodes=2))
    assert {vcpu.node for vcpu in plan.vcpus} == {1}
    assert plan.assignments[0].memory == (MemoryBlock(nodes=(1,), type="memory", size_bytes=2 * GIB),)
    assert plan.memory == (MemoryBinding(node=1, type="memory", size_bytes=GIB),)


def test_a_vm_without_guest_memory_in_its_shape_is_bound_to_nothing():
    assert admitted(pod(vcpus=2), machine()).memory == ()


def test_too_little_memory_is_a_refusal_with_every_node():
    refusal = admit(pod(memory="17Gi", memory_bytes=16 * GIB), machine(nodes=2), EMPTY, DEFAULTS)
    assert isinstance(refusal, Refusal)
    assert "[memorymanager]" in refusal.message
    assert [(one.constraint, one.node) for one in refusal.reasons] == [("memory", None), ("memory-on-node", 0), ("memory-on-node", 1)]


def test_cpus_and_memory_that_both_lack_are_both_told():
    refusal = admit(pod(vcpus=99, memory="99Gi"), machine(), EMPTY, DEFAULTS)
    assert [one.constraint for one in refusal.reasons] == ["cpus", "cpus-on-node", "memory", "memory-on-node"]


def test_guest_cells_get_their_pages_on_their_own_node():
    on = machine(nodes=2, hugepages={GIB: 4})
    plan = admitted(huge(gib=6, vcpus=10), on)
    assert [(cell.node, cell.memory_bytes // GIB) for cell in plan.cells] == [(0, 3), (1, 3)]
    assert plan.memory == tuple(MemoryBinding(node=node, type="hugepages-1Gi", size_bytes=3 * GIB) for node in (0, 1))


def test_a_cell_without_pages_on_its_node_is_refused_although_the_sum_would_do():
    """The kubelet admits this VM and QEMU then fails: it checks the sum of both nodes."""
    uneven = machine(nodes=2, hugepages={GIB: 4})
    uneven = replace(uneven, nodes=(replace(uneven.nodes[0], hugepages={GIB: 2}), uneven.nodes[1]))
    refusal = admit(huge(gib=6, vcpus=10), uneven, EMPTY, DEFAULTS)
    assert isinstance(refusal, Refusal)
    assert [(one.constraint, one.node, one.wanted, one.free) for one in refusal.reasons] == [
        ("pages-on-node", 0, str(3 * GIB), str(2 * GIB))
    ]


def test_pages_of_another_vm_are_not_given_twice():
    on = machine(hugepages={GIB: 4})
    first = admitted(huge("first", gib=3), on)
    ledger = Ledger(entries=(beside(first, gib=3),))
    assert isinstance(admit(huge("second", gib=1), on, ledger, DEFAULTS), Plan)
    refusal = admit(huge("second", gib=2), on, ledger, DEFAULTS)
    assert isinstance(refusal, Refusal)
    assert "hugepages-1Gi" in {one.constraint for one in refusal.reasons}
    assert refusal.nearest == NearestFit(change="move default/first away", vm=first.vm)


def test_a_running_vm_can_be_placed_again_on_the_pages_that_it_uses_itself():
    empty = machine(hugepages={GIB: 4})
    plan = admitted(huge("first", gib=3), empty)
    used = replace(empty, nodes=tuple(replace(node, free_hugepages={GIB: 1}) for node in empty.nodes))
    again = admit(huge("first", gib=3), used, Ledger(entries=(beside(plan, gib=3),)), DEFAULTS)
    assert again == plan


def test_cpus_and_memory_of_different_sizes_make_a_strict_policy_refuse():
    options = Options(topology_policy="restricted")
    refusal = admit(pod(vcpus=2, memory="12Gi"), machine(nodes=2), EMPTY, options)
    assert refusal.reason == "TopologyAffinityError"
    assert refusal.nearest == NearestFit(change="use the topology policy best-effort instead of restricted")
    assert refusal.vm == VmName(name="vm")
