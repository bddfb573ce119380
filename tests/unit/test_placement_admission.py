"""Whole-pod admission on small machines: who gets which CPUs, what is left, and why a VM does not fit."""

import pytest

from quietcore.model import (
    Container,
    CpuSet,
    Entry,
    GuestShape,
    GuestTopology,
    LauncherPod,
    Ledger,
    LogicalCpu,
    Machine,
    NumaNode,
    Options,
    Plan,
    Quantity,
    Refusal,
    VmName,
)
from quietcore.model.spec import CpuSpec, MemorySpec, VmSpec
from quietcore.placement import admit, reserved_cpus

GIB = 1 << 30
EMPTY = Ledger()
DEFAULTS = Options()


def machine(*, sockets=1, nodes=1, cores=4, threads=2, memory=8 * GIB, hugepages=None):
    """CPU numbers as on x86: first all first threads, then all second threads."""
    total = sockets * nodes * cores
    cpus = tuple(
        LogicalCpu(cpu=core + thread * total, core=core, socket=core // (nodes * cores), node=core // cores, l3=core // cores)
        for thread in range(threads)
        for core in range(total)
    )
    distances = dict.fromkeys(range(sockets * nodes), 10)
    return Machine(
        name="test",
        cpus=cpus,
        nodes=tuple(
            NumaNode(node=node, memory_bytes=memory, hugepages=hugepages or {}, distances=distances) for node in range(sockets * nodes)
        ),
    )


def pod(name="vm", *, vcpus=2, strategy="dedicated", qos="Guaranteed", memory="1Gi", extra=0, containers=(), **guest):
    """The launcher pod of a VM all of whose vCPUs are dedicated."""
    holder = "dedicated" if strategy == "dedicated" else "compute"
    dedicated = guest.setdefault("dedicated_vcpus", frozenset(range(vcpus)))
    cpu = Quantity.of(len(dedicated) + extra)
    compute = {"cpu": Quantity.milli(500) if strategy == "dedicated" else cpu, "memory": Quantity.parse(memory)}
    parts = [Container(name="compute", requests=compute, limits=compute)]
    if strategy == "dedicated" and dedicated:
        parts.append(Container(name="dedicated", requests={"cpu": cpu}, limits={"cpu": cpu}))
    shape = GuestShape(topology=GuestTopology(sockets=vcpus), strategy=strategy, vcpu_container=holder, **guest)
    return LauncherPod(vm=VmName(name=name), uid=f"uid-{name}", containers=(*parts, *containers), guest=shape, qos=qos)


def entry(plan):
    spec = VmSpec(vm=plan.vm, cpu=CpuSpec(), memory=MemorySpec(guest_bytes=GIB))
    return Entry(spec=spec, digest="", manifest="", phase="running", plan=plan)


def admitted(one, on, ledger=EMPTY, options=DEFAULTS):
    plan = admit(one, on, ledger, options)
    assert isinstance(plan, Plan), plan
    return plan


def test_a_dedicated_vm_owns_one_cpu_per_vcpu_and_leaves_the_rest_shared():
    plan = admitted(pod(vcpus=2), machine())
    assert [(vcpu.vcpu, vcpu.pcpu, vcpu.core) for vcpu in plan.vcpus] == [(0, 1, 1), (1, 5, 1)]
    assert (str(plan.exclusive), str(plan.shared), plan.emulator) == ("1,5", "0,2-4,6-7", plan.shared)


def test_the_second_vm_avoids_the_first():
    first = admitted(pod("a"), machine())
    second = admitted(pod("b"), machine(), Ledger(entries=(entry(first),)))
    assert str(second.exclusive) == "2,6"


def test_housekeeping_gives_the_emulator_its_own_cpu():
    plan = admitted(pod(strategy="housekeeping", vcpus=3, extra=1, emulator_cpus=1), machine())
    assert (str(plan.dedicated), str(plan.emulator), str(plan.unpinned)) == ("1-2,5", "6", "")


def test_whole_runs_every_thread_on_the_vms_own_cpus():
    plan = admitted(pod(strategy="whole"), machine())
    assert plan.emulator == plan.exclusive == CpuSet.of(1, 5)


def test_a_shared_vm_owns_nothing():
    plan = admitted(pod(qos="Burstable", dedicated_vcpus=frozenset()), machine())
    assert (plan.exclusive, [vcpu.pcpu for vcpu in plan.vcpus], str(plan.emulator)) == (CpuSet(), [None, None], "0-7")


def test_a_full_machine_is_a_refusal_with_the_kubelets_text():
    refusal = admit(pod(vcpus=7), machine(), Ledger(), Options())
    assert isinstance(refusal, Refusal)
    assert refusal.message == "not enough cpus available to satisfy request: requested=7, available=6"
    assert refusal.vm == VmName(name="vm")


@pytest.mark.parametrize(("cores", "threads", "reserved"), [(4, 2, "0,4"), (1, 2, "0"), (4, 1, "0"), (1, 1, "0")])
def test_the_first_core_is_reserved_unless_that_is_all_there_is(cores, threads, reserved):
    assert str(reserved_cpus(machine(cores=cores, threads=threads), Options())) == reserved
