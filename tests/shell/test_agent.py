"""The agent on a fake host: every kind of drift is noticed and put right, and what cannot be is said."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import pairwise

import pytest

from quietcore.agent.watching import Watching
from quietcore.host import glance
from quietcore.model import CpuSet, GuestTopology, VmName
from quietcore.virt import HypervisorError
from quietcore.virt.events import DomainEvent
from quietcore.virt.hypervisor import DomainView
from tests.shell.fake_agent import Cared
from tests.shell.fake_host import FakeHost, Faults, Killed
from tests.shell.realtime_host import CPU, THROTTLE, RealtimeHost, furnish, realtime
from tests.shell.test_engine import KINDS, spec

A, B = VmName(name="a"), VmName(name="b")
V2 = KINDS["v2 libvirt partitions"]


@pytest.fixture(autouse=True)
def closing():
    yield
    while Cared.opened:
        Cared.opened.pop().close()


@pytest.fixture(params=KINDS, ids=list(KINDS))
def cared(request, tmp_path) -> Cared:
    host = FakeHost(tmp_path, **KINDS[request.param])
    host.program().apply(spec("a"), "text")
    return Cared(host)


def partitioned(tmp_path, *specs, **changes) -> Cared:
    host = FakeHost(tmp_path, **(V2 | changes))
    for one in specs:
        host.program().apply(one, "text")
    return Cared(host)


def stray(cared, vm="a"):
    """A vCPU's thread stands in another group, and nothing told of it: a cpuset lets no thread stray by its affinity alone."""
    cared.host.fs.set_group(cared.host.hypervisor.pids[f"default_{vm}"], cared.vcpu(vm).tid, "/")


def fields(event, *names):
    return tuple(event.fields.get(name) for name in names)


def test_a_host_where_nothing_happens_is_left_alone(cared):
    cared.settle()
    before = cared.host.state()
    writes = len(cared.host.fs.faults.names)
    assert cared.settle(after_s=31) == []
    assert len(cared.host.fs.faults.names) == writes
    assert cared.host.state() == before


def test_a_vcpu_thread_that_was_moved_away_is_put_back_and_told(cared):
    cared.settle()
    thread = cared.vcpu("a")
    cared.pass_time(7)
    cared.move("a", thread.tid, "/")
    assert cared.settle() == ["drift-repaired"]
    assert cared.vcpu("a") == thread
    moved = cared.log.since()[-1]
    assert fields(moved, "thread", "expected", "actual", "seconds_since_good", "by") == ("vCPU 0", thread.cgroup, "/", 7.0, "file")
    care = cared.agent.care(A)
    assert (care.repairs, care.last_reaction_s, care.findings) == (1, 0.0, ())


def test_what_no_event_tells_is_found_by_the_resync(cared):
    cared.settle()
    stray(cared)
    assert cared.settle(after_s=29) == []
    assert cared.settle(after_s=2) == ["drift-repaired"]
    assert cared.vcpu("a").allowed == CpuSet.parse("1")
    assert cared.agent.care(A).last_reaction_s is None
    assert fields(cared.log.since()[-1], "by", "actual") == ("resync", "/")


def test_a_rewritten_cpuset_is_written_back(cared):
    cared.settle()
    group = cared.vcpu("a").cgroup
    name = "cpuset.cpus.exclusive" if cared.host.partitions else "cpuset.cpus"
    path = cared.host.fs.path(f"{cared.host.fs.mount}{group}/{name}")
    path.write_text("0-3\n")
    assert cared.settle() == ["drift-repaired"]
    assert path.read_text() == "1\n"


@pytest.mark.parametrize("kind", [one for one in KINDS if one != "v1 libvirt"])  # cgroup v1 lets no group be narrower than one below it
def test_a_cpuset_of_the_whole_vm_that_lacks_cpus_is_widened(tmp_path, kind):
    host = FakeHost(tmp_path, **KINDS[kind])
    host.program().apply(spec("a"), "text")
    cared = Cared(host)
    cared.settle()
    threads = cared.engine.observation(A).census.threads
    home = host.fs.path(f"{host.fs.mount}{cared.vcpu('a').cgroup}").parent
    (home / "cpuset.cpus").write_text("2\n")
    assert cared.settle() == ["drift-repaired"]
    assert cared.engine.observation(A).census.threads == threads
    assert cared.engine.verify(cared.engine.view(A)).ok
    host.program().apply(spec("b"), "text")
    assert all(cared.engine.verify(cared.engine.view(vm)).ok for vm in (A, B))


