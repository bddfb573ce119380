"""CPU sets against Python's own sets, quantities against the rules of apimachinery."""

import copy
import pickle
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietcore.model import CpuSet, Quantity, VmName, union
from quietcore.model.cpuset import MAX_CPUS

FEW = settings(max_examples=100, deadline=None)
NUMBERS = st.sets(st.one_of(st.integers(0, 70), st.integers(0, MAX_CPUS - 1)), max_size=12)
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)


@FEW
@given(NUMBERS)
def test_a_cpu_set_is_the_set_of_its_numbers(numbers):
    cpus = CpuSet.from_iterable(numbers)
    assert (list(cpus), len(cpus), bool(cpus)) == (sorted(numbers), len(numbers), bool(numbers))
    assert CpuSet.parse(str(cpus)) == cpus == CpuSet.of(*numbers)
    assert eval(repr(cpus)) == cpus
    assert all(number in cpus for number in numbers)
    assert (-1 in cpus, "0" in cpus) == (False, False)
    if numbers:
        assert (cpus.lowest, cpus.highest) == (min(numbers), max(numbers))


@FEW
@given(NUMBERS, NUMBERS)
def test_set_algebra_is_that_of_python(left, right):
    one, other = CpuSet.from_iterable(left), CpuSet.from_iterable(right)
    assert (set(one | other), set(one & other), set(one - other)) == (left | right, left & right, left - right)
    assert (one <= other, one < other, one == other) == (left <= right, left < right, left == right)
    assert one.isdisjoint(other) == left.isdisjoint(right)
    assert union((one, other, CpuSet())) == one | other
    assert (hash(one) == hash(other)) or one != other


@FEW
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 20)), max_size=6))
def test_ranges_may_overlap_and_stand_in_any_order(ranges):
    text = " , ".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    assert set(CpuSet.parse(f"{text}\n")) == {cpu for first, more in ranges for cpu in range(first, first + more + 1)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2-", "'2-' in the CPU list '2-' is neither a number nor a range such as 2-5"),
        ("-2", "'-2' in the CPU list '-2' is neither a number nor a range such as 2-5"),
        ("1,,2", "'' in the CPU list '1,,2' is neither a number nor a range such as 2-5"),
        ("all", "'all' in the CPU list 'all' is neither a number nor a range such as 2-5"),
        ("1-2-3", "'1-2-3' in the CPU list '1-2-3' is neither a number nor a range such as 2-5"),
        ("²", "'²' in the CPU list '²' is neither a number nor a range such as 2-5"),
        ("0-7:2/4", "'0-7:2/4' in the CPU list '0-7:2/4' is neither a number nor a range such as 2-5"),
        ("5-2", "the range '5-2' in the CPU list '5-2' does not ascend within 0-65535"),
        ("0-65536", "the range '0-65536' in the CPU list '0-65536' does not ascend within 0-65535"),
    ],
)
def test_what_is_no_cpu_list_is_named(text, message):
    with pytest.raises(ValueError, match="CPU list") as refusal:
        CpuSet.parse(text)
    assert str(refusal.value) == message


def test_a_cpu_set_stays_what_it_is():
    cpus = CpuSet.of(1)
    assert copy.deepcopy(cpus) == cpus == pickle.loads(pickle.dumps(cpus))
    with pytest.raises(AttributeError, match="immutable"):
        cpus.mask = 3
    for wrong in (
        lambda: CpuSet(-1),
        lambda: CpuSet.of(-1),
        lambda: CpuSet.of(MAX_CPUS),
        lambda: CpuSet().lowest,
        lambda: CpuSet().highest,
    ):
        with pytest.raises(ValueError, match="CPU"):
            wrong()


@FEW
@given(st.integers(-(10**15), 10**15), st.sampled_from(("", "n", "u", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "e3", "E-3", "e0")))
def test_a_quantity_prints_as_the_same_amount_and_stays_so(number, suffix):
    read = Quantity.parse(f"{number}{suffix}")
    again = Quantity.parse(str(read))
    assert again == read
    assert str(again) == str(read)


@FEW
@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_rounding_never_gives_less_than_was_asked_for(numerator, more):
    amount = Quantity(Fraction(numerator, 1 + more))
    assert amount.amount <= amount.value < amount.amount + 1
    assert amount.amount * 1000 <= amount.milli_value < amount.amount * 1000 + 1


@pytest.mark.parametrize(
    ("text", "printed", "value", "milli"),
    [
        ("1500m", "1500m", 2, 1500),
        ("1000m", "1", 1, 1000),
        ("0.5", "500m", 1, 500),
        (".5", "500m", 1, 500),
        ("5.", "5", 5, 5000),
        ("1.5Gi", "1536Mi", 1610612736, 1610612736000),
        ("0.1Ki", "102400m", 103, 102400),
        ("0.0001Ki", "102400u", 1, 103),
        ("512", "512", 512, 512000),
        ("0.5Ki", "512", 512, 512000),
        ("1024Ki", "1Mi", 1 << 20, 1000 << 20),
        ("2048", "2048", 2048, 2048000),
        ("1e3", "1e3", 1000, 1000000),
        ("12e2", "1200", 1200, 1200000),
        ("1E6", "1e6", 10**6, 10**9),
        ("1e-3", "1e-3", 1, 1),
        ("1e21", "1e21", 10**21, 10**24),
        ("1E", "1E", 10**18, 10**21),
        ("1n", "1n", 1, 1),
        ("0.1n", "1n", 1, 1),
        ("-0.1n", "-1n", -1, -1),
        ("-1.5", "-1500m", -2, -1500),
        ("+3", "3", 3, 3000),
        ("0Ki", "0", 0, 0),
        ("16Ei", "9223372036854775807", (1 << 63) - 1, 1000 * ((1 << 63) - 1)),
    ],
)
def test_quantities_are_read_and_printed_as_apimachinery_does(text, printed, value, milli):
    read = Quantity.parse(text)
    assert (str(read), read.value, read.milli_value) == (printed, value, milli)


@pytest.mark.parametrize("text", ["", "Gi", "1.2.3", "1 Gi", "1gi", "0x10", "1e", "1Kii", "--1", "1e99", "1" * 65, "٣", True, "nan", "inf"])
def test_garbage_is_refused_in_the_words_of_apimachinery(text):
    with pytest.raises(ValueError, match="quantities must match the regular expression"):
        Quantity.parse(text)


def test_quantities_of_different_families_compare_and_add_by_value():
    assert Quantity.parse("1") == Quantity.parse("1000m") == Quantity.parse("1e0") == Quantity.of(1) == Quantity.milli(1000)
    assert Quantity.parse("1Gi") > Quantity.parse("1G")
    assert str(Quantity.parse("1Gi") + Quantity.parse("1024")) == "1048577Ki"
    assert str(Quantity.of(0) + Quantity.parse("1Gi")) == "1Gi"  # nothing has no family of its own


@FEW
@given(LABELS, LABELS)
def test_a_vm_is_found_again_by_its_domain(namespace, name):
    vm = VmName(namespace=namespace, name=name)
    assert VmName.from_domain(vm.domain) == vm


@pytest.mark.parametrize("domain", ["", "_", "a_", "_a", "plain", "a_b_c"])
def test_a_domain_of_somebody_else_is_no_vm_of_ours(domain):
    with pytest.raises(ValueError, match="is not <namespace>_<name>"):
        VmName.from_domain(domain)


def test_a_cpu_set_can_be_copied_and_pickled():
    cpus = CpuSet.parse("0-3,8")
    assert copy.deepcopy(cpus) == pickle.loads(pickle.dumps(cpus)) == cpus
