"""Spec, plan and build -> libvirt's domain XML: runs the contributors, one per concern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lxml import etree

from quietcore.domain import (
    boot,
    clock,
    cpu_model,
    devices,
    disks,
    identity,
    interfaces,
    iothreads,
    memory,
    numa,
    pinning,
    realtime,
    topology,
)
from quietcore.domain.build import Build
from quietcore.domain.draft import Draft
from quietcore.errors import InputError
from quietcore.model import Plan, VmSpec

CONTRIBUTORS: Final[tuple[Callable[[Draft], None], ...]] = (
    identity.contribute,
    memory.contribute,
    topology.contribute,  # before numa and pinning, which look at <vcpu>
    pinning.contribute,
    iothreads.contribute,
    numa.contribute,
    boot.contribute,
    cpu_model.contribute,
    clock.contribute,
    realtime.contribute,
    disks.contribute,
    interfaces.contribute,
    devices.contribute,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The XML, and a sentence for everything in it that is not as the manifest says or that the starter must still do."""

    xml: str
    notes: tuple[str, ...] = ()


def compose(spec: VmSpec, plan: Plan, build: Build) -> Rendered:
    """Write the XML of a transient domain and the notes on it.

    Raises InputError, naming all causes, where the build lacks a file that the spec needs.
    """
    draft = Draft(spec=spec, plan=plan, build=build, root=etree.Element("domain", {"type": build.domain_type}))
    for contribute in CONTRIBUTORS:
        contribute(draft)
    if draft.problems:
        raise InputError.of(tuple(draft.problems))
    draft.sort()
    etree.indent(draft.root)
    return Rendered(xml=etree.tostring(draft.root, encoding="unicode") + "\n", notes=tuple(draft.notes))


def render(spec: VmSpec, plan: Plan, build: Build) -> str:
    """The XML alone; see `compose`."""
    return compose(spec, plan, build).xml