def test_a_partition_that_the_kernel_dropped_is_made_again(tmp_path):
    cared = partitioned(tmp_path, spec("a"))
    state = cared.host.fs.path(f"{cared.host.fs.mount}{cared.vcpu('a').cgroup}/cpuset.cpus.partition")
    state.write_text("isolated invalid (Cpu list in cpuset.cpus not exclusive)\n")
    assert "drift-repaired" in cared.settle()
    assert state.read_text() == "isolated\n"


@pytest.mark.parametrize("place", ["home", "vcpu"])
def test_a_finite_quota_is_lifted(tmp_path, place):
    cared = partitioned(tmp_path, spec("a"))
    group = cared.vcpu("a").cgroup
    group = group.rpartition("/")[0] if place == "home" else group
    quota = cared.host.fs.path(f"{cared.host.fs.mount}{group}/cpu.max")
    quota.write_text("20000 100000\n")
    assert "drift-repaired" in cared.settle()
    assert quota.read_text().startswith("max")


def test_a_vm_that_never_looks_twice_the_same_is_looked_at_ever_more_slowly(tmp_path, monkeypatch):
    host = FakeHost(tmp_path, **V2)
    host.program().apply(spec("a"), "text")
    real, looks = glance.look, []

    def restless(*words, **more):
        looks.append(cared.now_s)
        return replace(real(*words, **more), files={"restless": str(len(looks))})

    monkeypatch.setattr(glance, "look", restless)
    cared = Cared(host, begin=False, resync_s=1000)
    cared.agent.begin()
    cared.settle()
    for _ in range(600):
        cared.settle(after_s=0.05)
    gaps = [after - before for before, after in pairwise(looks)]
    assert gaps[0] == 0.0  # the second look at once: it alone says whether the first one can be trusted
    assert gaps == sorted(gaps)
    assert 5.0 <= gaps[-1] < 6.0


@pytest.mark.parametrize(("owner", "moment"), [(glance, "look"), (Watching, "follow")])
def test_a_drift_while_the_agent_learns_how_a_vm_looks_is_no_part_of_it(tmp_path, monkeypatch, owner, moment):
    host = FakeHost(tmp_path, **V2)
    host.program().apply(spec("a"), "text")
    cared = Cared(host, begin=False)
    quota = host.fs.path(f"{host.fs.mount}{cared.vcpu('a').cgroup}/cpu.max")
    real, drifts = getattr(owner, moment), iter(["20000 100000\n"])

    def drifting(*words, **more):
        for text in drifts:
            quota.write_text(text)
        return real(*words, **more)

    monkeypatch.setattr(owner, moment, drifting)
    cared.agent.begin()
    cared.settle()
    assert next(drifts, None) is None
    assert quota.read_text().startswith("max")
    assert [one.event for one in cared.log.since()].count("drift-repaired") == 1


def test_a_quota_that_is_not_ours_to_lift_is_reported_once(tmp_path):
    cared = partitioned(tmp_path, spec("a"))
    cared.host.fs.path(f"{cared.host.fs.mount}/machine/cpu.max").write_text("20000 100000\n")
    assert cared.settle(after_s=1) == ["finding"]
    assert cared.settle(after_s=31) == []
    assert [one.code for one in cared.agent.care(A).findings] == ["cpu-quota"]


def test_on_cgroup_v1_a_quota_counts_where_libvirtd_started_qemu(tmp_path):
    host = RealtimeHost(tmp_path, version=1, partitions=False, bare=True)
    host.program().apply(spec("a"), "text")
    quota = host.fs.path(f"{CPU}/libvirtd/cpu.cfs_quota_us")
    furnish(quota.parent)
    quota.write_text("-1\n")
    host.fs._join(host.hypervisor.pids["default_a"] + 2, "/libvirtd")
    cared = Cared(host)
    cared.settle(after_s=31)
    assert cared.engine.verify(cared.engine.view(A)).ok
    quota.write_text("20000\n")
    assert cared.settle(after_s=1) == ["finding"]
    assert [one.id for one in cared.agent.care(A).findings if one.code == "cpu-quota"] == ["/libvirtd"]


