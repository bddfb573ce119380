"""Adopting and releasing running domains that are not ours, on a fake host: afterwards everything is exactly as it was."""

from __future__ import annotations

import re

import pytest

from quietcore.engine import Wanted
from quietcore.errors import InputError
from quietcore.model import CpuSet, Entry, Plan, Refusal, VmName
from tests.shell.fake_host import FakeHost
from tests.shell.foreign import PINS, foreign
from tests.shell.test_engine import KINDS, spec

OLD = VmName(name="old")


def everything(host: FakeHost) -> dict[str, object]:
    """All that an adoption could have changed: every cgroup file, every thread's place, libvirt's books, ours."""
    mount = host.fs.path(host.fs.mount)
    never_undone = {"cgroup.subtree_control"}
    groups = {
        str(file.relative_to(mount)): file.read_text().strip()
        for file in mount.rglob("*")
        if file.is_file() and file.name not in never_undone
    }
    threads = {tid: (str(host.threads.affinity(tid)), host.threads.scheduler(tid), host.fs._group(tid)) for tid in host.fs._tids()}
    pins = {name: re.sub(r"\s+", " ", host.hypervisor.xml(name)) for name in host.hypervisor.running}
    return {"groups": groups, "threads": threads, "pins": pins, "state": host.state()}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> FakeHost:
    return FakeHost(tmp_path, cpus=6, **KINDS[request.param])


@pytest.mark.parametrize("tune", ["", PINS], ids=["without pins", "with pins"])
def test_release_gives_back_exactly_what_was_there(host, tune):
    pid = foreign(host, tune=tune)
    before = everything(host)
    engine = host.program()
    entry = engine.adopt(Wanted(domain="old"))
    assert isinstance(entry, Entry)
    assert [str(thread.allowed) for thread in engine.observation(OLD).census.vcpus] == ["1", "2"]
    assert "1" not in str(host.threads.affinity(pid))
    assert engine.release(OLD)
    assert everything(host) == before


def test_an_adopted_vm_is_listed_described_and_verified(host):
    foreign(host)
    engine = host.program()
    engine.adopt(Wanted(domain="old"))
    (view,) = engine.views()
    assert (view.phase, view.entry.domain, str(view.entry.plan.dedicated)) == ("Running", "old", "1-2")
    assert engine.verify(view).ok


