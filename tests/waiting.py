"""Waiting for a state: generous, because a host whose CPUs others use as well takes minutes for what takes seconds alone."""

import time

PATIENCE_S = 240
"""How long a state, or the end of a process, may take before it is taken for hung; no measure of anything."""


def eventually(holds, message=lambda: ""):
    """Wait until a condition holds. Raises AssertionError with what `message` returns then."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, message()
        time.sleep(0.01)
