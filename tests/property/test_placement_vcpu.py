"""What holds for every vCPU order and every set of guest cells, whatever the machine."""

from hypothesis import given, settings
from hypothesis import strategies as st

from quietcore.model import CpuSet, GuestTopology, LogicalCpu, Machine, NumaNode, Refusal
from quietcore.placement.guest_cells import GuestNuma, guest_cells
from quietcore.placement.vcpu_order import VcpuOrder, order_vcpus


def _machine(nodes: int, cores: int, threads: int, *, adjacent: bool) -> Machine:
    """`cores` per node; siblings are numbered next to each other, or a whole machine apart."""
    total = nodes * cores
    cpus = []
    for core in range(total):
        for thread in range(threads):
            first = core * threads if adjacent else core
            number = first + thread if adjacent else core + thread * total
            cpus.append(LogicalCpu(cpu=number, core=first, socket=0, node=core // cores, l3=0))
    return Machine(
        name="random",
        cpus=tuple(sorted(cpus, key=lambda cpu: cpu.cpu)),
        nodes=tuple(NumaNode(node=node, memory_bytes=1 << 30) for node in range(nodes)),
    )


@st.composite
def _requests(draw):
    machine = _machine(draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 3)), adjacent=draw(st.booleans()))
    cpus = CpuSet.from_iterable(draw(st.sets(st.sampled_from(list(machine.online)))))
    topology = GuestTopology(sockets=draw(st.integers(1, 2)), cores=draw(st.integers(1, 4)), threads=draw(st.integers(1, 3)))
    dedicated = draw(st.none() | st.frozensets(st.integers(0, topology.vcpus - 1)))
    return machine, cpus, topology, draw(st.integers(0, 2)), draw(st.integers(0, 2)), dedicated


@settings(max_examples=150)
@given(_requests(), st.booleans())
def test_every_dedicated_vcpu_has_a_cpu_of_its_own_and_nothing_is_lost(request, strict):
    machine, cpus, topology, io_cpus, emulator_cpus, dedicated = request
    pinned = topology.vcpus if dedicated is None else len(dedicated)
    order = order_vcpus(machine, cpus, topology, strict=strict, io_cpus=io_cpus, emulator_cpus=emulator_cpus, dedicated=dedicated)
    if isinstance(order, Refusal):
        assert order.reasons
        assert strict or len(cpus) < pinned + io_cpus + emulator_cpus
        return
    taken = [vcpu.pcpu for vcpu in order.vcpus if vcpu.pcpu is not None]
    assert [vcpu.vcpu for vcpu in order.vcpus] == list(range(topology.vcpus))
    assert (len(taken), len(order.io), len(order.emulator)) == (pinned, io_cpus, emulator_cpus)
    assert sorted([*taken, *order.io, *order.emulator, *order.leftover]) == list(cpus)
    assert all(
        (vcpu.node, vcpu.core) == (machine.cpu(vcpu.pcpu).node, machine.cpu(vcpu.pcpu).core)
        for vcpu in order.vcpus
        if vcpu.rule and vcpu.pcpu is not None
    )


@settings(max_examples=100)
@given(_requests())
def test_strict_keeps_each_guest_core_on_one_node(request):
    machine, cpus, topology, *_ = request
    order = order_vcpus(machine, cpus, topology, strict=True)
    if isinstance(order, VcpuOrder):
        nodes = [vcpu.node for vcpu in order.vcpus]
        assert all(len(set(nodes[first : first + topology.threads])) == 1 for first in range(0, topology.vcpus, topology.threads))


@settings(max_examples=100)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_guest_siblings_are_host_siblings_on_whole_cores(nodes, cores, threads, adjacent):
    machine = _machine(nodes, cores, threads, adjacent=adjacent)
    order = order_vcpus(machine, machine.online, GuestTopology(cores=nodes * cores, threads=threads), strict=True)
    assert isinstance(order, VcpuOrder)
    assert [vcpu.core for vcpu in order.vcpus[::threads]] == list(machine.cores())
    assert all(vcpu.core == order.vcpus[vcpu.vcpu // threads * threads].core for vcpu in order.vcpus)


def test_it_is_told_where_kubevirt_misreads_adjacent_siblings():
    machine = _machine(1, 3, 2, adjacent=True)
    order = order_vcpus(machine, CpuSet.parse("1-5"), GuestTopology(cores=2, threads=2), strict=False)
    assert isinstance(order, VcpuOrder)
    assert [vcpu.pcpu for vcpu in order.vcpus] == [2, 3, 4, 5]
    assert order.notes == (
        "KubeVirt reads the sibling ranges of this host as single-thread cores and would have pinned the vCPUs to 1, 2, 3, 4",
    )


def test_a_missing_thread_is_refused_where_kubevirt_would_start_with_fewer_pins():
    machine = _machine(1, 2, 2, adjacent=False)
    order = order_vcpus(machine, CpuSet.parse("0-2"), GuestTopology(cores=2, threads=2), strict=False)
    assert isinstance(order, Refusal)
    assert order.message == "not enough exclusive threads provided, could not fit 1 core(s)"
    assert (order.reasons[0].wanted, order.reasons[0].free) == ("4 threads", "3 threads")


@settings(max_examples=100)
@given(_requests(), st.integers(1, 40), st.sampled_from([2 << 20, 1 << 30]))
def test_guest_cells_hold_every_vcpu_once_and_all_of_the_memory(request, pages, page_bytes):
    machine, cpus, topology, *_ = request
    order = order_vcpus(machine, cpus, topology, strict=True)
    if isinstance(order, Refusal):
        return
    pins = {vcpu.vcpu: vcpu.pcpu for vcpu in order.vcpus if vcpu.pcpu is not None}
    numa = guest_cells(machine, pins, pages * page_bytes, page_bytes)
    hosts = sorted({machine.cpu(pcpu).node for pcpu in pins.values()})
    if pages < len(hosts):
        assert isinstance(numa, Refusal)
        return
    assert isinstance(numa, GuestNuma)
    assert [cell.node for cell in numa.cells] == hosts
    assert sorted(vcpu for cell in numa.cells for vcpu in cell.vcpus) == sorted(pins)
    sizes = [cell.memory_bytes // page_bytes for cell in numa.cells]
    assert sum(sizes) == pages
    assert sorted(sizes, reverse=True) == sizes
    assert max(sizes) - min(sizes) <= 1
