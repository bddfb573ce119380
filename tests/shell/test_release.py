"""Every CPU back in an emergency: by the command, which also tells the books, and by the script that needs no Python."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from quietcore.engine import Move, Wanted
from quietcore.model import CpuSet, Realtime, VmName
from tests.shell.fake_host import FakeHost
from tests.shell.foreign import foreign
from tests.shell.test_engine import KINDS, spec

SCRIPT = Path(__file__).parents[2] / "packaging" / "release-cpus.sh"
A = VmName(name="a")


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> FakeHost:
    return FakeHost(tmp_path, cpus=6, **KINDS[request.param])


def claims(host: FakeHost) -> list[str]:
    mount = host.fs.path(host.fs.mount)
    lists = [str(file) for file in mount.rglob("cpuset.cpus.exclusive") if file.read_text().strip()]
    return lists + [str(file) for file in mount.rglob("cpuset.cpus.partition") if file.read_text().strip() != "member"]


@pytest.mark.parametrize("strategy", ["dedicated", "housekeeping", "whole"])
def test_every_vm_shares_the_pool_and_goes_on_running(host, strategy):
    engine = host.program()
    realtime = Realtime(mask="0", vcpus=frozenset({0}), priority=3)
    engine.apply(replace(spec("a", vcpus=2, strategy=strategy), cpu=replace(spec("a", vcpus=2).cpu, realtime=realtime)), "text")
    engine.apply(spec("b"), "text")
    released = engine.release_all()
    assert (released.vms, released.problems) == ((A, VmName(name="b")), ())
    assert claims(host) == []
    assert not engine.world.books.load().owned
    for name in ("a", "b"):
        census = engine.observation(VmName(name=name)).census
        assert {(str(thread.allowed), thread.policy) for thread in census.threads} == {("0-5", "other")}
    assert {view.phase for view in engine.views()} == {"Running"}
    assert all(engine.verify(view).ok for view in engine.views())


def test_repin_gives_a_released_vm_cpus_of_its_own_again(host):
    engine = host.program()
    engine.apply(spec("a", vcpus=2), "text")
    before = host.state()
    engine.release_all()
    move = engine.repin(A)
    assert isinstance(move, Move)
    assert str(move.there.dedicated) == "1-2"
    assert host.state() == before
    assert all(engine.verify(view).ok for view in engine.views())


def test_adopted_domains_get_back_what_they_had(host):
    foreign(host)
    before = host.state()
    engine = host.program()
    engine.adopt(Wanted(domain="old"))
    assert engine.release_all().problems == ()
    assert host.state() == before


def test_a_ledger_that_cannot_be_read_does_not_keep_the_cpus(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    (host.root / "state" / "ledger.json").write_text("{")
    released = host.program().release_all()
    assert "refused" in released.problems[0]
    assert claims(host) == []


def test_the_script_does_the_same_without_python(host, tmp_path):
    engine = host.program()
    engine.apply(spec("a", vcpus=2), "text")
    engine.apply(spec("b", strategy="whole"), "text")
    log = with_tasks(host, tmp_path / "bin")
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", SCRIPT, host.root, host.root / "state" / "ledger.json"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert claims(host) == []
    for name in ("a", "b"):
        vcpus = engine.observation(VmName(name=name)).census.vcpus
        assert all(f"taskset -pc 0-5 {thread.tid}\n" in log.read_text() for thread in vcpus)
        assert all(f"chrt -o -p 0 {thread.tid}\n" in log.read_text() for thread in vcpus)
        groups = {f"{host.fs.mount}{thread.cgroup}/cpuset.cpus" for thread in vcpus}
        assert {CpuSet.parse(host.fs.read(group)) for group in groups} == {CpuSet.parse("0-5")}


def with_tasks(host: FakeHost, programs: Path) -> Path:
    """Lists the tasks in their groups' files, as the kernel does, and gives programs that only write down what they were told."""
    for tid in host.fs._tids():
        group = host.fs.path(host.fs.mount + host.fs._group(tid))
        with (group / ("tasks" if host.version == 1 else "cgroup.threads")).open("a") as tasks:
            tasks.write(f"{tid}\n")
    programs.mkdir()
    log = programs / "log"
    log.touch()
    for name in ("taskset", "chrt"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n')
        (programs / name).chmod(0o755)
    return log
