"""The vCPU mask of `cpu.realtime.mask` (KubeVirt's pkg/hypervisor/common/vcpu.go), which differs from libvirt's.

    mask = "" | item *("," item)        item = N | N "-" N | "^" N

A negation disables its vCPU whatever else names it. A mask of negations alone enables no vCPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_ITEM: Final = re.compile(r"(?P<off>\^)?(?P<first>[0-9]+)(?:-(?P<last>[0-9]+))?")
_LONGEST: Final = 4096
_MOST_VCPUS: Final = 4096
"""QEMU's q35 machine takes no more; higher ids of a range are not spelled out, since no VM has them."""


def parse(mask: str) -> Mapping[int, bool]:
    """vCPU id -> enabled, only for ids that the mask names; empty for the empty mask, which means every vCPU.

    Raises ValueError with KubeVirt's text, and for a mask of more than 4,096 characters.
    """
    if len(mask) > _LONGEST:
        raise ValueError(f"the mask is longer than {_LONGEST} characters")
    named: dict[int, bool] = {}
    for item in mask.split(",") if mask else ():
        match = _ITEM.fullmatch(item.strip())
        if match is None or (match["off"] and match["last"]):
            raise ValueError(f"invalid mask value '{item}' in '{mask}'")
        first, last = int(match["first"]), int(match["last"] or match["first"])
        if first > last:
            raise ValueError(f"invalid mask range `{item.strip()}`")
        for vcpu in range(first, max(first, min(last, _MOST_VCPUS)) + 1):
            named[vcpu] = False if match["off"] else named.get(vcpu, True)
    return named


def is_realtime(named: Mapping[int, bool], vcpu: int) -> bool:
    """Whether a parsed mask makes a vCPU real-time."""
    return named.get(vcpu, False) if named else True


def select(mask: str, vcpus: int) -> frozenset[int]:
    """The real-time vCPUs of a VM with this many vCPUs. Raises ValueError like `parse`."""
    named = parse(mask)
    return frozenset(vcpu for vcpu in range(vcpus) if is_realtime(named, vcpu))
