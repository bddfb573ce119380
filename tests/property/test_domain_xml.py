"""Whatever stands in a domain's XML: reading it ends in a value or in a typed error."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from tests.unit.test_domain_to_manifest import WORKSTATION

from quietcore import domain
from quietcore.errors import InputError
from quietcore.model import CpuSet

WORDS = st.sampled_from(["", "0", "-1", "99999999999999999999", "0-3,^1", "9-2", "x", "yes", "none", "1.5", "\u0663", "a" * 70])


@st.composite
def spoilt_domains(draw):
    """A domain with one to four values exchanged or elements removed."""
    root = etree.fromstring(WORKSTATION)
    for _ in range(draw(st.integers(1, 4))):
        element = draw(st.sampled_from([one for one in root.iter() if isinstance(one.tag, str)]))
        match draw(st.sampled_from(["text", "attribute", "remove", "repeat"])):
            case "text":
                element.text = draw(WORDS)
            case "attribute" if element.attrib:
                element.set(draw(st.sampled_from(sorted(element.attrib))), draw(WORDS))
            case "remove" if element.getparent() is not None:
                element.getparent().remove(element)
            case "repeat" if element.getparent() is not None:
                element.getparent().append(etree.fromstring(etree.tostring(element)))
            case _:
                pass
    return etree.tostring(root, encoding="unicode")


@settings(max_examples=150, deadline=None)
@given(spoilt_domains())
def test_a_spoilt_domain_is_read_or_refused(xml):
    for read in (domain.facts, domain.to_manifest):
        try:
            read(xml)
        except InputError as error:
            assert error.problems  # noqa: PT017  # both outcomes are right, only others are not


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=string.printable + "<>&\ud800", max_size=60))
def test_any_text_is_read_or_refused(text):
    try:
        domain.facts(text)
    except InputError as error:
        assert error.problems  # noqa: PT017  # as above


@settings(max_examples=100, deadline=None)
@given(st.frozensets(st.integers(0, 300), max_size=40), st.frozensets(st.integers(0, 300), max_size=10))
def test_libvirts_exclusions_take_cpus_out(taken, out):
    from quietcore.domain.reading import cpu_list

    text = ",".join([str(CpuSet.from_iterable(taken)), *(f"^{cpu}" for cpu in sorted(out))])
    assert cpu_list(text) == CpuSet.from_iterable(taken - out)
