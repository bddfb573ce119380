"""libvirt's own schema, for tests: skipped aloud where libvirt is not installed."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
from lxml import etree

DOMAIN_RNG = Path("/usr/share/libvirt/schemas/domain.rng")


@functools.cache
def _compiled() -> etree.RelaxNG:
    return etree.RelaxNG(file=str(DOMAIN_RNG))


def domain_schema() -> etree.RelaxNG:
    """The compiled schema of the installed libvirt; its absence skips the test, or fails it where nothing may be skipped."""
    if DOMAIN_RNG.exists():
        return _compiled()
    reason = f"libvirt's schema is missing: {DOMAIN_RNG} (package libvirt-daemon-system or libvirt0)"
    if os.environ.get("QUIETCORE_TESTS_REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
