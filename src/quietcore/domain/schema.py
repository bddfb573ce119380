"""Validation against libvirt's own RELAX NG schema, which is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Final

from lxml import etree

from quietcore.errors import Problem

_SKELETON: Final = "<domain type='kvm'><name>x</name><memory>1</memory><os><type>hvm</type></os></domain>"
"""The least that the schema accepts as a domain; single sections are tried in it."""


def compiled(path: str) -> etree.RelaxNG:
    """libvirt's schema in a file; lxml reads it and its neighbours itself. Raises OSError where the file or a neighbour is missing."""
    try:
        return etree.RelaxNG(file=path)
    except etree.RelaxNGParseError as err:
        raise OSError(f"{path}: {err}") from err


def validate(xml: str, schema: etree.RelaxNG) -> tuple[Problem, ...]:
    """Every element that the schema does not accept; empty when the XML is valid.

    `schema` is libvirt's domain.rng compiled (`etree.RelaxNG(file=...)`): it includes its neighbours, so it cannot be a text.
    libxml2 gives up on interleaved content and blames the whole domain. So the elements are tried one by one, and the smallest
    ones that spoil the domain are named.
    """
    try:
        root = etree.fromstring(xml)
    except etree.XMLSyntaxError as err:
        return (Problem(message=f"the domain is no XML: {err.msg}", code="xml-syntax", line=err.lineno, ours=True),)
    if schema.validate(root):
        return ()
    return tuple(_problem(path, element) for path, element in _culprits(root, schema))


def _problem(path: str, element: etree._Element) -> Problem:
    text = " ".join(etree.tostring(element, encoding="unicode", with_tail=False).split())
    shown = text if len(text) <= 160 else f"{text[:157]}..."
    hint = "see libvirt's domain.rng for what it accepts here"
    return Problem(
        message=f"libvirt's schema does not accept {shown}", code="xml-schema", line=element.sourceline, field=path, hint=hint, ours=True
    )


def _culprits(root: etree._Element, schema: etree.RelaxNG) -> Iterator[tuple[str, etree._Element]]:
    found = False
    for section in root:
        if not isinstance(section.tag, str):
            continue

        def accepts(one: etree._Element) -> bool:
            frame = etree.fromstring(_SKELETON)
            for present in frame.findall(str(one.tag)):
                frame.remove(present)
            frame.append(deepcopy(one))
            return schema.validate(frame)

        for path, element in _inside(section, accepts):
            found = True
            yield f"domain.{path}", element
    if not found:  # each section is fine for itself: one is missing or twice there
        yield "domain", root


def _inside(element: etree._Element, accepts: Callable[[etree._Element], bool]) -> list[tuple[str, etree._Element]]:
    """The smallest parts of an element that make it unacceptable; empty when it is acceptable."""
    if accepts(element):
        return []
    without = [child for child in element if accepts(_copy(element, [other for other in element if other is not child]))]
    alone = [child for child in element if not accepts(_copy(element, [child]))] if accepts(_copy(element, [])) else without
    tag = str(element.tag)
    found: list[tuple[str, etree._Element]] = []
    for child in alone:
        siblings = [other for other in element if other is not child] if alone is without else []

        def accepted_here(one: etree._Element, siblings: list[etree._Element] = siblings) -> bool:
            return accepts(_copy(element, [*siblings, one]))

        found += [(f"{tag}.{path}", part) for path, part in _inside(child, accepted_here)]
    return found or [(tag, element)]


def _copy(element: etree._Element, children: list[etree._Element]) -> etree._Element:
    made = etree.Element(str(element.tag), dict(element.attrib))
    made.text = element.text
    made.extend(deepcopy(child) for child in children)
    return made
