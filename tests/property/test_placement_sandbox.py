"""What holds for every sandbox: its CPUs are the union, each backs one vCPU, and no more vCPUs move than the change asks for."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_placement_vcpu import _machine

from quietcore.model import CpuSet, Ledger, Options, Plan, Refusal, VcpuPlacement, VmName
from quietcore.placement import reserved_cpus, sandbox_plan, with_running

VM = VmName(name="pod")


@st.composite
def _lives(draw):
    """A machine, a number of vCPUs, and the unions that a sandbox's containers have one after the other."""
    machine = _machine(draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 2)), adjacent=draw(st.booleans()))
    free = sorted(machine.online - reserved_cpus(machine, Options()))
    some = st.sets(st.sampled_from(free)) if free else st.just(set())
    return machine, draw(st.integers(1, 8)), [CpuSet.from_iterable(one) for one in draw(st.lists(some, min_size=1, max_size=5))]


def _pool(machine, vcpus: int) -> Plan:
    placed = tuple(VcpuPlacement(vcpu=vcpu) for vcpu in range(vcpus))
    return Plan(vm=VM, uid="1", strategy="dedicated", vcpus=placed, shared=machine.online, emulator=machine.online)


def _backed(plan: Plan) -> dict[int, int]:
    return {one.pcpu: one.vcpu for one in plan.vcpus if one.pcpu is not None}


@settings(max_examples=200)
@given(_lives())
def test_each_cpu_of_the_union_backs_one_vcpu_and_as_few_as_possible_move(life):
    machine, vcpus, unions = life
    plan = _pool(machine, vcpus)
    for cpus in unions:
        after = sandbox_plan(plan, machine, Ledger(), Options(), cpus)
        if len(cpus) > vcpus:
            assert isinstance(after, Refusal)
            assert [one.constraint for one in after.reasons] == ["vcpu-count"]
            continue
        assert isinstance(after, Plan)
        assert after.exclusive == after.dedicated == cpus
        assert [one.vcpu for one in after.vcpus] == list(range(vcpus))
        assert len(_backed(after)) == len(cpus) == sum(one.pcpu is not None for one in after.vcpus)
        assert after.shared == after.emulator == machine.online - cpus
        assert all(
            (one.node, one.core) == (machine.cpu(one.pcpu).node, machine.cpu(one.pcpu).core) for one in after.vcpus if one.pcpu is not None
        )
        before, now = _backed(plan), _backed(after)
        assert all(now[cpu] == before[cpu] for cpu in cpus if cpu in before)
        moved = sum(one.pcpu != other.pcpu for one, other in zip(plan.vcpus, after.vcpus, strict=True))
        assert moved == max(len(cpus - plan.dedicated), len(plan.dedicated - cpus))
        assert sandbox_plan(after, machine, Ledger(), Options(), cpus) == after
        plan = after


@settings(max_examples=200)
@given(_lives(), st.frozensets(st.integers(0, 9), min_size=1))
def test_plugged_vcpus_wait_and_a_lost_one_leaves_its_cpu_with_the_sandbox(life, running):
    machine, vcpus, unions = life
    plan = sandbox_plan(_pool(machine, vcpus), machine, Ledger(), Options(), unions[0])
    if isinstance(plan, Refusal):
        return
    after = with_running(plan, running)
    assert [one.vcpu for one in after.vcpus] == sorted(running)
    assert after.exclusive == plan.exclusive
    assert after.unpinned == plan.exclusive - after.dedicated
    assert all(one.pcpu is None for one in after.vcpus if one.vcpu >= vcpus)
    again = sandbox_plan(after, machine, Ledger(), Options(), unions[0])
    assert isinstance(again, Refusal) == (len(unions[0]) > len(running))
    assert isinstance(again, Refusal) or again.dedicated == unions[0]
