"""The books as JSON: whatever the model can hold reads back equal, and nothing else is taken for it."""

import functools
import json
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quietcore.engine.codec import DecodeError, decode, encode
from quietcore.model import CpuSet, Entry, Ledger, Plan, Quantity, VmName

NAMES = st.text("abz-", min_size=1, max_size=4)
LEAVES: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(-5, 1 << 40),
    str: st.text(max_size=4),
    bool: st.booleans(),
    types.NoneType: st.none(),
    Fraction: st.builds(Fraction, st.integers(0, 9), st.integers(1, 9)),
    CpuSet: st.builds(CpuSet, st.integers(0, 1 << 70)),
    Quantity: st.builds(lambda n: Quantity(Fraction(n, 1000)), st.integers(0, 10**9)),
    VmName: st.builds(VmName, namespace=NAMES, name=NAMES),
}


@functools.cache  # hypothesis looks at each new strategy for longer than it draws from it
def values(wanted: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the model, by its annotations: a new field is tried without a word here."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if wanted in LEAVES:
        return LEAVES[wanted]
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in {Union, types.UnionType}:
        return st.one_of([values(one) for one in arguments])
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is frozenset:
        return st.frozensets(values(arguments[0]), max_size=2)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2).map(MappingProxyType)
    assert is_dataclass(wanted), wanted
    return st.deferred(lambda: st.builds(wanted, **{name: values(hint) for name, hint in get_type_hints(wanted).items()}))


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Books of up to two VMs; one whose CPUs are taken is left out, for such books do not exist."""
    books = Ledger(irqs=draw(values(Mapping[int, str])), unmovable_irqs=draw(values(frozenset[int])))
    for entry in draw(st.lists(values(Entry), max_size=2)):
        try:
            books = books.with_entry(entry)
        except ValueError:
            continue
    return books


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(ledgers())
def test_books_read_back_equal(books):
    text = json.dumps(encode(books), sort_keys=True)
    again = decode(Ledger, json.loads(text))
    assert again == books
    assert json.dumps(encode(again), sort_keys=True) == text


def entry(name: str = "a", **fields: object) -> dict[str, Any]:
    spec = {"vm": {"name": name}, "cpu": {}, "memory": {"guest_bytes": 1}}
    return {"spec": spec, "digest": "", "manifest": "", "phase": "stopped", **fields}


def plan(cpus: str) -> dict[str, Any]:
    vm = {"name": "a"}
    own = {"container": "compute", "cpus": cpus}
    return {"vm": vm, "uid": "", "strategy": "whole", "vcpus": [], "shared": "", "emulator": cpus, "assignments": [own]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "[] is no dict"),
        ({"entries": {}}, "entries: {} is no list"),
        ({"entries": [entry(phase="dreaming")]}, "entries[0].phase: 'dreaming' is none of ('creating', 'running', 'stopped', 'deleting')"),
        ({"entries": [entry(known=1)]}, "entries[0].known: 1 is no bool"),
        ({"entries": [entry(digest=True)]}, "entries[0].digest: True is no str"),
        ({"entries": [entry(colour="red")]}, "entries[0]: unknown field 'colour' in Entry"),
        (
            {"entries": [{"spec": {}}]},
            "entries[0].spec: VmSpec.__init__() missing 3 required keyword-only arguments: 'vm', 'cpu', and 'memory'",
        ),
        (
            {"entries": [entry(plan=plan("4-2"))]},
            "entries[0].plan.emulator: the range '4-2' in the CPU list '4-2' does not ascend within 0-65535",
        ),
        ({"entries": [entry("b"), entry("a")]}, "the ledger's VMs are not listed once each in order"),
        ({"entries": [entry("a", plan=plan("1-2")), entry("b", plan=plan("2"))]}, "CPUs 2 of default/b have a second owner"),
        ({"irqs": {"x": "1"}}, "irqs: key 'x' is no number"),
        ({"irqs": {"1": 1}}, "irqs.1: 1 is no str"),
        ({"unmovable_irqs": [True]}, "unmovable_irqs: True is no int"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(data, message):
    with pytest.raises(DecodeError) as refusal:
        decode(Ledger, data)
    assert str(refusal.value) == message


def test_a_value_says_which_of_several_types_it_is():
    with pytest.raises(DecodeError, match="Machine is no Plan"):
        decode(Plan, {key: "Machine" for key, text in encode(VmName(name="a")).items() if text == "VmName"})
