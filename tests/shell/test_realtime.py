"""Real-time VMs on a fake host: nothing becomes SCHED_FIFO before the kernel's own threads are above it, and all of it is given back."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace

import pytest

from quietcore.engine import Wanted
from quietcore.errors import OperationFailed, UndoFailed
from quietcore.model import CpuSet, MemorySpec, VmName
from tests.shell.fake_host import Faults, Killed, again
from tests.shell.foreign import foreign
from tests.shell.realtime_host import CPU, THROTTLE, RealtimeHost, fair_server, furnish, realtime
from tests.shell.test_adopt import everything
from tests.shell.test_faults import probes, snapshot

A, B = VmName(name="a"), VmName(name="b")
KINDS = {
    "v1 libvirt": {"version": 1, "partitions": False},
    "v1 bare": {"version": 1, "partitions": False, "bare": True},
    "v2 libvirt partitions": {"allowed": True},
}
MACHINE = f"{CPU}/machine/cpu.rt_runtime_us"


@pytest.fixture(params=KINDS)
def host(request, tmp_path) -> RealtimeHost:
    return RealtimeHost(tmp_path, **KINDS[request.param])


def schedulers(names: list[str]) -> list[int]:
    return [int(name.split()[1]) for name in names if name.startswith("scheduler")]


def codes(engine, vm) -> list[tuple[str, str, str]]:
    view = engine.view(vm)
    assert view is not None
    return [(one.severity, one.code, one.id) for one in engine.verify(view).findings if one.severity != "info"]


def test_kernel_threads_are_raised_first_and_given_back_last(host):
    before = host.priorities()
    counting = Faults()
    engine = host.program(counting)
    engine.apply(realtime(priority=5), "text")
    fifo = schedulers(counting.names)
    vcpus = {thread.tid for thread in engine.observation(A).census.vcpus}
    assert vcpus.isdisjoint(fifo[:5])
    assert host.priorities() == before | dict.fromkeys(("ksoftirqd/1", "ksoftirqd/2", "rcuc/1", "rcuc/2", "rcub/0"), ("fifo", 6))
    assert codes(engine, A) == []
    engine.delete(A)
    assert host.priorities() == before


def test_a_thread_that_is_high_enough_is_left_alone(host):
    host.threads.policies[401] = ("rr", 50)
    host.threads.policies[402] = ("deadline", 0)
    host.program().apply(realtime(), "text")
    assert host.priorities()["rcuc/1"] == ("rr", 50)
    assert host.priorities()["rcuc/2"] == ("deadline", 0)


def test_a_thread_that_serves_several_vms_is_given_back_by_the_last(host):
    before = host.priorities()
    engine = host.program()
    engine.apply(realtime("a", 1, "0", priority=5), "text")
    engine.apply(realtime("b", 1, "0", priority=2), "text")
    engine.delete(A)
    assert host.priorities() == before | {"rcub/0": ("fifo", 3), "ksoftirqd/2": ("fifo", 3), "rcuc/2": ("fifo", 3)}
    engine.delete(B)
    assert host.priorities() == before


@pytest.mark.parametrize(("stubborn", "priority"), [(frozenset({401}), 1), (frozenset(), 99)])
def test_a_vm_that_would_outrank_a_kernel_thread_is_refused_and_leaves_nothing(host, stubborn, priority):
    host.threads.stubborn = stubborn
    before = snapshot(host)
    with pytest.raises(OperationFailed, match=f"cannot be raised above real-time priority {priority}") as refused:
        host.program().apply(realtime(priority=priority), "text")
    assert "quietcore.io/allow-priority-inversion" in refused.value.hint
    assert snapshot(host) == before


def test_the_risk_can_be_taken_by_name_and_verify_keeps_saying_it(host):
    host.threads.stubborn = frozenset({401})
    engine = host.program()
    engine.apply(realtime(allow_inversion=True), "text")
    assert engine.observation(A).census.vcpus[1].policy == "fifo"
    assert codes(engine, A) == [("warning", "priority-inversion", "401 (rcuc/1)")]
    view = engine.view(A)
    assert view is not None
    assert host.settings().get(fair_server(2), "") in {"", "50000000"}  # nothing is switched off while a kernel thread could starve
    assert view.entry.limits[-1] == "a polling vCPU starves rcuc/1, which is not above it, and can hang this host"
    engine.delete(A)


def test_a_kernel_thread_that_was_lowered_is_an_error_and_raised_again_by_apply(host):
    engine = host.program()
    engine.apply(realtime(), "text")
    host.threads.policies[402] = ("fifo", 1)
    assert codes(engine, A) == [("error", "priority-inversion", "402 (rcuc/2)")]
    assert engine.apply(realtime(), "text").result == "repaired"
    assert codes(engine, A) == []


def limits(engine, vm) -> tuple[str, ...]:
    return tuple(one for one in engine.world.books.load().find(vm).limits if "polling" in one)


def test_on_cgroup_v1_the_vms_share_one_budget_and_the_last_gives_it_back(tmp_path):
    host = RealtimeHost(tmp_path, **KINDS["v1 libvirt"])
    furnish(host.fs.path(f"{CPU}/audio"), 150_000)
    before = host.settings()
    engine = host.program()
    engine.apply(realtime("a"), "text")
    engine.apply(realtime("b", 1, "0"), "text")
    assert host.settings() == before | {MACHINE: "800000"}
    for vm, vcpu in ((A, 1), (B, 0)):
        thread = engine.observation(vm).census.vcpus[vcpu]
        assert (host.fs.cpu_group(thread.tid), thread.policy) == ("/machine", "fifo")
    other = engine.observation(A).census.vcpus[0]
    assert (host.fs.cpu_group(other.tid).rpartition("/")[2], other.policy) == ("vcpu0", "other")
    assert limits(engine, A) == ("RT_GROUP_SCHED: a polling real-time vCPU gets 800000 of every 1000000 us on its CPU",)
    assert engine.apply(realtime("a"), "text").result == "unchanged"
    engine.delete(A)
    assert host.settings() == before | {MACHINE: "800000"}
    engine.delete(B)
    assert host.settings() == before


def test_a_vm_for_which_no_budget_is_left_is_refused_and_leaves_nothing(tmp_path):
    host = RealtimeHost(tmp_path, **KINDS["v1 libvirt"])
    furnish(host.fs.path(f"{CPU}/audio"), 950_000)
    before = snapshot(host)
    with pytest.raises(OperationFailed, match="no real-time budget is left for the cgroup /machine"):
        host.program().apply(realtime(), "text")
    assert snapshot(host) == before


def test_throttling_and_the_fair_servers_of_polling_cpus_are_switched_off_where_that_is_allowed(tmp_path):
    host = RealtimeHost(tmp_path, allowed=True)
    before = host.settings()
    counting = Faults()
    engine = host.program(counting)
    engine.apply(realtime("a"), "text")
    written = [name for name in counting.names if name.startswith(("scheduler", f"write {THROTTLE}", "write /sys/kernel"))]
    assert written[-2:] == [f"write {THROTTLE}", f"write {fair_server(2)}"]
    engine.apply(realtime("b", 1, "0"), "text")
    assert host.settings() == before | {THROTTLE: "-1", fair_server(2): "0", fair_server(3): "0"}
    assert limits(engine, A) == ()
    engine.delete(A)
    assert host.settings() == before | {THROTTLE: "-1", fair_server(3): "0"}
    engine.delete(B)
    assert host.settings() == before


def test_after_a_move_the_new_cpu_is_the_polling_one_and_the_old_one_is_as_before(tmp_path):
    host = RealtimeHost(tmp_path, allowed=True)
    settings, priorities = host.settings(), host.priorities()
    engine = host.program()
    engine.apply(realtime("a", 1, "0"), "text")
    engine.repin(A, cpus=CpuSet.of(3))
    assert host.settings() == settings | {THROTTLE: "-1", fair_server(3): "0"}
    assert host.priorities() == priorities | dict.fromkeys(("ksoftirqd/3", "rcuc/3", "rcub/0"), ("fifo", 2))
    assert codes(engine, A) == []
    engine.delete(A)
    assert (host.settings(), host.priorities()) == (settings, priorities)


def test_without_permission_the_host_stays_as_it_is_and_describe_says_what_is_lost(tmp_path):
    host = RealtimeHost(tmp_path)
    before = host.settings()
    engine = host.program()
    engine.apply(realtime(), "text")
    assert host.settings() == before
    assert [one.partition(" on CPUs")[0] for one in limits(engine, A)] == [
        "the kernel's fair server lends ordinary tasks 50 of every 1000 ms"
    ]


def test_a_setting_that_somebody_switched_on_again_is_found_and_put_back(tmp_path):
    host = RealtimeHost(tmp_path, allowed=True)
    engine = host.program()
    engine.apply(realtime(), "text")
    host.fs.path(THROTTLE).write_text("950000\n")
    assert codes(engine, A) == [("warning", "realtime-throttled", THROTTLE)]
    assert engine.apply(realtime(), "text").result == "repaired"
    assert codes(engine, A) == []


def locked(name: str = "a"):
    return replace(realtime(name), memory=MemorySpec(guest_bytes=1 << 27, locked=True))


def test_locked_memory_is_read_back(tmp_path):
    host = RealtimeHost(tmp_path)
    status = host.fs.path("/proc/self/status")
    engine = host.program()
    engine.apply(locked("b"), "text")
    assert codes(engine, B) == [("warning", "memory-not-locked", str(host.hypervisor.pids["default_b"]))]  # nobody may lock here
    engine.delete(B)
    status.write_text(f"{status.read_text()}CapEff:\t{1 << 24:x}\n")
    engine.apply(locked(), "text")
    assert codes(engine, A) == []
    engine.delete(A)
    host.hypervisor.lockable_kb = 1 << 10
    before = snapshot(host)
    with pytest.raises(OperationFailed, match="memory-not-locked"):
        engine.apply(locked(), "text")
    assert snapshot(host) == before


def test_a_real_time_vcpu_whose_cpu_went_offline_polls_on_nobody_elses_and_is_real_time_again_when_it_returns(host):
    engine = host.program()
    engine.apply(realtime("a", 1, "0"), "text")
    (vcpu,) = engine.observation(A).census.vcpus
    host.fs.switch(1, on=False)
    engine.apply(realtime("b", 1, "0"), "text")
    assert host.threads.scheduler(vcpu.tid) == ("other", 0)
    assert codes(engine, B) == []
    host.fs.switch(1, on=True)
    engine.apply(realtime("a", 1, "0"), "text")
    assert host.threads.scheduler(vcpu.tid) == ("fifo", 1)
    assert codes(engine, A) == []


@pytest.mark.parametrize("kind", ["v1 libvirt", "v1 bare"])
def test_an_adopted_domain_that_became_real_time_stands_in_every_hierarchy_where_it_stood(tmp_path, kind):
    host = RealtimeHost(tmp_path, **KINDS[kind])
    pid = foreign(host, tune="")
    groups = {tid: host.fs.cpu_group(tid) for tid in host.fs._tids()}
    before = everything(host)
    engine = host.program()
    engine.adopt(Wanted(domain="old", realtime=frozenset({1})))
    assert host.threads.scheduler(pid + 3) == ("fifo", 1)
    assert host.fs.cpu_group(pid + 3) == ("/machine" if kind == "v1 libvirt" else "/")
    host.hypervisor._thread(pid, pid + 60, "worker", host.fs._group(pid))  # born of that vCPU meanwhile, so in its group
    host.fs._join(pid + 60, host.fs.cpu_group(pid + 3))
    engine.release(VmName(name="old"))
    assert {tid: host.fs.cpu_group(tid) for tid in host.fs._tids()} == groups | {pid + 60: groups[pid]}
    shutil.rmtree(host.fs.path(f"/proc/{pid}/task/{pid + 60}"))
    assert everything(host) == before


OPERATIONS = {
    "run": (lambda engine: engine.apply(realtime("a", 1, "0"), "text"), ()),
    "run beside another": (lambda engine: engine.apply(realtime("a", 1, "0", priority=3), "text"), ("b",)),
    "delete beside another": (lambda engine: engine.delete(A), ("a", "b")),
}


def made(root, kind, names) -> RealtimeHost:
    root.mkdir()
    host = RealtimeHost(root, **KINDS[kind])
    for name in names:
        host.program().apply(realtime(name, 1, "0"), "text")
    return host


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", ["error", "kill"])
def test_a_fault_at_any_write_leaves_the_host_as_before_or_as_after(tmp_path, kind, operation, fault):
    act, names = OPERATIONS[operation]
    host = again(tmp_path / "h", made, kind, names)
    before = snapshot(host)
    counting = Faults()
    act(host.program(counting))
    after = snapshot(host)
    assert schedulers(counting.names)
    assert any(name in {f"write {MACHINE}", f"write {THROTTLE}"} for name in counting.names) or KINDS[kind].get("bare") or names
    for number, name in enumerate(counting.names):
        if fault == "error" and probes(counting.names, number):
            continue
        for moment in ("before", "after"):
            host = again(tmp_path / "h", made, kind, names)
            with contextlib.suppress(OperationFailed, UndoFailed, Killed):
                act(host.program(Faults(at=number, kind=fault, moment=moment)))
            if fault == "kill" or snapshot(host) not in (before, after):
                host.program().reconcile()
            assert snapshot(host) in (before, after), f"{moment} {name}"
