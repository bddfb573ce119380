"""Processes of the tests that are forks of the test itself."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.context import ForkProcess

FORK = multiprocessing.get_context("fork")


def started(target: Callable[..., object], *arguments: object) -> ForkProcess:
    """A process that runs `target`.

    Python 3.12 and newer warn of a fork beside other threads, because the child could wait for a lock that one of them held. Below
    pytest-xdist there always is one: it waits for the next test and shares nothing with the child.
    """
    process = FORK.Process(target=target, args=arguments)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process.start()
    return process
