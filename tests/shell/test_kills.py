"""SIGKILL at random instants of a process that works on a fake host: what the next command leaves is the host before, or the host after."""

from __future__ import annotations

import random
import threading
import time

from tests.shell.fake_agent import begun
from tests.shell.fake_host import FakeHost
from tests.shell.far_host import FarHost, program_of, serve
from tests.shell.test_engine import KINDS
from tests.shell.test_faults import OPERATIONS, prepared, recovered, snapshot


def worked(host: FakeHost, operation: str, kill_after_s: float | None = None) -> tuple[float, bool]:
    """Carry out an operation in a process of its own, killed so long after its first call: how long it worked, and whether it ended."""
    act, began = OPERATIONS[operation][0], 0.0

    def main(far: FarHost) -> None:
        if act is begun:
            begun(far)
        else:
            act(far.program())

    def heard(_name: str) -> None:
        nonlocal began
        if began == 0.0:
            began = time.monotonic()
            if kill_after_s is not None:
                timer = threading.Timer(kill_after_s, process.kill)
                timer.daemon = True
                timer.start()

    with program_of(host, main) as (process, pipe):
        serve(host, [pipe], heard)
        took = time.monotonic() - began
        process.join()
        assert process.exitcode in {0, -9}
        return took, process.exitcode == 0


def test_a_kill_at_any_instant_loses_nothing(tmp_path, soaking):
    seed = random.SystemRandom().randrange(1 << 32) if soaking else 6
    chance, killed = random.Random(seed), 0
    for number in range(500 if soaking else 20):
        kind, operation = chance.choice(list(KINDS)), chance.choice(list(OPERATIONS))
        host = prepared(tmp_path / "h", kind, OPERATIONS[operation][1])
        before, calm = snapshot(host), host.copy(tmp_path / f"calm-{number}")
        took, ended = worked(calm, operation)
        assert ended
        after = snapshot(calm)
        at = chance.uniform(0, took)
        killed += not worked(host, operation, at)[1]
        recovered(operation, host)
        place = f"seed {seed}, kill {number}: {operation} on {kind}, {at:.4f} of {took:.4f} s"
        assert snapshot(host) in (before, after), place
        engine = host.program()
        assert all(engine.verify(view).ok for view in engine.views()), place
    print(f"{killed} processes were killed")
    assert killed > 5
