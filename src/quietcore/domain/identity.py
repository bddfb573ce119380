"""Name, uuid, our metadata, and what happens when the guest ends."""

from __future__ import annotations

from typing import Final

from lxml import etree

from quietcore.domain.build import Build
from quietcore.domain.draft import Draft, add
from quietcore.model import VmSpec

NAMESPACE: Final = "https://quietcore.io/v1alpha1"
"""The XML namespace of our metadata; libvirt keeps foreign metadata only in a namespace."""


def domain_uuid(spec: VmSpec, build: Build) -> str:
    """The domain's uuid: the manifest's firmware uuid, which libvirt requires to be the domain's own, else the given one."""
    return spec.firmware.uuid or build.uuid


def contribute(draft: Draft) -> None:
    """Say which VM this is. The domain is transient: after a power-off nothing is left, and restarting is ours to decide."""
    vm = draft.spec.vm
    add(draft.root, "name", vm.domain)
    add(draft.root, "uuid", domain_uuid(draft.spec, draft.build))
    ours = etree.SubElement(draft.section("metadata"), f"{{{NAMESPACE}}}vm", nsmap={"quietcore": NAMESPACE})
    ours.attrib.update({"namespace": vm.namespace, "name": vm.name, "uid": draft.plan.uid, "strategy": draft.plan.strategy})
    add(draft.root, "on_poweroff", "destroy")
    add(draft.root, "on_reboot", "restart")
    add(draft.root, "on_crash", "destroy")
