"""Skips a test aloud when something it needs is missing, and fails it instead where CI promised that everything is there."""

import os
import shutil

import pytest


def missing(reason):
    """Skip the test with its reason; with QUIETCORE_TESTS_REQUIRE_ALL=1 fail it."""
    if os.environ.get("QUIETCORE_TESTS_REQUIRE_ALL") == "1":
        pytest.fail(f"required by QUIETCORE_TESTS_REQUIRE_ALL=1: {reason}", pytrace=False)
    pytest.skip(reason)


def need_programs(*names):
    """The test runs these programs."""
    absent = [name for name in names if shutil.which(name) is None]
    if absent:
        missing(f"not installed: {', '.join(absent)} (bash scripts/setup.sh test)")


def need_root():
    """The test changes what only root may change."""
    if os.geteuid() != 0:
        missing("needs root")
