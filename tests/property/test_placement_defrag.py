"""Making room on small machines against brute force: every way of moving is tried there, and none costs less."""

from dataclasses import replace
from itertools import combinations

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.property.test_placement_cpu_admission import GIB, entry

from quietcore.model import (
    Container,
    CpuPolicyOptions,
    CpuSet,
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
from quietcore.placement import Newcomer, Relocation, Room, Tenant, admit, make_room, move, reserved_cpus

LEAN = settings(max_examples=300, deadline=None)


@st.composite
def machines(draw):
    """Up to 8 CPUs: nodes of cores, with one or two threads, and L3 groups of one or two cores."""
    nodes, cores, threads = draw(st.sampled_from([(1, 4, 2), (2, 2, 2), (4, 1, 2), (1, 6, 1), (2, 3, 1), (2, 4, 1)]))
    per_l3 = draw(st.sampled_from([1, 2]))
    cpus = [(core, thread) for core in range(nodes * cores) for thread in range(threads)]
    return Machine(
        name="small",
        cpus=tuple(
            LogicalCpu(cpu=number, core=core * threads, socket=0, node=core // cores, l3=core // per_l3)
            for number, (core, _) in enumerate(cpus)
        ),
        nodes=tuple(NumaNode(node=node, memory_bytes=64 * GIB, distances=dict.fromkeys(range(nodes), 10)) for node in range(nodes)),
    )


def pod(name, vcpus, *, threads=1, helper=False, **shape):
    """With a `helper` the VM pays for one CPU more, on which its other threads are."""
    count, some = {"cpu": Quantity.of(vcpus + helper)}, {"cpu": Quantity.milli(500)}
    topology = GuestTopology(cores=vcpus // threads, threads=threads)
    containers = (Container(name="compute", requests=some, limits=some), Container(name="dedicated", requests=count, limits=count))
    if helper:
        containers = (Container(name="compute", requests=count, limits=count),)
        shape |= {"strategy": "housekeeping", "vcpu_container": "compute", "emulator_cpus": 1}
    guest = GuestShape(topology=topology, dedicated_vcpus=frozenset(range(vcpus)), **shape)
    return LauncherPod(vm=VmName(name=name), uid=name, containers=containers, guest=guest, qos="Guaranteed")


@st.composite
def pods(draw, name, policies=("none", "none", "prefer", "require", "isolate")):
    threads = draw(st.sampled_from([1, 1, 2]))
    vcpus = threads * draw(st.integers(1, 4 // threads))
    helper = draw(st.sampled_from([False, False, True]))
    return pod(name, vcpus, threads=threads, helper=helper, thread_policy=draw(st.sampled_from(policies)), single_l3=draw(st.booleans()))


options = st.builds(
    Options,
    cpu=st.sampled_from([CpuPolicyOptions(), CpuPolicyOptions(full_pcpus_only=True), CpuPolicyOptions(distribute_cpus_across_cores=True)]),
    topology_policy=st.sampled_from(["none", "best-effort", "restricted", "single-numa-node"]),
)


@st.composite
def hosts(draw):
    """A machine whose VMs lie scattered, and a VM that wants to be together where the draw says so."""
    machine, chosen = draw(machines()), draw(options)
    usable = machine.usable - reserved_cpus(machine, chosen)
    ledger, tenants = Ledger(), []
    for number in range(draw(st.integers(1, 4))):
        one = draw(pods(f"vm{number}"))
        answer = admit(one, machine, ledger, chosen)
        if isinstance(answer, Plan):
            shuffled = draw(st.permutations(list(usable - ledger.owned)))
            cpus = CpuSet.from_iterable(shuffled[: len(answer.exclusive)])
            there = move(one, machine, ledger.with_entry(entry(answer)), chosen, answer, cpus=cpus)
            answer = there if isinstance(there, Plan) else answer
            ledger = ledger.with_entry(entry(answer))
            tenants.append(Tenant(pod=one, plan=answer))
    fixed = draw(st.integers(0, 7))
    wanted = draw(pods("new", policies=("none", "require", "isolate")))
    assume(wanted.guest.topology.vcpus + wanted.guest.emulator_cpus <= len(usable - ledger.owned))
    return machine, chosen, ledger, tuple(one for number, one in enumerate(tenants) if number != fixed), wanted


def newcomer(one):
    plan = Plan(vm=one.vm, uid=one.uid, strategy="dedicated", vcpus=(), shared=CpuSet(), emulator=CpuSet())
    return Newcomer(entry=replace(entry(plan), plan=None), pod=one)


def brute_force(wanted, machine, chosen, ledger, tenants):
    """The least cost over every way to give each tenant as many CPUs as it has, of its own and of those that are free now."""
    free = machine.usable - reserved_cpus(machine, chosen) - ledger.owned
    costs = []

    def deeper(number, left, books, cost):
        if number == len(tenants):
            if isinstance(admit(wanted, machine, books, chosen), Plan):
                costs.append(cost)
            return
        tenant = tenants[number]
        own = tenant.plan.exclusive
        for count in range(min(len(own), len(left)) + 1):
            for gone in combinations(own, count):
                for come in combinations(left, count):
                    if not count:
                        deeper(number + 1, left, books, cost)
                        continue
                    cpus = own - CpuSet.from_iterable(gone) | CpuSet.from_iterable(come)
                    there = placed(number, cpus)
                    if there is not None:
                        after = books.with_entry(replace(books.find(tenant.plan.vm), plan=there.there))
                        deeper(number + 1, left - CpuSet.from_iterable(come), after, cost + there.cost)

    known = {}

    def placed(number, cpus):
        if (number, cpus) not in known:
            tenant = tenants[number]
            there = move(tenant.pod, machine, ledger, chosen, tenant.plan, cpus=cpus, fewest=True)
            sound = isinstance(there, Plan) and there.exclusive == cpus
            known[number, cpus] = Relocation(here=tenant.plan, there=there) if sound else None
        return known[number, cpus]

    deeper(0, free, ledger, 0)
    return min(costs, default=None)


@LEAN
@given(hosts())
def test_no_way_of_moving_costs_less(host):
    machine, chosen, ledger, tenants, wanted = host
    answer = make_room((newcomer(wanted),), tenants, machine, ledger, chosen)
    expected = brute_force(wanted, machine, chosen, ledger, tenants)
    if expected is None:
        assert isinstance(answer, Refusal)
        assert answer.reasons[-1].constraint == "no-moves"
    else:
        assert isinstance(answer, Room)
        assert (answer.cost, answer.at_least) == (expected, expected)


@LEAN
@given(hosts())
def test_after_the_moves_all_fit_and_every_move_is_direct(host):
    machine, chosen, ledger, tenants, wanted = host
    free = machine.usable - reserved_cpus(machine, chosen) - ledger.owned
    answer = make_room((newcomer(wanted),), tenants, machine, ledger, chosen)
    if isinstance(answer, Refusal):
        return
    for step in answer.moves:
        assert step.there.exclusive - step.here.exclusive <= free
        assert move(
            next(one.pod for one in tenants if one.plan.vm == step.vm), machine, ledger, chosen, step.here, cpus=step.there.exclusive
        )
        ledger = ledger.with_entry(replace(ledger.find(step.vm), plan=step.there))
    assert answer.plans == (admit(wanted, machine, ledger, chosen),)


@LEAN
@given(hosts(), st.integers(0, 20))
def test_a_search_that_is_given_up_says_so_and_claims_nothing_false(host, limit):
    machine, chosen, ledger, tenants, wanted = host
    full = make_room((newcomer(wanted),), tenants, machine, ledger, chosen)
    short = make_room((newcomer(wanted),), tenants, machine, ledger, chosen, limit=limit)
    if isinstance(short, Refusal):
        assert isinstance(full, Refusal) or short.reasons[-1].constraint == "search-limit"
    else:
        assert isinstance(full, Room)
        assert short.at_least <= full.cost <= short.cost
        assert short.trials <= limit
