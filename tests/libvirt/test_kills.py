"""SIGKILL at random instants of commands and of an agent's start, against real libvirt and QEMU."""

from __future__ import annotations

import os
import random
import time
from contextlib import ExitStack

import pytest
from tests.libvirt.test_moving import foreign, program, threads_of, two_cpus
from tests.libvirt.test_quietcore import ONE, first_vcpu, move_away, vmi

from lab.looking import PATIENCE_S, groups_below

__all__ = ["foreign", "program"]
pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(3600)]

OPERATIONS = {
    "run": ((), ("run", "-f", "MANIFEST"), ({}, {ONE: 1})),
    "delete": (("run",), ("delete", ONE, "--now"), ({ONE: 1}, {})),
    "repin": (("run",), ("repin", ONE, "--cpus", "0"), ({ONE: 1}, {ONE: 0})),
    "adopt": (("foreign",), ("adopt", "Somebodys_VM", "--name", "theirs"), ({}, {"theirs": 1})),
    "agent": (("run", "strayed"), ("agent",), ({ONE: 1}, {ONE: 1})),
}
"""What stands there, the command, and the two answers that there are: VM -> the CPU of its vCPU."""


def owners(program) -> dict[str, int]:
    """VM -> its vCPU's CPU, as the kernel says."""
    found = {}
    for name, phase in program.owners().items():
        assert phase == "running"
        (found[name],) = os.sched_getaffinity(first_vcpu(program, name))
    return found


def killed(program, words, after_s: float) -> bool:
    process = program.start(*words)
    time.sleep(after_s)
    ended = process.poll() is not None
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    return not ended


def one_kill(program, foreign, manifest, name, after_s) -> bool:
    """Prepare a host, kill one command on it, recover, compare, and clear up; gives whether it was killed in the middle."""
    prepared, words, outcomes = OPERATIONS[name]
    words = [str(manifest) if word == "MANIFEST" else word for word in words]
    program.reserve(0)
    with ExitStack() as clearing:
        theirs = before = None
        for what in prepared:
            if what == "run":
                program("run", "-f", manifest)
            elif what == "foreign":
                theirs = foreign()
                clearing.callback(theirs.destroy)
                before = threads_of(theirs), theirs.XMLDesc()
            else:
                move_away(first_vcpu(program))
        if name == "repin":
            program.reserve(1)
        in_the_middle = killed(program, words, after_s)
        program("agent", "--once")
        now = owners(program)
        assert now in outcomes
        assert program.domains() == sorted(["Somebodys_VM"] * (theirs is not None) + [f"default_{ONE}"] * (ONE in now))
        for vm in now:
            program("verify", vm)
        if "theirs" in now:
            program("release", "theirs")
        if theirs is not None:
            assert (threads_of(theirs), theirs.XMLDesc()) == before
        if ONE in now:
            program("delete", ONE, "--now")
    assert (program.owners(), program.domains()) == ({}, [])
    return in_the_middle


def test_a_kill_at_any_instant_loses_no_vm_and_gives_no_cpu_twice(program, foreign, tmp_path, soaking):
    two_cpus()
    seed = random.SystemRandom().randrange(1 << 32) if soaking else 2
    chance, manifest, count = random.Random(seed), vmi(tmp_path), 0
    began = time.monotonic()
    program("run", "-f", manifest)
    took = time.monotonic() - began
    program("delete", ONE, "--now")
    for number in range(50 if soaking else 5):
        name = list(OPERATIONS)[number % len(OPERATIONS)]
        after_s = chance.uniform(0.2, 1.0) * took
        print(f"seed {seed}, kill {number}: {name} after {after_s:.3f} s")
        count += one_kill(program, foreign, manifest, name, after_s)
    assert count > 0
    assert [group for group in groups_below("/sys/fs/cgroup") if ONE in group.name] == []
