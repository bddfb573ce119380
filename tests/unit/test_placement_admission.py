"""Whole-pod admission on small machines: who gets which CPUs, what is left, and why a VM does not fit."""

from dataclasses import replace

import pytest

from quietcore.errors import InputError
from quietcore.model import (
    Container,
    CpuPolicyOptions,
    CpuSet,
    Entry,
    GuestShape,
    GuestTopology,
    LauncherPod,
    Ledger,
    LogicalCpu,
    Machine,
    NearestFit,
    NumaNode,
    Options,
    Plan,
    Quantity,
    Reason,
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


def test_a_full_machine_is_a_refusal_with_the_kubelets_text_and_every_reason():
    """The kubelet counts what its second run lacks; the reasons count the whole."""
    refusal = admit(pod(vcpus=7), machine(), Ledger(), Options())
    assert refusal == Refusal(
        vm=VmName(name="vm"),
        message="Allocate failed due to not enough cpus available to satisfy request: requested=1, available=0, which is unexpected",
        reason="UnexpectedAdmissionError",
        reasons=(
            Reason(constraint="cpus", message="7 exclusive CPUs are wanted and 6 are free", wanted="7", free="6"),
            Reason(constraint="cpus-on-node", message="NUMA node 0 has 6 free CPUs of 7 wanted", node=0, wanted="7", free="6"),
        ),
        nearest=NearestFit(change="ask for 6 CPUs instead of 7"),
    )


@pytest.mark.parametrize(("cores", "threads", "reserved"), [(4, 2, "0,4"), (1, 2, "0"), (4, 1, "0"), (1, 1, "0")])
def test_the_first_core_is_reserved_unless_that_is_all_there_is(cores, threads, reserved):
    assert str(reserved_cpus(machine(cores=cores, threads=threads), Options())) == reserved


def ledger_of(on, *pods, options=DEFAULTS):
    ledger = EMPTY
    for one in pods:
        ledger = ledger.with_entry(entry(admitted(one, on, ledger, options)))
    return ledger


def test_each_cpu_says_which_rule_of_the_kubelet_and_of_kubevirt_gave_it():
    plan = admitted(pod(vcpus=3), machine())
    assert [vcpu.rule for vcpu in plan.vcpus] == [
        "whole core 1; KubeVirt pass 1: the next threads of a host core with enough free threads",
        "whole core 1; KubeVirt pass 1: the next threads of a host core with enough free threads",
        "single thread; KubeVirt pass 1: the next threads of a host core with enough free threads",
    ]


def test_the_same_vm_is_placed_as_if_it_were_not_there_yet():
    ledger = ledger_of(machine(), pod("a"), pod("b"))
    assert admitted(pod("a"), machine(), ledger).exclusive == ledger.find(VmName(name="a")).plan.exclusive


def test_mixed_leaves_some_vcpus_on_the_shared_pool():
    plan = admitted(pod(vcpus=4, dedicated_vcpus=frozenset({2, 3})), machine())
    assert [vcpu.pcpu for vcpu in plan.vcpus] == [None, None, 1, 5]
    assert str(plan.exclusive) == "1,5"


def test_require_takes_whole_cores_or_refuses():
    plan = admitted(pod(vcpus=4, thread_policy="require"), machine())
    assert str(plan.exclusive) == "1-2,5-6"
    refusal = admit(pod(vcpus=3, thread_policy="require"), machine(), EMPTY, DEFAULTS)
    assert (refusal.reasons[0].constraint, refusal.nearest) == (
        "whole-cores",
        NearestFit(change="use the thread policy prefer instead of require"),
    )


def test_require_leaves_broken_cores_to_others():
    on = machine()
    ledger = ledger_of(on, pod("odd", vcpus=1))
    assert str(ledger.owned) == "1"
    assert str(admitted(pod(vcpus=2, thread_policy="require"), on, ledger).exclusive) == "2,6"


def test_isolate_owns_the_rest_of_its_cores():
    on = machine()
    plan = admitted(pod(vcpus=3, thread_policy="isolate"), on)
    assert (str(plan.dedicated), str(plan.exclusive), str(plan.unpinned), str(plan.shared)) == ("1-2,5", "1-2,5-6", "6", "0,3-4,7")
    assert str(admitted(pod("next", vcpus=1), on, Ledger(entries=(entry(plan),))).exclusive) == "3"


def test_prefer_takes_siblings_even_where_the_host_spreads():
    options = Options(cpu=CpuPolicyOptions(distribute_cpus_across_cores=True))
    assert str(admitted(pod(vcpus=2), machine(), EMPTY, options).exclusive) == "1-2"
    assert str(admitted(pod(vcpus=2, thread_policy="prefer"), machine(), EMPTY, options).exclusive) == "1,5"


def test_single_l3_stays_in_one_group_or_says_what_each_group_has():
    on = machine(nodes=2)
    plan = admitted(pod(vcpus=6, single_l3=True), on)
    assert str(plan.exclusive) == "1-3,9-11"
    refusal = admit(pod(vcpus=9, single_l3=True), on, EMPTY, DEFAULTS)
    assert [(one.constraint, one.node, one.free) for one in refusal.reasons] == [("single-l3", 0, "6"), ("single-l3", 1, "8")]
    assert refusal.nearest == NearestFit(change="let the VM's CPUs lie in several L3 groups")


def test_restricted_refuses_what_could_fit_one_empty_node_and_names_a_vm_to_move():
    on = machine(nodes=2)
    options = Options(topology_policy="restricted")
    ledger = ledger_of(on, pod("small", vcpus=3), pod("big", vcpus=4), options=options)
    refusal = admit(pod(vcpus=5), on, ledger, options)
    assert (refusal.message, refusal.reason) == ("Resources cannot be allocated with Topology locality", "TopologyAffinityError")
    assert [(one.constraint, one.node, one.free) for one in refusal.reasons[1:]] == [("cpus-on-node", 0, "3"), ("cpus-on-node", 1, "4")]
    assert refusal.nearest == NearestFit(change="use the topology policy best-effort instead of restricted")


def test_a_full_machine_names_the_smallest_vm_whose_move_frees_enough():
    on = machine()
    ledger = ledger_of(on, pod("a", vcpus=3), pod("b", vcpus=2))
    refusal = admit(pod(vcpus=2), on, ledger, DEFAULTS)
    assert refusal.nearest == NearestFit(change="move default/b away", vm=VmName(name="b"))


def test_where_no_vm_can_move_fewer_cpus_are_suggested():
    refusal = admit(pod(vcpus=9), machine(), ledger_of(machine(), pod("a", vcpus=2)), DEFAULTS)
    assert refusal.nearest == NearestFit(change="ask for 4 CPUs instead of 9")


def test_container_scope_aligns_each_container_by_itself():
    on = machine(nodes=2)
    two = Quantity.of(2)
    helper = Container(name="helper", requests={"cpu": two}, limits={"cpu": two})
    plan = admitted(pod(vcpus=6, containers=(helper,)), on, EMPTY, Options(topology_scope="container", topology_policy="restricted"))
    assert {one.container: str(one.cpus) for one in plan.assignments} == {"compute": "", "dedicated": "1-3,9-11", "helper": "4,12"}


def test_strict_reservation_takes_the_reserved_cpus_out_of_the_pool():
    options = Options(cpu=CpuPolicyOptions(strict_cpu_reservation=True))
    assert str(admitted(pod(vcpus=2), machine(), EMPTY, options).shared) == "2-3,6-7"
    refusal = admit(pod(vcpus=6), machine(), EMPTY, options)
    assert refusal.reasons[0].constraint == "shared-pool"


def test_options_that_contradict_each_other_are_one_error_with_every_field():
    options = Options(
        cpu=CpuPolicyOptions(full_pcpus_only=True, distribute_cpus_across_cores=True, distribute_cpus_across_numa=True),
    )
    with pytest.raises(InputError) as fault:
        admit(pod(), machine(), EMPTY, options)
    assert [(one.field, one.message) for one in fault.value.problems] == [
        (
            "cpu.full_pcpus_only",
            "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time",
        ),
        (
            "cpu.distribute_cpus_across_numa",
            "static policy options distribute-cpus-across-numa and distribute-cpus-across-cores can not be used at the same time",
        ),
    ]


def test_full_cores_only_carries_the_kubelets_smt_text():
    options = Options(cpu=CpuPolicyOptions(full_pcpus_only=True))
    refusal = admit(pod(vcpus=3), machine(), EMPTY, options)
    assert (refusal.message, refusal.reason) == (
        "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2",
        "SMTAlignmentError",
    )
    assert refusal.nearest == NearestFit(change="ask for 2 CPUs instead of 3")


def test_reserved_cpus_that_do_not_exist_are_an_input_error():
    with pytest.raises(InputError, match="CPUs 99 cannot be reserved"):
        admit(pod(), machine(), EMPTY, Options(reserved_cpus=CpuSet.of(0, 99)))


def test_cpus_outside_what_the_system_may_use_are_never_touched():
    on = replace(machine(), allowed=CpuSet.parse("2-3,6-7"))
    plan = admitted(pod(vcpus=2), on)
    assert (str(plan.exclusive), str(plan.shared)) == ("3,7", "2,6")


def test_pod_level_cpus_are_divided_among_the_containers_of_the_pod():
    options = Options(pod_level_resources=True, pod_level_resource_managers=True)
    both = {"cpu": Quantity.of(2), "memory": Quantity.parse("1Gi")}
    one = pod(vcpus=2)
    container = replace(one.containers[1], requests=both, limits=both)
    level = {"cpu": Quantity.of(3), "memory": Quantity.parse("3Gi")}
    plan = admitted(
        replace(one, containers=(one.containers[0], container), pod_requests=level, pod_limits=level), machine(), EMPTY, options
    )
    assert {item.container: str(item.cpus) for item in plan.assignments} == {"compute": "2", "dedicated": "1,5"}
    assert plan.vcpus[0].rule.startswith("from the CPUs of the pod as a whole; ")