def test_a_new_worker_in_its_place_costs_no_write_and_one_elsewhere_is_placed(cared):
    cared.settle()
    writes = len(cared.host.fs.faults.names)
    cared.worker("a", 5001)
    assert cared.settle() == []
    assert len(cared.host.fs.faults.names) == writes
    home = cared.vcpu_home("a")
    cared.worker("a", 5002, group=cared.vcpu("a").cgroup)
    assert cared.settle() == ["thread-placed"]
    expected = ("worker", 5002, home, cared.vcpu("a").cgroup)
    assert fields(cared.log.since()[-1], "thread", "tid", "expected", "actual") == expected


def test_a_kernel_thread_that_works_for_a_vm_is_placed_when_its_name_is_known(cared):
    cared.settle()
    pid = cared.host.hypervisor.pids["default_a"]
    cared.host.hypervisor._thread(6000, 6000, f"vhost-{pid}", "/")
    cared.processes.tell("fork", 6000, 6000, cared.now_s)
    assert cared.settle() == []
    assert cared.settle(after_s=0.03) == ([] if cared.host.partitions else ["drift-repaired"])  # a partition keeps it away by itself
    assert cared.host.threads.affinity(6000) == CpuSet.parse("0,2-3")


def hotpluggable(name="a", **changes):
    one = spec(name)
    cpu = replace(one.cpu, topology=GuestTopology(sockets=1), max_sockets=2)
    return replace(one, cpu=cpu, **changes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_plugged_vcpu_gets_a_cpu_from_the_books_and_gives_it_back(tmp_path, kind):
    host = FakeHost(tmp_path, **KINDS[kind])
    host.program().apply(hotpluggable(), "text")
    cared = Cared(host)
    cared.settle()
    cared.plug("a")
    assert cared.settle()[0] == "vcpu-plugged-in"
    assert [str(thread.allowed) for thread in cared.engine.observation(A).census.vcpus] == ["1", "2"]
    assert cared.engine.view(A).entry.plan.exclusive == CpuSet.parse("1-2")
    assert cared.engine.verify(cared.engine.view(A)).ok
    cared.unplug("a")
    assert cared.settle()[0] == "vcpu-plugged-out"
    assert cared.engine.view(A).entry.plan.exclusive == CpuSet.parse("1")
    cared.engine.apply(spec("b", 2), "text")
    assert cared.engine.view(B).entry.plan.exclusive == CpuSet.parse("2-3")
    assert cared.engine.view(B).entry.mechanism == cared.engine.view(A).entry.mechanism  # no claim on CPU 2 was left in its way
    assert all(cared.engine.verify(view).ok for view in cared.engine.views())


def test_what_somebody_takes_from_real_time_is_given_back_by_the_resync(tmp_path):
    host = RealtimeHost(tmp_path, allowed=True)
    host.program().apply(realtime("a", 1, "0"), "text")
    cared = Cared(host)
    cared.settle()
    host.threads.policies[401] = ("fifo", 1)
    host.fs.path(THROTTLE).write_text("950000\n")
    assert cared.settle(after_s=31).count("drift-repaired") == 2
    assert (host.priorities()["rcuc/1"], host.settings()[THROTTLE]) == (("fifo", 2), "-1")
    assert cared.settle(after_s=31) == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_plugged_real_time_vcpu_stays_below_the_kernel_threads_of_its_cpu_and_they_come_back(tmp_path, version):
    host = RealtimeHost(tmp_path, version=version, partitions=version == 2, allowed=True)
    vm = realtime("a", 1, "0-1")
    host.program().apply(replace(vm, cpu=replace(vm.cpu, max_sockets=2)), "text")
    before = host.state()
    cared = Cared(host)
    cared.plug("a")
    cared.settle()
    assert (host.threads.scheduler(cared.vcpu("a", 1).tid), host.priorities()["rcuc/2"]) == (("fifo", 1), ("fifo", 2))
    cared.unplug("a")
    cared.settle()
    now = host.state()
    assert [now[what] for what in ("kernel threads", "settings")] == [before[what] for what in ("kernel threads", "settings")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cpus", ["4", "2,4"], ids=["its own CPU left out", "its own CPU named"])
def test_a_plugged_vcpu_stays_when_the_others_move(tmp_path, kind, cpus):
    host = FakeHost(tmp_path, cpus=6, **KINDS[kind])
    host.program().apply(hotpluggable(), "text")
    cared = Cared(host)
    cared.settle()
    cared.plug("a")
    cared.settle()
    cared.engine.repin(A, cpus=CpuSet.parse(cpus))
    census = cared.engine.observation(A).census
    assert [str(thread.allowed) for thread in census.vcpus] == ["4", "2"]
    assert {str(thread.allowed) for thread in census.others if thread.role != "pit"} == {"0-1,3,5"}
    plan = cared.engine.view(A).entry.plan
    assert (plan.exclusive, plan.shared.isdisjoint(plan.exclusive)) == (CpuSet.parse("2,4"), True)
    assert cared.engine.verify(cared.engine.view(A)).ok


def test_a_vcpu_that_the_manifest_does_not_allow_stays_on_the_shared_pool_and_is_an_error(cared):
    cared.settle()
    cared.plug("a")
    assert "vcpu-not-placed" in cared.settle()
    assert cared.vcpu("a", 1).allowed == CpuSet.parse("0,2-3")
    assert [one.code for one in cared.agent.care(A).findings] == ["vcpu-unplanned"]


def test_a_vcpu_for_which_no_cpu_is_free_stays_on_the_shared_pool(tmp_path):
    cared = partitioned(tmp_path, hotpluggable(), spec("b", 2))
    cared.plug("a")
    assert "vcpu-not-placed" in cared.settle()
    assert cared.vcpu("a", 1).allowed == CpuSet.parse("0")
    assert cared.engine.world.books.load().owned == CpuSet.parse("1-3")


def test_a_guest_that_powers_off_frees_its_cpus_at_once(cared):
    cared.settle()
    cared.end("a")
    cared.settle()
    assert cared.engine.view(A).phase == "Stopped"
    assert not cared.engine.world.books.load().owned


@pytest.mark.parametrize(
    ("strategy", "change", "phase"),
    [
        ("Always", "stopped", "Running"),
        ("Always", "failed", "Running"),
        ("RerunOnFailure", "stopped", "Stopped"),
        ("RerunOnFailure", "failed", "Running"),
        ("Once", "failed", "Stopped"),
    ],
)
def test_the_run_strategy_says_who_starts_again(tmp_path, strategy, change, phase):
    kind = "VirtualMachineInstance" if strategy == "Once" else "VirtualMachine"
    cared = partitioned(tmp_path, spec("a", kind=kind, run_strategy=strategy))
    cared.end("a", change)
    cared.settle()
    assert cared.engine.view(A).phase == phase


def test_a_vm_that_keeps_crashing_is_started_ever_more_slowly(tmp_path):
    cared = partitioned(tmp_path, spec("a", kind="VirtualMachine", run_strategy="RerunOnFailure"))
    for _ in range(2):
        cared.end("a", "failed")
        assert "started-again" in cared.settle(after_s=1)
    cared.end("a", "failed")
    assert "started-again" not in cared.settle(after_s=1)
    assert cared.engine.view(A).phase == "Stopped"
    assert "started-again" in cared.settle(after_s=10)


def test_a_vm_that_does_not_fit_is_told_once_and_tried_again(tmp_path):
    cared = partitioned(tmp_path, spec("a", 2, kind="VirtualMachine", run_strategy="Always"))
    cared.end("a")
    cared.host.program().apply(spec("b", 2), "text")
    assert cared.settle().count("not-started") == 1
    assert "not-started" not in cared.settle(after_s=11)
    cared.host.program().delete(B)
    assert "started-again" in cared.settle(after_s=21)


def test_the_agent_keeps_vms_that_it_finds_and_starts_those_that_a_reboot_ended(tmp_path):
    host = FakeHost(tmp_path, **V2)
    host.program().apply(spec("a", kind="VirtualMachine", run_strategy="Always"), "text")
    host.program().apply(spec("b"), "text")
    pid = host.hypervisor.pids["default_a"]
    Cared(host)
    assert host.hypervisor.pids["default_a"] == pid
    host.reboot()
    cared = Cared(host)
    assert {view.entry.vm.name: view.phase for view in cared.engine.views()} == {"a": "Running", "b": "Stopped"}


def test_the_start_waits_for_libvirt_and_gives_up_in_the_end(tmp_path, monkeypatch):
    cared = Cared(FakeHost(tmp_path, **V2), begin=False)
    answers = iter([HypervisorError("not yet"), HypervisorError("not yet"), ()])

    def domains():
        answer = next(answers, ())
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(cared.host.hypervisor, "domains", domains)
    cared.agent.begin()
    assert cared.now_s == 1002
    answers = iter([HypervisorError("never")] * 5)
    with pytest.raises(HypervisorError, match="never"):
        cared.agent.begin(attempts=5)


def held_until(cared, seconds):
    """A command holds the lock, and gives it back when so much time has passed in the agent's sleep."""
    holding = contextlib.ExitStack()
    holding.enter_context(cared.engine.world.books.locked())
    until = cared.now_s + seconds

    def sleep(passed):
        cared.pass_time(passed)
        if cared.now_s >= until:
            holding.close()

    cared.agent.world = replace(cared.agent.world, sleep=sleep)
    return holding


def test_the_start_lasts_until_every_vm_was_checked(tmp_path):
    host = FakeHost(tmp_path, **V2)
    host.program().apply(spec("a"), "text")
    cared = Cared(host, begin=False)
    stray(cared)
    with held_until(cared, 0.5):
        cared.agent.begin()
    assert cared.now_s >= 1000.5
    assert cared.vcpu("a").allowed == CpuSet.parse("1")
    assert [one.event for one in cared.news()][-2:] == ["drift-repaired", "agent-started"]


def test_a_start_that_is_ended_while_it_waits_ends(tmp_path):
    cared = Cared(FakeHost(tmp_path, **V2), begin=False)
    with held_until(cared, 1e9):
        cared.agent.begin(stopping=lambda: cared.now_s > 1001)
    assert cared.now_s < 1002


def test_a_vm_that_cannot_be_put_right_does_not_hold_up_the_start(tmp_path, monkeypatch):
    host = FakeHost(tmp_path, **V2)
    host.program().apply(spec("a"), "text")
    cared = Cared(host, begin=False)
    stray(cared)

    def refuse(path, _text):
        raise OSError(22, "Invalid argument", path)

    monkeypatch.setattr(host.fs, "write", refuse)
    cared.agent.begin()
    assert [one.event for one in cared.news()][-1] == "agent-started"
    assert [one.code for one in cared.agent.care(A).findings] == ["repair-failed"]


def test_a_move_that_cannot_be_finished_does_not_hold_up_the_start_and_is_told_until_it_is(tmp_path, monkeypatch):
    host = FakeHost(tmp_path, **V2)
    host.program().apply(spec("a"), "text")
    with pytest.raises(Killed):
        host.program(Faults(at=1, kind="kill", moment="before")).repin(A, cpus=CpuSet.of(3))
    cared = Cared(host, begin=False)

    def refuse(*_arguments):
        raise HypervisorError("libvirt refuses")

    with monkeypatch.context() as patch:
        patch.setattr(host.hypervisor, "pin_vcpu", refuse)
        cared.agent.begin()
        assert [one.event for one in cared.news()][-2:] == ["repair-failed", "agent-started"]
        assert [one.code for one in cared.agent.care(A).findings] == ["repair-failed"]
        assert "repair-failed" not in cared.settle(after_s=31)
    assert "recovered" in cared.settle(after_s=31) + cared.settle(after_s=31)
    assert (cared.agent.care(A).findings, cared.engine.view(A).entry.moving) == ((), None)
    assert cared.vcpu("a").allowed == CpuSet.parse("1")


def test_while_a_command_holds_the_lock_the_repair_waits_and_then_comes(cared):
    cared.settle()
    thread = cared.vcpu("a")
    with cared.engine.world.books.locked():
        cared.move("a", thread.tid, "/")
        assert cared.settle() == []
    assert cared.settle() == []
    assert cared.settle(after_s=0.2) == ["drift-repaired"]
    assert cared.agent.care(A).last_reaction_s == pytest.approx(0.2)


def test_while_libvirt_is_gone_nothing_is_believed_to_have_ended(tmp_path, monkeypatch):
    cared = partitioned(tmp_path, spec("a"))

    def gone(*_arguments):
        raise HypervisorError("libvirt is gone")

    with monkeypatch.context() as patch:
        for call in ("domains", "find", "threads"):
            patch.setattr(cared.host.hypervisor, call, gone)
        cared.domains.put(DomainEvent(name="", change="disconnected"))
        cared.host.fs.set_group(1000, 1002, "/")
        assert cared.settle() == ["libvirt-lost", "trouble"]
        assert cared.settle(after_s=40) == []
    assert cared.engine.view(A).phase == "Running"
    assert "drift-repaired" in cared.settle(after_s=10)


def test_a_refused_repair_is_told_once_and_tried_again(tmp_path, monkeypatch):
    cared = partitioned(tmp_path, spec("a"), spec("b"))
    stray(cared, "a")
    stray(cared, "b")
    real, refusing = cared.host.fs.write, str(cared.vcpu("a").tid)

    def write(path, text):
        if text == refusing:
            raise OSError(22, "Invalid argument")
        real(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(cared.host.fs, "write", write)
        names = cared.settle(after_s=31)
        assert names.count("repair-failed") == 1
        assert cared.vcpu("b").allowed == CpuSet.parse("2")
        assert "repair-failed" not in cared.settle(after_s=31)
        assert [one.code for one in cared.agent.care(A).findings] == ["repair-failed"]
    assert "recovered" in cared.settle(after_s=31)
    assert cared.vcpu("a").allowed == CpuSet.parse("1")
    assert cared.agent.care(A).findings == ()


def test_somebody_who_keeps_rewriting_is_named_and_does_not_keep_the_agent_busy(tmp_path):
    cared = partitioned(tmp_path, spec("a"))
    path = cared.host.fs.path(f"{cared.host.fs.mount}{cared.vcpu('a').cgroup}/cpuset.cpus.exclusive")
    seen = []
    for _ in range(15):
        path.write_text("0\n")
        seen += cared.settle()
    assert seen.count("contested") == 1
    assert "drift-repaired" in cared.settle(after_s=31)


def test_orphaned_groups_and_claims_are_freed(tmp_path):
    cared = partitioned(tmp_path, spec("a"))
    mount, fs = cared.host.fs.mount, cared.host.fs
    for group in ("/machine/qemu-7-defaultgone.libvirt-qemu", "/machine/qemu-7-defaultgone.libvirt-qemu/vcpu0"):
        fs.path(mount + group).mkdir()
        fs.furnish(mount + group)
        fs.path(f"{mount}{group}/cpuset.cpus.exclusive").write_text("3\n")
    fs.path(f"{mount}/machine/cpuset.cpus.exclusive").write_text("1,3\n")
    assert "orphan-freed" not in cared.settle(after_s=31)  # it may be somebody's who is about to begin
    assert cared.settle(after_s=31).count("orphan-freed") == 3
    assert not fs.is_dir(f"{mount}/machine/qemu-7-defaultgone.libvirt-qemu")
    assert fs.read(f"{mount}/machine/cpuset.cpus.exclusive") == "1\n"
    assert cared.engine.verify(cared.engine.view(A)).ok


def test_a_group_that_vanishes_while_orphans_are_looked_for_does_no_harm(tmp_path, monkeypatch):
    cared = partitioned(tmp_path, spec("a"))
    fs, home = cared.host.fs, cared.vcpu("a").cgroup.rpartition("/")[0]
    ghost, known, names = f"{fs.mount}{home}/vcpu7", fs.is_dir, fs.listdir
    monkeypatch.setattr(fs, "is_dir", lambda path: path == ghost or known(path))
    monkeypatch.setattr(fs, "listdir", lambda path: [*names(path), *(["vcpu7"] if path == fs.mount + home else [])])
    assert "trouble" not in cared.settle(after_s=31)


def test_the_groups_of_a_stranger_are_left_alone(tmp_path):
    cared = partitioned(tmp_path, spec("a"))
    mount, fs = cared.host.fs.mount, cared.host.fs
    cared.host.hypervisor.running["theirs"] = DomainView(name="theirs", uuid="", state="running", persistent=True)
    for group in ("/machine/qemu-7-theirs.libvirt-qemu", "/machine/qemu-7-theirs.libvirt-qemu/vcpu0"):
        fs.path(mount + group).mkdir()
        fs.furnish(mount + group)
        fs.path(f"{mount}{group}/cpuset.cpus.exclusive").write_text("3\n")
    fs.path(f"{mount}/machine/qemu-7-theirs.libvirt-qemu/vcpu0/cpuset.cpus.partition").write_text("isolated\n")
    fs.path(f"{mount}/machine/cpuset.cpus.exclusive").write_text("1,3\n")
    assert "orphan-freed" not in cared.settle(after_s=31)
    assert fs.read(f"{mount}/machine/cpuset.cpus.exclusive") == "1,3\n"


def test_a_cpu_that_goes_offline_is_reported_and_its_vcpu_returns_with_it(cared):
    cared.settle()
    cared.host.fs.switch(1, on=False)
    told = cared.settle(after_s=31)
    assert "finding" in told
    assert "repair-failed" not in told
    assert [one.code for one in cared.agent.care(A).findings if one.kind == "cpu"] == ["cpu-offline"]
    assert cared.vcpu("a").allowed == CpuSet.parse("0,2-3")  # with the others, off the CPUs of other VMs
    assert cared.settle(after_s=31) == []
    cared.host.fs.switch(1, on=True)
    cared.settle(after_s=31)
    assert cared.vcpu("a").allowed == CpuSet.parse("1")
    assert cared.agent.care(A).findings == ()


@pytest.mark.parametrize("cpu", [1, 3])
def test_kernel_threads_that_come_with_any_cpu_are_kept_off_the_partition(tmp_path, cpu):
    cared = partitioned(tmp_path, spec("a"))
    cared.settle()
    cared.host.fs.switch(cpu, on=False)
    cared.settle(after_s=31)
    for tid, flags in ((700, 0x00200040), (701, 0x04200040), (702, 0x40)):  # kcompactd, ksoftirqd (bound for good), a program
        folder = cared.host.fs.path(f"/proc/{tid}/task/{tid}")
        folder.mkdir(parents=True)
        (folder / "status").write_text(f"Name:\tsome\nTgid:\t{tid}\nCpus_allowed_list:\t0-1\n")
        (folder / "stat").write_text(f"{tid} (some) S 2 0 0 0 -1 {flags} 0 0 0\n")
        cared.host.threads.affinities[tid] = CpuSet.parse("0-1")
    cared.host.fs.switch(cpu, on=True)
    assert "drift-repaired" in cared.settle(after_s=31)
    assert [str(cared.host.threads.affinities[tid]) for tid in (700, 701, 702)] == ["0", "0-1", "0-1"]


def test_smt_that_is_switched_is_reported(tmp_path):
    host = FakeHost(tmp_path, **V2)
    folder = host.fs.path("/sys/devices/system/cpu/smt")
    folder.mkdir()
    for name, text in (("active", "0"), ("control", "off")):
        (folder / name).write_text(text + "\n")
    host.program().apply(spec("a"), "text")
    cared = Cared(host)
    cared.settle()
    (folder / "active").write_text("1\n")
    (folder / "control").write_text("on\n")
    assert cared.settle() == ["finding"]
    assert fields(cared.log.since()[-1], "code", "expected", "actual") == ("smt-changed", "SMT off", "SMT on")


def test_a_vm_that_a_command_starts_is_cared_for(tmp_path):
    cared = partitioned(tmp_path)
    cared.host.program().apply(spec("a"), "text")
    cared.settle()
    thread = cared.vcpu("a")
    cared.move("a", thread.tid, "/")
    assert set(cared.settle()) == {"drift-repaired"}


def test_events_read_as_lines_for_the_journal(tmp_path):
    cared = partitioned(tmp_path)
    cared.log.add("drift-repaired", A, thread="vCPU 0", expected="2", actual="", seconds_since_good=0.25, by=None)
    assert cared.log.since()[-1].line == 'drift-repaired vm=default/a thread="vCPU 0" expected=2 actual="" seconds_since_good=0.25 by=None'
