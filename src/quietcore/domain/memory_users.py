"""What keeps a running domain's memory where it is: devices outside of QEMU that hold its pages."""

from __future__ import annotations

from typing import Final

from quietcore.domain.reading import parse_domain
from quietcore.model import Reason

_VFIO: Final = "devices/hostdev | devices/interface[@type='hostdev' or @type='vdpa']"
_VHOST_USER: Final = (
    "devices/interface[@type='vhostuser'] | devices/disk[@type='vhostuser'] | devices/filesystem[driver/@type='virtiofs']"
    " | devices/video[driver/@name='vhostuser']"
)


def fixed_memory(xml: str) -> tuple[Reason, ...]:
    """Why the memory of this domain cannot move to other nodes; nothing where it can. Raises InputError for text that is no domain."""
    root = parse_domain(xml)
    found = (
        ("vfio", _VFIO, "a device of the host reads and writes the guest's memory, which stays locked where it is"),
        ("vhost-user", _VHOST_USER, "another process has mapped the guest's memory, whose pages are not ours to move"),
    )
    return tuple(Reason(constraint=name, message=message) for name, path, message in found if root.xpath(path))
