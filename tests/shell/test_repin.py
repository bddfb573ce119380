"""Moving the vCPUs of running VMs on a fake host: where they end, what stays, what is refused."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest

from quietcore.engine import Move
from quietcore.engine.repin import move_to, repin
from quietcore.errors import InputError, OperationFailed, UndoFailed
from quietcore.model import CpuSet, GuestTopology, Plan, Realtime, Refusal, VmName
from tests.shell.fake_host import FakeHost, Faults, Killed
from tests.shell.test_engine import KINDS, spec

A, C = VmName(name="a"), VmName(name="c")


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> FakeHost:
    return FakeHost(tmp_path, cpus=6, **KINDS[request.param])


def places(engine, vm=A) -> tuple[list[str], set[str]]:
    census = engine.observation(vm).census
    helpers = (thread for thread in census.others if thread.role != "pit")  # the timer's thread follows vCPU 0
    return [str(thread.allowed) for thread in census.vcpus], {str(thread.allowed) for thread in helpers}


def test_vcpus_go_to_the_cpus_that_were_named_and_all_else_follows(host):
    engine = host.program()
    engine.apply(spec("a", vcpus=2), "text")
    engine.apply(spec("b"), "text")
    move = engine.repin(A, cpus=CpuSet.parse("4-5"))
    assert isinstance(move, Move)
    assert places(engine) == (["4", "5"], {"0-2"})
    assert places(engine, VmName(name="b")) == (["3"], {"0-2"})
    ledger = engine.world.books.load()
    assert (str(ledger.owned), ledger.find(A).moving) == ("3-5", None)
    assert all(engine.verify(view).ok for view in engine.views())


def test_a_shared_vcpu_leaves_the_cpus_that_a_dedicated_one_goes_to(host):
    engine = host.program()
    mixed = replace(spec("a", vcpus=2), cpu=replace(spec("a", vcpus=2).cpu, dedicated_vcpus=frozenset({0})))
    engine.apply(mixed, "text")
    assert places(engine) == (["1", "0,2-5"], {"0,2-5"})
    engine.repin(A, cpus=CpuSet.of(4))
    assert places(engine) == (["4", "0-3,5"], {"0-3,5"})
    assert all(engine.verify(view).ok for view in engine.views())


def test_a_moved_vm_leaves_no_trace_when_it_is_deleted(host):
    empty = host.state()
    engine = host.program()
    engine.apply(spec("a", vcpus=2), "text")
    engine.repin(A, cpus=CpuSet.parse("3-4"))
    engine.delete(A)
    after = host.state()
    after["groups"] = {name: text for name, text in after["groups"].items() if not name.endswith("/machine")}  # libvirt's own
    assert after == empty


def test_the_same_manifest_after_a_move_changes_nothing(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    engine.repin(A, cpus=CpuSet.of(5))
    before = host.state()
    assert engine.apply(spec("a"), "text").result == "unchanged"
    assert host.state() == before


class Watched(Faults):
    """Notes after every change of the host where the vCPU threads are."""

    def __init__(self, host: FakeHost, tids: list[int]) -> None:
        super().__init__()
        self.host = host
        self.seen: dict[int, list[str]] = {tid: [str(host.threads.affinity(tid))] for tid in tids}

    @contextmanager
    def change(self, name, error):
        with super().change(name, error):
            yield
        for tid, path in self.seen.items():
            place = str(self.host.threads.affinity(tid))
            if path[-1] != place:
                path.append(place)


def test_each_thread_goes_straight_from_its_old_to_its_new_cpu_and_the_others_stay(host):
    engine = host.program()
    engine.apply(spec("a", vcpus=3), "text")
    pid = host.hypervisor.pids["default_a"]
    watched = Watched(host, [pid + 2, pid + 3, pid + 4])
    move = host.program(watched).repin(A, cpus=CpuSet.parse("2-4"))
    assert isinstance(move, Move)
    assert move.order == (0,)
    assert list(watched.seen.values()) == [["1", "4"], ["2"], ["3"]]


def test_a_chain_of_moves_begins_at_its_free_end(host):
    engine = host.program()
    siblings = replace(spec("a"), cpu=replace(spec("a").cpu, topology=GuestTopology(threads=2)))
    engine.apply(siblings, "text")
    pid = host.hypervisor.pids["default_a"]
    watched = Watched(host, [pid + 2, pid + 3])
    move = host.program(watched).repin(A, cpus=CpuSet.parse("2-3"))
    assert isinstance(move, Move)
    assert move.order == (1, 0)
    assert list(watched.seen.values()) == [["1", "2"], ["2", "3"]]


def rotated(plan: Plan) -> Plan:
    """Each vCPU on the CPU of the next one."""
    pcpus = [vcpu.pcpu for vcpu in plan.vcpus]
    vcpus = (replace(vcpu, pcpu=cpu, core=cpu) for vcpu, cpu in zip(plan.vcpus, pcpus[1:] + pcpus[:1], strict=True))
    return replace(plan, vcpus=tuple(vcpus))


def rotate(engine) -> None:
    ledger = engine.world.books.load()
    entry = ledger.find(A)
    with engine.world.books.locked():
        repin(engine.world, engine.machine(ledger), ledger, (move_to(entry, entry.plan, rotated(entry.plan)),))


@pytest.mark.parametrize("vcpus", [2, 3])
def test_vcpus_that_swap_their_cpus_go_straight_there_and_have_partitions_again(host, vcpus):
    engine = host.program()
    engine.apply(spec("a", vcpus=vcpus), "text")
    before = places(engine)[0]
    pid = host.hypervisor.pids["default_a"]
    watched = Watched(host, [pid + 2 + vcpu for vcpu in range(vcpus)])
    rotate(host.program(watched))
    assert places(engine)[0] == before[1:] + before[:1]
    assert list(watched.seen.values()) == [[old, new] for old, new in zip(before, before[1:] + before[:1], strict=True)]
    assert engine.verify(engine.view(A)).ok
    counting = Faults()
    host.program(counting).reconcile()
    assert not [name for name in counting.names if name.startswith("write")]


def test_threads_that_somebody_moved_away_are_moved_all_the_same(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    pid = host.hypervisor.pids["default_a"]
    vcpu, helpers = host.fs._group(pid + 2), host.fs._group(pid)
    for tid, group in ((pid + 2, helpers), (pid + 1, vcpu)):
        host.fs.set_group(pid, tid, group)
    engine.repin(A, cpus=CpuSet.of(4))
    assert places(engine) == (["4"], {"0-3,5"})
    assert all(engine.verify(view).ok for view in engine.views())


def test_libvirts_books_follow_the_vcpus(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    engine.repin(A, cpus=CpuSet.of(4))
    assert host.hypervisor.pins["default_a"]["vcpupin", 0] == CpuSet.of(4)


def test_a_dry_run_moves_nothing(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    before = host.state()
    move = engine.plan_move(A, cpus=CpuSet.of(4))
    assert isinstance(move, Move)
    assert (str(move.here.dedicated), str(move.there.dedicated), move.order) == ("1", "4", (0,))
    assert host.state() == before


@pytest.mark.parametrize(
    ("cpus", "constraints"),
    [
        ("0", ["cpu-reserved"]),
        ("2", ["cpu-free"]),
        ("9", ["cpu-online"]),
        ("3-4", ["cpu-count"]),
        ("0,2,9", ["cpu-online", "cpu-reserved", "cpu-free", "cpu-count"]),
    ],
)
def test_a_list_with_faults_is_refused_with_all_of_them(tmp_path, cpus, constraints):
    host = FakeHost(tmp_path, cpus=6)
    engine = host.program()
    engine.apply(spec("a"), "text")
    engine.apply(spec("b"), "text")
    before = host.state()
    answer = engine.repin(A, cpus=CpuSet.parse(cpus))
    assert isinstance(answer, Refusal)
    assert [reason.constraint for reason in answer.reasons] == constraints
    assert host.state() == before


def test_a_vm_that_sits_as_well_as_it_can_stays(tmp_path):
    host = FakeHost(tmp_path, cpus=6)
    engine = host.program()
    engine.apply(spec("a"), "text")
    before = host.state()
    move = engine.repin(A)
    assert isinstance(move, Move)
    assert move.order == ()
    assert host.state() == before


def test_better_joins_guest_siblings_that_were_spread(tmp_path):
    host = FakeHost(tmp_path, cpus=8, threads_per_core=2)
    engine = host.program()
    siblings = replace(spec("c"), cpu=replace(spec("c").cpu, topology=GuestTopology(threads=2)))
    engine.apply(spec("a"), "text")
    engine.apply(spec("b"), "text")
    engine.apply(siblings, "text")
    engine.repin(VmName(name="c"), cpus=CpuSet.parse("5-6"))
    move = engine.repin(VmName(name="c"))
    assert isinstance(move, Move)
    assert str(move.there.dedicated) == "4-5"
    assert places(engine, VmName(name="c"))[0] == ["4", "5"]


def test_kernel_threads_are_above_real_time_vcpus_on_the_new_cpus_and_as_before_on_the_old_ones(host):
    for tid, comm in ((11, "ksoftirqd/1"), (12, "ksoftirqd/2"), (13, "rcuc/2")):
        folder = host.fs.path(f"/proc/{tid}")
        folder.mkdir()
        (folder / "comm").write_text(comm + "\n")
    engine = host.program()
    engine.apply(replace(spec(), cpu=replace(spec().cpu, realtime=Realtime(mask="0", vcpus=frozenset({0}), priority=3))), "text")
    engine.repin(A, cpus=CpuSet.of(2))
    assert [host.threads.scheduler(tid) for tid in (11, 12, 13)] == [("other", 0), ("fifo", 4), ("fifo", 4)]
    engine.delete(A)
    assert [host.threads.scheduler(tid) for tid in (11, 12, 13)] == [("other", 0)] * 3


def test_what_cannot_be_moved_says_why(host):
    engine = host.program()
    assert engine.repin(A) is None
    engine.apply(replace(spec(), cpu=replace(spec().cpu, dedicated=False)), "text")
    with pytest.raises(InputError, match="no CPUs of its own"):
        engine.repin(A)
    engine.apply(replace(spec("h"), kind="VirtualMachine", run_strategy="Halted"), "text")
    with pytest.raises(InputError, match="does not run"):
        engine.repin(VmName(name="h"))


def test_a_move_that_libvirt_refuses_is_undone(host):
    engine = host.program()
    engine.apply(spec("a", vcpus=2), "text")
    before = host.state()
    counting = Faults()
    host.program(counting).repin(A, cpus=CpuSet.parse("3-4"))
    pinned = counting.names.index("pin vcpu 0")
    host.program().repin(A, cpus=CpuSet.parse("1-2"))
    with pytest.raises(OperationFailed):
        host.program(Faults(at=pinned)).repin(A, cpus=CpuSet.parse("3-4"))
    assert host.state() == before


@pytest.mark.parametrize("strategy", ["dedicated", "whole"])
def test_a_move_away_from_an_offline_cpu_is_undone_or_done_wherever_it_is_cut_off(host, tmp_path_factory, strategy):
    one = spec("c", vcpus=1, strategy=strategy)
    host.program().apply(one, "text")
    (home,) = host.program().view(C).entry.owned
    host.fs.switch(home, on=False)
    with suppress(OperationFailed):  # that a CPU of it is offline is told
        host.program().apply(one, "text")
    waits, counting, copies = vcpu_of_c(host), Faults(), tmp_path_factory.mktemp("copies")
    host.copy(copies / "counting").program(counting).repin(C, cpus=CpuSet.of(5))
    found = set()
    for at in range(len(counting.names)):
        other = host.copy(copies / str(at))
        with suppress(OperationFailed, UndoFailed, Killed):
            other.program(Faults(at=at, kind=("error", "kill")[at % 2], moment="after")).repin(C, cpus=CpuSet.of(5))
        with suppress(OperationFailed):
            other.program().apply(one, "text")
        entry = other.program().view(C).entry
        assert entry.moving is None
        found.add((str(entry.owned), str(vcpu_of_c(other))))
        other.fs.switch(home, on=True)
        other.program().apply(one, "text")
        assert vcpu_of_c(other) == entry.owned
    assert found == {(str(home), str(waits)), ("5", "5")}


def vcpu_of_c(host):
    (vcpu,) = host.program().observation(C).census.vcpus
    return vcpu.allowed
