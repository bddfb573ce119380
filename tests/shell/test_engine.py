"""The engine on a fake host: what each operation leaves behind, on every kind of host."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from fractions import Fraction

import pytest

from quietcore.engine import Engine
from quietcore.errors import InputError
from quietcore.model import ClusterConfig, CpuSet, CpuSpec, Firmware, GuestTopology, IoThreads, MemorySpec, Realtime, VmName, VmSpec, union
from tests.shell.fake_host import FakeHost, Faults, Killed

KINDS = {
    "v1 libvirt": {"version": 1, "partitions": False},
    "v1 bare": {"version": 1, "partitions": False, "bare": True},
    "v2 libvirt partitions": {},
    "v2 libvirt threaded": {"partitions": False},
    "v2 bare partitions": {"bare": True},
    "v2 bare threaded": {"bare": True, "partitions": False},
}


def spec(name: str = "a", vcpus: int = 1, **changes: object) -> VmSpec:
    cpu = CpuSpec(topology=GuestTopology(cores=vcpus), dedicated=True)
    one = VmSpec(vm=VmName(name=name), cpu=cpu, memory=MemorySpec(guest_bytes=1 << 27), termination_grace_seconds=0)
    return replace(one, **changes)


def helper_cpus(engine: Engine, name: str = "a") -> set[str]:
    """Where the threads of a VM may run that are neither vCPUs nor the timer's, which follows vCPU 0."""
    return {str(thread.allowed) for thread in engine.observation(VmName(name=name)).census.others if thread.role != "pit"}


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> FakeHost:
    (tmp_path / "host").mkdir()
    return FakeHost(tmp_path / "host", **KINDS[request.param])


def test_a_vm_gets_its_cpus_and_verify_agrees(host):
    engine = host.program()
    assert engine.apply(spec(vcpus=2), "text").result == "created"
    view = engine.view(VmName(name="a"))
    assert view is not None
    assert view.phase == "Running"
    seen = engine.observation(view.entry.vm)
    assert [str(thread.allowed) for thread in seen.census.vcpus] == ["1", "2"]
    assert helper_cpus(engine) == {"0,3"}
    assert engine.verify(view).ok


@pytest.mark.parametrize(("strategy", "others"), [("dedicated", "0,3"), ("housekeeping", "3"), ("whole", "1-2")])
def test_every_strategy_puts_every_kind_of_thread_in_its_place(host, strategy, others):
    engine = host.program()
    one = replace(spec(vcpus=2), strategy=strategy, io_threads=IoThreads(policy="shared"))
    if strategy == "housekeeping":
        one = replace(one, cpu=replace(one.cpu, isolate_emulator=True))
    assert engine.apply(one, "text").result == "created"
    view = engine.view(one.vm)
    assert view is not None
    threads = engine.observation(one.vm).census.threads
    assert [str(thread.allowed) for thread in threads if thread.role in {"vcpu", "pit"}] == ["1", "2", "1"]
    assert helper_cpus(engine) == {others}
    assert {thread.role for thread in threads} >= {"emulator", "vhost", "pit", "vcpu"}
    assert engine.verify(view).ok
    assert engine.apply(one, "text").result == "unchanged"


def test_the_same_manifest_again_changes_nothing(host):
    engine = host.program()
    engine.apply(spec(), "text")
    before = host.state()
    assert engine.apply(spec(), "text").result == "unchanged"
    assert host.state() == before


@pytest.mark.parametrize("answer", [errno.ENOENT, errno.ENODEV], ids=errno.errorcode.get)
def test_a_level_that_vanishes_while_a_vm_is_deleted_needs_no_release(tmp_path, monkeypatch, answer):
    """systemd removes a slice when its last scope has ended: a file of it is gone then, or still there and dead."""
    host = FakeHost(tmp_path)
    engine = host.program()
    engine.apply(spec(), "text")
    writes = []

    def dead(self, path, text):
        writes.append(path)
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(type(engine.world.fs), "write", dead)
    engine.delete(VmName(name="a"))
    assert [path.rpartition("/")[2] for path in writes] == ["cpuset.cpus.exclusive"]
    assert engine.view(VmName(name="a")) is None


def test_delete_leaves_no_trace(host):
    empty = host.state()
    engine = host.program()
    engine.apply(spec(), "text")
    engine.apply(spec("b"), "text")
    assert engine.delete(VmName(name="a"))
    assert engine.delete(VmName(name="b"))
    after = host.state()
    after["groups"] = {name: text for name, text in after["groups"].items() if not name.endswith("/machine")}  # libvirt's own
    assert after == empty
    assert not engine.delete(VmName(name="a"))


