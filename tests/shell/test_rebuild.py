"""The ledger made anew from the VMs that run: as it was where the copies beside the VMs are there, as far as possible where not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quietcore.engine import Wanted
from quietcore.errors import InputError, OperationFailed
from quietcore.model import CpuSet, VmName
from tests.shell.fake_host import FakeHost, Faults, Killed
from tests.shell.foreign import foreign
from tests.shell.test_engine import KINDS, spec

A = VmName(name="a")


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> FakeHost:
    return FakeHost(tmp_path, cpus=6, **KINDS[request.param])


def lose(host: FakeHost, text: str = "{") -> None:
    (host.root / "state" / "ledger.json").write_text(text)


def test_every_running_vm_is_found_as_it_was(host):
    engine = host.program()
    engine.apply(spec("a", vcpus=2), "text of a")
    engine.apply(replace(spec("s"), cpu=replace(spec("s").cpu, dedicated=False)), "text of s")
    foreign(host, tune="")
    engine.adopt(Wanted(domain="old"))
    engine.repin(A, cpus=CpuSet.parse("1,5"))
    before = engine.world.books.load()
    lose(host)
    with pytest.raises(OperationFailed) as refused:
        engine.world.books.load()
    assert "quietcore ledger rebuild" in refused.value.hint
    rebuilt = host.program().rebuild()
    assert rebuilt.notes == ()
    assert (host.root / "state" / rebuilt.kept.rpartition("/")[2]).read_text() == "{"
    assert rebuilt.ledger.entries == before.entries
    engine = host.program()
    engine.reconcile()
    assert all(engine.verify(view).ok for view in engine.views())


def test_a_start_that_was_cut_off_when_the_vm_ran_already_has_its_copy_from_the_recovery(host):
    counting = Faults()
    host.program(counting).apply(spec("a"), "text")
    host.program().delete(A)
    with pytest.raises(Killed):
        host.program(Faults(at=counting.names.index("resume"), kind="kill", moment="after")).apply(spec("a"), "text")
    host.program().reconcile()
    before = host.program().world.books.load()
    assert before.find(A).phase == "running"
    lose(host)
    rebuilt = host.program().rebuild()
    assert (rebuilt.notes, rebuilt.ledger.entries) == ((), before.entries)


def test_a_vcpu_is_where_the_kernel_has_its_thread(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    copy = host.root / "state" / "vms" / "default_a" / "entry.json"
    old = copy.read_text()
    engine.repin(A, cpus=CpuSet.of(4))
    copy.write_text(old)
    lose(host)
    rebuilt = host.program().rebuild()
    assert "its vCPUs are on 4" in rebuilt.notes[0]
    assert rebuilt.ledger.find(A).owned == CpuSet.of(4)
    engine = host.program()
    assert all(engine.verify(view).ok for view in engine.views())
    assert engine.delete(A)
    assert not engine.world.books.load().entries


@pytest.mark.parametrize("strategy", ["dedicated", "housekeeping", "whole"])
def test_without_a_copy_the_domain_itself_tells(host, strategy):
    engine = host.program()
    engine.apply(spec("a", vcpus=2, strategy=strategy), "text")
    before = engine.world.books.load().find(A)
    (host.root / "state" / "vms" / "default_a" / "entry.json").unlink()
    lose(host, "")
    rebuilt = host.program().rebuild()
    found = rebuilt.ledger.find(A)
    assert any("made from libvirt's XML" in note for note in rebuilt.notes)
    assert (found.owned, found.plan.strategy, found.mechanism, found.cgroup_home) == (
        before.owned,
        strategy,
        before.mechanism,
        before.cgroup_home,
    )
    engine = host.program()
    assert all(engine.verify(view).ok for view in engine.views())
    engine.delete(A)
    assert not host.hypervisor.running


def test_a_ledger_that_can_be_read_is_kept_unless_forced(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    before = engine.world.books.load()
    with pytest.raises(InputError, match="--force"):
        engine.rebuild()
    assert engine.rebuild(force=True).ledger.entries == before.entries


def test_where_nothing_runs_the_books_are_empty_and_foreign_domains_stay_out(host):
    foreign(host)
    assert host.program().rebuild().ledger.entries == ()


def test_a_cpu_with_two_claims_stays_with_the_first(tmp_path):
    host = FakeHost(tmp_path, cpus=6, version=1, partitions=False)
    engine = host.program()
    engine.apply(spec("a"), "text")
    engine.apply(spec("b"), "text")
    tid = host.hypervisor.pids["default_b"] + 2
    host.hypervisor.pin_vcpu("default_b", 0, CpuSet.of(1))
    assert host.threads.affinity(tid) == CpuSet.of(1)
    lose(host)
    rebuilt = host.program().rebuild()
    assert str(rebuilt.ledger.owned) == "1"
    assert any("have another owner" in note for note in rebuilt.notes)
