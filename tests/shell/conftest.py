"""Shared by the tests of the shell around the pure parts."""

import tempfile
from pathlib import Path

import pytest

from tests.shell.cli import quietcore

__all__ = ["quietcore"]


@pytest.fixture
def tmp_path():
    """pytest's own, in memory where the host has that: a fake host is thousands of small files, and the ledger waits for its disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="quietcore-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