def test_beside_our_own_vms_the_pool_follows_and_comes_back(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    foreign(host)
    before = everything(host)
    engine.adopt(Wanted(domain="old"))
    assert all(engine.verify(view).ok for view in engine.views())
    others = engine.observation(VmName(name="a")).census.others
    assert {str(thread.allowed) for thread in others if thread.role != "pit"} == {"0,4-5"}
    engine.release(OLD)
    assert everything(host) == before


def test_threads_whose_pins_had_all_been_taken_when_it_was_adopted_have_them_back_when_those_are_free_again(host):
    engine = host.program()
    pid = foreign(host, vcpus=1)  # its vCPU is pinned to CPUs 1-3: where partitions hold them, the kernel lends it those of the group above
    engine.apply(spec("ours", vcpus=3), "ours")
    assert str(engine.world.books.load().owned) == "1-3"
    engine.adopt(Wanted(domain="old"))
    engine.delete(VmName(name="ours"))
    assert engine.release(OLD)
    forgotten = host.bare and host.partitions  # where no cpuset holds the pin, only what the kernel had made of it is known
    assert str(host.threads.affinity(pid + 2)) == ("0,4-5" if forgotten else "1-3")


def test_on_cgroup_v1_a_cpuset_that_lost_its_last_cpu_is_left_empty_again(tmp_path):
    host = FakeHost(tmp_path, cpus=6, **KINDS["v1 libvirt"])
    foreign(host, vcpus=1)
    for cpu in (1, 2, 3):  # the pin of its vCPU: the kernel forgets them for good, and moves the thread to the group above
        host.fs.switch(cpu, on=False)
    host.fs.switch(1, on=True)
    before = everything(host)
    assert isinstance(host.program().adopt(Wanted(domain="old")), Entry)
    assert host.program().release(OLD)
    after = everything(host)
    assert (after["groups"], after["threads"]) == (before["groups"], before["threads"])


def test_only_the_first_vcpus_get_cpus_where_a_number_is_given_and_real_time_where_asked(host):
    pid = foreign(host, vcpus=3)
    before = everything(host)
    engine = host.program()
    entry = engine.adopt(Wanted(domain="old", vcpus=2, realtime=frozenset({1}), priority=4))
    assert isinstance(entry, Entry)
    assert str(entry.owned) == "1-2"
    assert [host.threads.scheduler(pid + 2 + vcpu) for vcpu in range(3)] == [("other", 0), ("fifo", 4), ("other", 0)]
    assert str(host.threads.affinity(pid + 4)) == "0,3-5"
    engine.release(OLD)
    assert everything(host) == before


def test_an_adopted_vm_can_be_moved_and_still_comes_back(host):
    foreign(host)
    before = everything(host)
    engine = host.program()
    engine.adopt(Wanted(domain="old"))
    engine.repin(OLD, cpus=CpuSet.parse("4-5"))
    assert [str(thread.allowed) for thread in engine.observation(OLD).census.vcpus] == ["4", "5"]
    engine.release(OLD)
    assert everything(host) == before


def test_it_is_never_ended_by_us(host):
    foreign(host)
    engine = host.program()
    engine.adopt(Wanted(domain="old"))
    with pytest.raises(InputError, match="release old"):
        engine.delete(OLD)
    with pytest.raises(InputError, match="release old"):
        engine.apply(spec("old"), "text")
    assert host.hypervisor.find("old") is not None


def test_our_own_vms_are_not_released(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    with pytest.raises(InputError, match="delete a"):
        engine.release(VmName(name="a"))
    assert not engine.release(VmName(name="none"))


@pytest.mark.parametrize("ending", ["ended", "rebooted", "started anew"])
def test_the_entry_goes_when_the_domain_ends(host, ending):
    foreign(host)
    engine = host.program()
    engine.adopt(Wanted(domain="old"))
    if ending == "rebooted":
        host.reboot()
    else:
        host.hypervisor.end("old")
    if ending == "started anew":
        foreign(host)
    engine = host.program()
    assert engine.reconcile() == ()
    assert engine.world.books.load().entries == ()
    assert (host.hypervisor.find("old") is not None) == (ending == "started anew")
    claims = [path for path in host.fs.path(host.fs.mount).rglob("cpuset.cpus.exclusive") if path.read_text().strip()]
    assert claims == []


def test_a_domain_that_does_not_fit_stays_as_it_is(host):
    foreign(host, vcpus=9, tune="")
    before = everything(host)
    assert isinstance(host.program().adopt(Wanted(domain="old")), Refusal)
    assert everything(host) == before


def test_a_dry_run_shows_the_plan_and_changes_nothing(host):
    foreign(host)
    before = everything(host)
    plan = host.program().adopt(Wanted(domain="old"), dry_run=True)
    assert isinstance(plan, Plan)
    assert str(plan.dedicated) == "1-2"
    assert everything(host) == before


def test_what_cannot_be_adopted_says_why(tmp_path):
    host = FakeHost(tmp_path, cpus=6)
    engine = host.program()
    engine.apply(spec("a"), "text")
    foreign(host)
    for wanted, words in (
        (Wanted(domain="none"), "runs no domain none"),
        (Wanted(domain="default_a"), "in the books already, as default/a"),
        (Wanted(domain="old", vm=VmName(name="a")), "there is a VM default/a already"),
        (Wanted(domain="old", vcpus=3), "has 2 vCPUs; 3 of them"),
        (Wanted(domain="old", vcpus=1, realtime=frozenset({1})), r"vCPUs \[1\] get no CPU"),
    ):
        with pytest.raises(InputError, match=words):
            engine.adopt(wanted)
    engine.adopt(Wanted(domain="old"))
    with pytest.raises(InputError, match="in the books already"):
        engine.adopt(Wanted(domain="old", vm=VmName(name="other")))
