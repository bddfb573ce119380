"""A domain under construction: the inputs, the XML tree so far, and what has to be said about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lxml import etree

from quietcore.domain.build import Build
from quietcore.errors import Problem
from quietcore.model import Plan, VmSpec

_ORDER: Final = (
    "name", "uuid", "metadata", "memory", "currentMemory", "memoryBacking", "vcpu", "vcpus", "iothreads", "cputune", "numatune",
    "sysinfo", "os", "features", "cpu", "clock", "on_poweroff", "on_reboot", "on_crash", "devices",
)  # fmt: skip
"""The order in which libvirt itself prints the sections; its schema accepts any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Handed from one contributor to the next; each of them adds its own concern and nothing else.

    `notes` are sentences about what is not as the manifest says; `problems` make the XML impossible.
    """

    spec: VmSpec
    plan: Plan
    build: Build
    root: etree._Element
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def section(self, path: str) -> etree._Element:
        """The element at a path below the root such as "features/kvm", made where it is missing."""
        place = self.root
        for tag in path.split("/"):
            found = place.find(tag)
            place = etree.SubElement(place, tag) if found is None else found
        return place

    def sort(self) -> None:
        """Bring the sections into libvirt's order."""
        self.root[:] = sorted(self.root, key=lambda one: _ORDER.index(str(one.tag)))


def add(parent: etree._Element, tag: str, text: object = None, /, **attributes: object) -> etree._Element:
    """Append an element. Attributes that are None are left out; a trailing underscore of a name is dropped (`type_`)."""
    made = etree.SubElement(parent, tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.rstrip("_"), str(value))
    if text is not None:
        made.text = str(text)
    return made


def comma_list(numbers: tuple[int, ...]) -> str:
    """Numbers as KubeVirt writes them in cells and node sets: "0,1,2", no ranges, the given order."""
    return ",".join(str(number) for number in numbers)
