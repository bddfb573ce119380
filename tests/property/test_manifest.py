"""No input ends in anything but a result or an InputError, and what was read once is read the same again."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.manifest_fuzz import MANIFESTS, Mutation, mutated

from quietcore import manifest
from quietcore.errors import InputError
from quietcore.manifest import fields, realtime_mask, scalars
from quietcore.manifest.instancetypes import spread_fault, topology
from quietcore.manifest.tree import Tree

MODEST = settings(max_examples=80, deadline=None)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(["", "0", "-1", "1Gi", "2Mi", "1e30", "0-3,^1", "^1", "../x", "a\x01b", "host-passthrough", "Always", "99999999999"]),
)
VALUES = st.recursive(
    SCALARS, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=8), below, max_size=3), max_leaves=6
)
NAMES = st.sampled_from(sorted({name for known in fields.types().values() for name in known})) | st.text(max_size=12)


def answer(text):
    """The loaded result, or the problems; anything else fails the test."""
    try:
        return manifest.load([manifest.SourceText(file="f", text=text)])
    except InputError as error:
        problems = error.problems
    lines = sum(text.count(end) for end in "\n\r\x85\u2028\u2029") + 2
    assert problems
    assert all(str(problem) and (problem.line is None or 1 <= problem.line <= lines) for problem in problems)
    return problems


@pytest.mark.parametrize("good", MANIFESTS, ids=range(len(MANIFESTS)))
def test_the_manifests_to_be_broken_are_good(good):
    assert isinstance(answer(json.dumps(good)), manifest.Loaded)


@MODEST
@given(st.text(max_size=400))
def test_any_text_is_answered(text):
    answer(text)


@MODEST
@given(st.text(alphabet="{}[]:,-&*!|>'\"%@`#?\n\t abc019~<.\\u", max_size=120))
def test_any_yaml_like_text_is_answered(text):
    answer(f"apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nspec: {text}")


@MODEST
@given(st.sampled_from(MANIFESTS), st.lists(st.builds(Mutation, st.integers(0, 1 << 30), NAMES, VALUES), min_size=1, max_size=3))
def test_any_change_of_a_good_manifest_is_answered(good, mutations):
    answer(json.dumps(mutated(good, mutations)))


@MODEST
@given(st.sampled_from(MANIFESTS), st.lists(st.builds(Mutation, st.integers(0, 1 << 30), NAMES, VALUES), max_size=2))
def test_a_document_reads_the_same_from_its_own_text(good, mutations):
    loaded = answer(json.dumps(mutated(good, mutations), indent=1))
    if isinstance(loaded, manifest.Loaded) and loaded.cluster == manifest.ClusterConfig():
        for document in loaded.documents:
            again = answer(document.text)
            assert again.documents[0].spec == document.spec


@MODEST
@given(st.text(alphabet="0123456789,-^ a", max_size=20), st.integers(1, 70))
def test_a_mask_selects_what_a_lookup_says(mask, vcpus):
    try:
        named = realtime_mask.parse(mask)
    except ValueError:
        return
    assert realtime_mask.select(mask, vcpus) == {vcpu for vcpu in range(vcpus) if realtime_mask.is_realtime(named, vcpu)}


@MODEST
@given(st.frozensets(st.integers(0, 40), min_size=1), st.frozensets(st.integers(0, 40)))
def test_a_mask_that_is_written_out_is_read_back(on, off):
    mask = ",".join([*(str(vcpu) for vcpu in sorted(on)), *(f"^{vcpu}" for vcpu in sorted(off))])
    assert realtime_mask.select(mask, 64) == on - off


@MODEST
@given(st.integers(1, 512), st.sampled_from([None, "SocketsCores", "CoresThreads", "SocketsCoresThreads"]), st.integers(1, 16))
def test_an_even_spread_keeps_every_vcpu(vcpus, across, ratio):
    options = {"ratio": ratio} | ({"across": across} if across else {})
    preference = Tree({"cpu": {"preferredCPUTopology": "spread", "spreadOptions": options}})
    if not spread_fault(vcpus, preference):
        assert topology(vcpus, preference).vcpus == vcpus


@MODEST
@given(st.text(min_size=1, max_size=20))
def test_a_scalar_is_text_or_something_that_json_can_carry(text):
    try:
        value = scalars.resolve(text)
    except ValueError:
        return
    assert json.loads(json.dumps(value)) == value
