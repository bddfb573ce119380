"""libvirt's own schema, for tests: skipped aloud where libvirt is not installed."""

from __future__ import annotations

import functools
from pathlib import Path

from lxml import etree

from tests.prerequisites import missing

DOMAIN_RNG = Path("/usr/share/libvirt/schemas/domain.rng")


@functools.cache
def _compiled() -> etree.RelaxNG:
    return etree.RelaxNG(file=str(DOMAIN_RNG))


def domain_schema() -> etree.RelaxNG:
    """The compiled schema of the installed libvirt; its absence skips the test aloud."""
    if not DOMAIN_RNG.exists():
        missing(f"libvirt's schema {DOMAIN_RNG} (package libvirt0 or libvirt-daemon-system)")
    return _compiled()