def test_helper_threads_of_other_vms_follow_the_shrinking_pool(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    engine.apply(spec("b"), "text")
    for name in ("a", "b"):
        assert helper_cpus(engine, name) == {"0,3"}
    engine.delete(VmName(name="b"))
    assert helper_cpus(engine) == {"0,2-3"}


def test_a_shared_vm_floats_on_the_pool_and_leaves_dedicated_cpus(host):
    engine = host.program()
    shared = replace(spec("s"), cpu=CpuSpec(topology=GuestTopology(cores=2)))
    engine.apply(shared, "text")
    engine.apply(spec("a"), "text")
    seen = engine.observation(VmName(name="s")).census
    assert {str(thread.allowed) for thread in seen.threads} == {"0,2-3"}


def test_a_moved_vcpu_thread_is_found_by_verify_and_put_back_by_apply(host):
    engine = host.program()
    engine.apply(spec(), "text")
    view = engine.view(VmName(name="a"))
    assert view is not None
    thread = engine.observation(view.entry.vm).census.vcpus[0]
    host.fs.set_group(host.hypervisor.pids["default_a"], thread.tid, "/")
    host.threads.affinities[thread.tid] = host.threads.everyone
    codes = {finding.code for finding in engine.verify(view).findings if finding.severity == "error"}
    assert codes == {"vcpu-cgroup", "vcpu-affinity"}
    assert engine.apply(spec(), "text").result == "repaired"
    assert engine.verify(view).ok


def test_what_does_not_fit_is_refused_and_leaves_nothing(host):
    empty = host.state()
    outcome = host.program().apply(spec(vcpus=9), "text")
    assert outcome.result == "refused"
    assert outcome.refusal is not None
    assert (outcome.refusal.reasons[0].wanted, outcome.refusal.reasons[0].free) == ("9", "3")
    assert host.state() == empty


def test_a_running_vm_cannot_be_changed(host):
    engine = host.program()
    engine.apply(spec(), "text")
    with pytest.raises(InputError, match="runs with another manifest"):
        engine.apply(spec(vcpus=2), "other text")


def test_real_time_vcpus_become_fifo_after_the_kernel_threads_of_their_cpus(host):
    for tid, comm in ((11, "ksoftirqd/1"), (12, "ksoftirqd/2"), (13, "rcuc/1")):
        folder = host.fs.path(f"/proc/{tid}")
        folder.mkdir()
        (folder / "comm").write_text(comm + "\n")
    engine = host.program()
    realtime = replace(spec(vcpus=2), cpu=replace(spec(vcpus=2).cpu, realtime=Realtime(mask="1", vcpus=frozenset({1}), priority=5)))
    engine.apply(realtime, "text")
    vcpus = engine.observation(VmName(name="a")).census.vcpus
    assert [(thread.policy, thread.priority) for thread in vcpus] == [("other", 0), ("fifo", 5)]
    assert {tid: host.threads.scheduler(tid) for tid in (11, 12, 13)} == dict.fromkeys((11, 12, 13), ("fifo", 6))
    engine.delete(VmName(name="a"))
    assert {tid: host.threads.scheduler(tid) for tid in (11, 12, 13)} == dict.fromkeys((11, 12, 13), ("other", 0))


def test_after_a_reboot_vms_are_as_their_run_strategy_says(host):
    engine = host.program()
    engine.apply(spec("always", kind="VirtualMachine", run_strategy="Always"), "text")
    engine.apply(spec("rerun", kind="VirtualMachine", run_strategy="RerunOnFailure"), "text")
    engine.apply(spec("once"), "text")
    host.reboot()
    engine = host.program()
    assert {(str(one.vm), one.refusal) for one in engine.reconcile()} == {("default/always", None), ("default/rerun", None)}
    assert {view.entry.vm.name: view.phase for view in engine.views()} == {"always": "Running", "rerun": "Running", "once": "Stopped"}
    assert all(engine.verify(view).ok for view in engine.views())


def test_a_guest_that_powered_off_frees_its_cpus_and_only_always_comes_back(host):
    engine = host.program()
    engine.apply(spec("always", kind="VirtualMachine", run_strategy="Always"), "text")
    engine.apply(spec("rerun", kind="VirtualMachine", run_strategy="RerunOnFailure"), "text")
    for name in list(host.hypervisor.running):
        host.hypervisor.end(name)
    assert [str(one.vm) for one in engine.reconcile()] == ["default/always"]
    assert engine.world.books.load().owned == engine.view(VmName(name="always")).plan.exclusive


def test_a_later_start_still_follows_the_kubevirt_configuration_of_the_manifest(host):
    """With a hundred times KubeVirt's overhead the pod asks for more memory than this host has."""
    engine = host.program()
    halted = spec(kind="VirtualMachine", run_strategy="Halted")
    heavy = ClusterConfig(guest_overhead_ratio=Fraction(1000))
    engine.apply(halted, "halted", heavy)
    assert engine.world.books.load().entries[0].cluster == heavy
    started = engine.apply(replace(halted, run_strategy="Always"), "always", heavy)
    assert (started.result, "memory" in started.refusal.reasons[0].constraint) == ("refused", True)
    assert engine.apply(replace(halted, run_strategy="Always"), "always").result == "started"


def test_halted_vms_are_stored_started_and_stopped_by_apply(host):
    engine = host.program()
    halted = spec(kind="VirtualMachine", run_strategy="Halted")
    assert engine.apply(halted, "halted").result == "stored"
    assert engine.apply(halted, "halted").result == "unchanged"
    assert engine.apply(replace(halted, run_strategy="Always"), "always").result == "started"
    assert engine.apply(halted, "halted").result == "stopped"
    assert not engine.world.books.load().owned


def test_a_guest_that_is_not_this_hosts_kind_is_refused_with_all_reasons_before_anything_is_made(host):
    engine = host.program()
    with pytest.raises(InputError) as caught:
        engine.apply(spec(architecture="arm64", firmware=Firmware(efi=True)), "text")
    assert [problem.message for problem in caught.value.problems] == [
        "default/a is a guest for aarch64 and this host is x86_64",
        "default/a boots by EFI and this host has no EFI firmware",
    ]
    assert engine.world.books.load().entries == ()


@pytest.mark.parametrize("strategy", ["dedicated", "housekeeping", "whole"])
def test_a_vm_whose_cpu_went_offline_waits_off_the_cpus_of_a_newcomer_and_returns(host, strategy):
    engine = host.program()
    engine.apply(spec("a", vcpus=1, strategy=strategy), "text")
    before = host.state()["placed"]
    host.fs.switch(1, on=False)
    (gone,) = (one for one in engine.verify(engine.view(VmName(name="a"))).findings if one.code == "cpu-offline")
    assert (gone.severity, gone.id) == ("error", "1")
    assert engine.apply(spec("b"), "text").result == "created"
    newcomer = engine.view(VmName(name="b")).plan.dedicated
    threads = [thread for thread in engine.observation(VmName(name="a")).census.threads if thread.role != "pit"]
    assert newcomer.isdisjoint(union(thread.allowed for thread in threads)), threads
    assert engine.verify(engine.view(VmName(name="b"))).ok
    host.fs.switch(1, on=True)
    assert engine.apply(spec("a", vcpus=1, strategy=strategy), "text").result in {"repaired", "unchanged"}  # by us, or by the kernel
    assert engine.verify(engine.view(VmName(name="a"))).ok
    engine.delete(VmName(name="b"))
    assert host.state()["placed"] == before


def test_what_does_not_fit_is_refused_also_while_a_cpu_of_another_vm_is_offline(host):
    engine = host.program()
    engine.apply(spec("a", 3), "text")
    host.fs.switch(1, on=False)
    outcome = engine.apply(spec("b"), "text")
    assert (outcome.result, str(outcome.refusal.nearest.vm)) == ("refused", "default/a")


def test_a_stop_that_was_cut_off_is_finished_and_the_vm_does_not_start_again(host):
    engine = host.program()
    one = spec(kind="VirtualMachine", run_strategy="Always")
    engine.apply(one, "always")
    counting = Faults()
    host.copy(host.root.with_name("copy")).program(counting).apply(replace(one, run_strategy="Halted"), "halted")
    with pytest.raises(Killed):
        host.program(Faults(at=counting.names.index("destroy"), kind="kill", moment="after")).apply(
            replace(one, run_strategy="Halted"), "halted"
        )
    engine = host.program()
    assert engine.reconcile() == ()
    (entry,) = engine.world.books.load().entries
    assert (entry.phase, entry.spec.run_strategy, entry.owned) == ("stopped", "Halted", CpuSet())


def test_a_start_with_a_new_manifest_that_was_cut_off_leaves_the_old_one(host):
    engine = host.program()
    halted = spec(kind="VirtualMachine", run_strategy="Halted")
    engine.apply(halted, "the old one")
    before = engine.world.books.load()
    counting = Faults()
    host.copy(host.root.with_name("copy")).program(counting).apply(spec(vcpus=2), "the new one")
    with pytest.raises(Killed):
        host.program(Faults(at=counting.names.index("create"), kind="kill", moment="after")).apply(spec(vcpus=2), "the new one")
    engine = host.program()
    engine.reconcile()
    assert engine.world.books.load() == before
