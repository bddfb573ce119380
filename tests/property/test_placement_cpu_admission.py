"""Properties of whole-pod admission: VM after VM on generated machines, under every policy and mode."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

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
    NumaNode,
    Options,
    Plan,
    Quantity,
    VmName,
)
from quietcore.model.spec import CpuSpec, MemorySpec, VmSpec
from quietcore.placement import admit, reserved_cpus

LEAN = settings(max_examples=120, deadline=None)
GIB = 1 << 30


@st.composite
def machines(draw):
    """Up to 32 CPUs; some threads offline, some CPUs not for us."""
    sockets, nodes, cores, threads = (draw(st.integers(1, high)) for high in (2, 2, 4, 2))
    total = sockets * nodes * cores
    everything = CpuSet.range(total * threads)
    offline = CpuSet(draw(st.integers(0, everything.mask)) & draw(st.integers(0, everything.mask)) & draw(st.integers(0, everything.mask)))
    if offline == everything:
        offline = CpuSet()
    cpus = tuple(
        LogicalCpu(cpu=cpu, core=cpu % total, socket=cpu % total // (nodes * cores), node=cpu % total // cores, l3=cpu % total // 2)
        for cpu in everything - offline
    )
    allowed = draw(st.none() | st.integers(1, everything.mask).map(CpuSet))
    distances = dict.fromkeys(range(sockets * nodes), 10)
    return Machine(
        name="generated",
        cpus=cpus,
        nodes=tuple(NumaNode(node=node, memory_bytes=64 * GIB, distances=distances) for node in range(sockets * nodes)),
        offline=offline,
        allowed=allowed,
    )


@st.composite
def pods(draw, name="vm"):
    """A VM with dedicated vCPUs, in any strategy and mode."""
    vcpus = draw(st.integers(1, 8))
    strategy = draw(st.sampled_from(["dedicated", "housekeeping", "whole"]))
    extra = 1 if strategy == "housekeeping" else 0
    count = {"cpu": Quantity.of(vcpus + extra)}
    some = {"cpu": Quantity.milli(500)}
    guest = GuestShape(
        topology=GuestTopology(sockets=vcpus),
        strategy=strategy,
        vcpu_container="dedicated" if strategy == "dedicated" else "compute",
        dedicated_vcpus=frozenset(range(vcpus)),
        emulator_cpus=extra,
        thread_policy=draw(st.sampled_from(["none", "none", "prefer", "require", "isolate"])),
        single_l3=draw(st.booleans()) and draw(st.booleans()),
    )
    containers = [Container(name="compute", requests=some, limits=some), Container(name="dedicated", requests=count, limits=count)]
    if strategy != "dedicated":
        containers = [Container(name="compute", requests=count, limits=count)]
    return LauncherPod(vm=VmName(name=name), uid=name, containers=tuple(containers), guest=guest, qos="Guaranteed")


options = st.builds(
    Options,
    compat=st.sampled_from(["fixed", "fixed", "1.36"]),
    cpu=st.sampled_from(
        [
            CpuPolicyOptions(),
            CpuPolicyOptions(full_pcpus_only=True, distribute_cpus_across_numa=True),
            CpuPolicyOptions(distribute_cpus_across_cores=True),
            CpuPolicyOptions(prefer_align_cpus_by_uncorecache=True),
            CpuPolicyOptions(strict_cpu_reservation=True),
        ]
    ),
    topology_policy=st.sampled_from(["none", "best-effort", "restricted", "single-numa-node"]),
    topology_scope=st.sampled_from(["pod", "container"]),
)


def entry(plan):
    return Entry(
        spec=VmSpec(vm=plan.vm, cpu=CpuSpec(), memory=MemorySpec(guest_bytes=GIB)), digest="", manifest="", phase="running", plan=plan
    )


def fill(machine, wanted, chosen):
    """Admit one after the other; the ledger checks that no CPU has two owners."""
    ledger = Ledger()
    for number, pod in enumerate(wanted):
        named = replace(pod, vm=VmName(name=f"vm{number}"), uid=f"vm{number}")
        answer = admit(named, machine, ledger, chosen)
        if isinstance(answer, Plan):
            ledger = ledger.with_entry(entry(answer))
    return ledger


@LEAN
@given(machines(), st.lists(pods(), max_size=5), options)
def test_no_cpu_has_two_owners_and_nothing_forbidden_is_handed_out(machine, wanted, chosen):
    ledger = fill(machine, wanted, chosen)
    assert ledger.owned <= machine.usable - reserved_cpus(machine, chosen)
    for plan in ledger.plans:
        pins = [vcpu.pcpu for vcpu in plan.vcpus]
        assert len(set(pins)) == len(pins)
        assert plan.dedicated <= plan.exclusive
        assert plan.emulator
        assert all(vcpu.rule for vcpu in plan.vcpus)


@LEAN
@given(machines(), st.lists(pods(), max_size=4), pods(), options)
def test_releasing_a_vm_restores_the_answer_of_before(machine, wanted, last, chosen):
    ledger = fill(machine, wanted, chosen)
    newcomer = replace(last, vm=VmName(name="newcomer"), uid="newcomer")
    before = admit(newcomer, machine, ledger, chosen)
    if isinstance(before, Plan):
        again = ledger.with_entry(entry(before)).without(newcomer.vm)
        assert again == ledger
        assert admit(newcomer, machine, again, chosen) == before


@LEAN
@given(machines(), st.lists(pods(), max_size=4), pods(), options)
def test_a_refusal_has_reasons_and_its_nearest_change_names_a_known_vm(machine, wanted, last, chosen):
    ledger = fill(machine, wanted, chosen)
    answer = admit(replace(last, vm=VmName(name="newcomer"), uid="newcomer"), machine, ledger, chosen)
    if isinstance(answer, Plan):
        return
    assert answer.message
    assert answer.reasons
    if answer.nearest is not None and answer.nearest.vm is not None:
        assert ledger.find(answer.nearest.vm) is not None
