"""Properties of the CPU allocators on generated machines: even and uneven, with offline siblings, sparse ids and any fill."""

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.property.exhaustive import exhaustive_choice

from quietcore.model import CpuSet, Refusal
from quietcore.placement import CpuTopology
from quietcore.placement.cpu_assignment import distribute, take_distributed, take_packed
from quietcore.placement.node_choice import choose

LEAN = settings(max_examples=150, deadline=None)


@st.composite
def rows_of_a_machine(draw):
    """Rows of a machine: threads numbered as on x86, some siblings offline, L3 groups inside a node or shared by the socket."""
    sockets, nodes, cores, threads = (draw(st.integers(1, high)) for high in (2, 4, 4, 2))
    total = sockets * nodes * cores
    l3_cores = draw(st.sampled_from([1, 2, cores, nodes * cores]))
    rows = [
        {
            "cpu": core + thread * total,
            "core": core,
            "socket": core // (nodes * cores),
            "numa": core // cores,
            "uncore": core // l3_cores,
        }
        for thread in range(threads)
        for core in range(total)
    ]
    gone = draw(st.sets(st.integers(0, len(rows) - 1), max_size=2)) if draw(st.booleans()) else set()
    rows = [row for row in rows if row["cpu"] not in gone]
    assume(rows)
    return draw(st.permutations(rows)) if len(rows) <= 32 else rows


@st.composite
def requests(draw):
    """A topology, a set of free CPUs and a number of CPUs."""
    topology = CpuTopology.from_rows(draw(rows_of_a_machine()))
    free = CpuSet(draw(st.integers(0, topology.all_mask)) & topology.all_mask)
    return topology, free, draw(st.integers(0, len(free) + 1))


@LEAN
@given(requests(), st.sampled_from(["packed", "spread"]), st.booleans())
def test_packed_gives_exactly_so_many_free_cpus(request_, strategy, prefer_uncore):
    topology, free, count = request_
    answer = take_packed(topology, free, count, strategy=strategy, prefer_uncore=prefer_uncore)
    if count > len(free):
        assert isinstance(answer, Refusal)
        assert answer.message == f"not enough cpus available to satisfy request: requested={count}, available={len(free)}"
    else:
        assert answer <= free
        assert len(answer) == count


@LEAN
@given(requests(), st.sampled_from([1, 2, 4]))
def test_distributed_gives_exactly_so_many_free_cpus_and_names_a_rule_for_each(request_, group):
    topology, free, count = request_
    answer = distribute(topology, free, count, group_size=group)
    if isinstance(answer, Refusal):
        assert count > len(free)
        return
    assert answer.cpus <= free
    assert len(answer.cpus) == count
    assert all(answer.rule_of(cpu) for cpu in answer.cpus)
    assert sum(len(step.cpus) for step in answer.steps) == count


@LEAN
@given(rows_of_a_machine(), st.randoms(use_true_random=False), st.data())
def test_the_order_of_the_rows_does_not_matter(rows, shuffler, data):
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    first, second = CpuTopology.from_rows(rows), CpuTopology.from_rows(shuffled)
    free = CpuSet(data.draw(st.integers(0, first.all_mask)) & first.all_mask)
    count = data.draw(st.integers(0, len(free)))
    assert first == second
    assert take_packed(first, free, count) == take_packed(second, free, count)
    assert take_distributed(first, free, count) == take_distributed(second, free, count)


@st.composite
def searches(draw):
    """Free CPUs of up to 7 nodes in NUMA order, a group size, a request in whole groups, and the least number of nodes."""
    per_node = draw(st.sampled_from([2, 4, 8, 12]))
    free = draw(st.lists(st.integers(1, per_node), min_size=1, max_size=7))
    group = draw(st.sampled_from([1, 1, 2, 4]))
    assume(sum(free) >= group)
    count = draw(st.integers(1, sum(free) // group)) * group
    return free, count, group, -(-(count // group) // -(-per_node // group))


@settings(max_examples=1500, deadline=None)
@given(searches())
def test_the_polynomial_search_is_the_walk(search):
    assert choose(*search, "fixed") == exhaustive_choice(*search)


@settings(max_examples=1500, deadline=None)
@given(searches())
def test_compat_mode_is_the_walk_over_overwritten_memory(search):
    assert choose(*search, "1.36") == exhaustive_choice(*search, overwritten=True)


@settings(max_examples=500, deadline=None)
@given(searches())
def test_the_two_modes_differ_only_where_subsets_are_overwritten(search):
    fixed, old = choose(*search, "fixed"), choose(*search, "1.36")
    if fixed != old:
        assert len(search[0]) >= 5
        assert max(len(fixed.nodes), len(fixed.remainder)) >= 4


@LEAN
@given(requests(), st.booleans())
def test_packed_modes_differ_only_on_uneven_machines(request_, prefer_uncore):
    topology, free, count = request_
    even = all(len({group.mask.bit_count() for group in groups}) == 1 for groups in (topology.cores, topology.sockets))
    nested = all(len([node for node in topology.nodes if node.mask & group.mask]) == 1 for group in topology.uncores)
    assume(even and nested)
    answers = [take_packed(topology, free, count, prefer_uncore=prefer_uncore, compat=compat) for compat in ("fixed", "1.36")]
    assert answers[0] == answers[1]
