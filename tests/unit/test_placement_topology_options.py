"""The Topology and Memory Managers' configuration: all faults at once, in the kubelet's words."""

import pytest

from quietcore.errors import InputError
from quietcore.model import LogicalCpu, Machine, NumaNode, Refusal
from quietcore.placement.hints import Hint, NumaInfo
from quietcore.placement.memory_state import check_reserved, default_state
from quietcore.placement.topology_manager import affinity_refusal, allocation_refusal
from quietcore.placement.topology_options import PolicyOptions, check_start, parse_options

_GIB = 1 << 30


def _machine(nodes: int) -> Machine:
    return Machine(
        name="many",
        cpus=(LogicalCpu(cpu=0, core=0, socket=0, node=0, l3=0),),
        nodes=tuple(NumaNode(node=node, memory_bytes=4 * _GIB, hugepages={_GIB: 1}) for node in range(nodes)),
    )


def _messages(caught: pytest.ExceptionInfo[InputError]) -> list[str]:
    return [problem.message for problem in caught.value.problems]


def test_options_are_read_as_the_kubelet_reads_them():
    assert parse_options({}) == PolicyOptions()
    written = {"prefer-closest-numa-nodes": "true", "max-allowable-numa-nodes": "34"}
    assert parse_options(written) == PolicyOptions(prefer_closest_numa_nodes=True, max_allowable_numa_nodes=34)


def test_every_bad_option_is_named_at_once():
    with pytest.raises(InputError) as caught:
        parse_options({"prefer-closest-numa-nodes": "yes", "max-allowable-numa-nodes": "7", "numa-allocation-strategy": "none"})
    assert _messages(caught) == [
        "bad value for option \"prefer-closest-numa-nodes\": 'yes' is no boolean",
        'the minimum value of "max-allowable-numa-nodes" should not be less than 8',
        'unknown Topology Manager Policy option: "numa-allocation-strategy"',
    ]
    with pytest.raises(InputError, match='unable to convert policy option to integer "max-allowable-numa-nodes"'):
        parse_options({"max-allowable-numa-nodes": "many"})


def test_a_kubelet_refuses_many_nodes_and_we_do_not():
    machine = _machine(9)
    check_start("restricted", "pod", machine)
    check_start("none", "pod", machine, PolicyOptions())
    check_start("restricted", "pod", machine, PolicyOptions(max_allowable_numa_nodes=9))
    with pytest.raises(InputError) as caught:
        check_start("restricted", "node", machine, PolicyOptions())
    assert _messages(caught) == ['unknown scope: "node"', "unsupported on machines with more than 8 NUMA Nodes"]
    with pytest.raises(InputError, match='unknown policy: "distributed"'):
        check_start("distributed", "pod", machine)


def test_the_closest_nodes_need_distances():
    with pytest.raises(InputError, match="error getting NUMA distances from cadvisor"):
        NumaInfo.of(_machine(2), prefer_closest=True)


def test_a_refused_pod_gets_the_kubelets_reason_and_text():
    refusal = affinity_refusal("restricted", Hint(mask=0b101, preferred=False))
    assert (refusal.reason, refusal.message) == ("TopologyAffinityError", "Resources cannot be allocated with Topology locality")
    assert refusal.reasons[0].free == "nodes 0,2"
    failed = allocation_refusal(Refusal(message="not enough cpus available to satisfy request: requested=4, available=1"))
    assert failed.reason == "UnexpectedAdmissionError"
    assert failed.message.startswith("Allocate failed due to not enough cpus available")
    assert failed.message.endswith(", which is unexpected")
    own = Refusal(message="SMT Alignment Error", reason="SMTAlignmentError")
    assert allocation_refusal(own) == own


def test_a_reservation_that_the_machine_cannot_give_is_an_error_and_wraps_in_the_kubelet():
    reserved = {0: {"memory": 5 * _GIB, "hugepages-2Mi": _GIB}, 7: {"memory": _GIB}}
    with pytest.raises(InputError) as caught:
        default_state(_machine(1), reserved)
    assert [problem.field for problem in caught.value.problems] == ["reserved_memory[7]", "reserved_memory[0]", "reserved_memory[0]"]
    assert default_state(_machine(1), {0: {"memory": 5 * _GIB}}, "1.36").nodes[0].free("memory") == (1 << 64) - 2 * _GIB


def test_the_reservation_must_equal_what_node_allocatable_says():
    check_reserved(_machine(2), {0: {"memory": _GIB}, 1: {"memory": _GIB}}, {"memory": 2 * _GIB})
    with pytest.raises(InputError) as caught:
        check_reserved(_machine(2), {0: {"memory": 0}}, {"memory": _GIB})
    assert _messages(caught) == [
        "[memorymanager] you should specify the system reserved memory",
        f'the total amount "0" of type "memory" is not equal to the value "{_GIB}" determined by Node Allocatable feature',
    ]
