"""One step at a time: what counts as done, what is recorded, what is taken back, and what is told when that fails."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from quietcore.engine.apply import Applier, describe, parse_scheduler
from quietcore.engine.undo import UndoStack
from quietcore.errors import InputError, OperationFailed, UndoFailed
from quietcore.host.cgroups import hierarchy
from quietcore.model import (
    Applied,
    CpuSet,
    MakeGroup,
    MoveProcess,
    MoveThread,
    SetAffinity,
    SetScheduler,
    SetValue,
    VmName,
)
from tests.shell.fake_host import FakeHost
from tests.shell.test_engine import spec

ROOT = "/sys/fs/cgroup"


@pytest.fixture
def host(tmp_path) -> FakeHost:
    one = FakeHost(tmp_path, cpus=6)
    one.fs.mkdir(f"{ROOT}/g")
    one.hypervisor._thread(100, 100, "qemu", "/")
    one.hypervisor._thread(100, 101, "worker", "/")
    return one


@pytest.fixture
def applier(host) -> Applier:
    return Applier(host.fs, host.threads, hierarchy(host.fs))


STEPS = {
    "a group": (MakeGroup(path=f"{ROOT}/new"), "", "present"),
    "CPUs": (SetValue(path=f"{ROOT}/g/cpuset.cpus", value="0,1-2", readback="cpus"), "", "0,1-2"),
    "a word": (SetValue(path=f"{ROOT}/g/cpu.weight", value="1"), "100", "1"),
    "a prefix": (SetValue(path=f"{ROOT}/g/cpu.max", value="50000", readback="prefix"), "max 100000", "50000"),
    "a thread": (MoveThread(path=f"{ROOT}/g/cgroup.threads", group="/g", tid=101), "/", "/g"),
    "a process": (MoveProcess(path=f"{ROOT}/g/cgroup.procs", group="/g", pid=100), "/", "/g"),
    "an affinity": (SetAffinity(tid=101, cpus=CpuSet.of(2)), "0-5", "2"),
    "a policy": (SetScheduler(tid=101, policy="fifo", priority=3), "other 0", "fifo 3"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_recorded_with_what_was_there_and_can_be_taken_back(host, applier, name):
    step, before, after = STEPS[name]
    empty = host.state()
    applied = applier.apply(step)
    assert applied == Applied(step=step, before=before, after=after)
    assert applier.apply(step) is None, "a step in force is left alone"
    applier.undo(applied)
    assert (host.state(), applier._read(step)) == (empty, before)
    applier.apply(step)
    assert describe(step).split()[0] in {"make", "write", "move", "allow", "give"}


def test_controllers_stay_on_because_others_may_use_them_by_then(host, applier):
    step = SetValue(path=f"{ROOT}/g/cgroup.subtree_control", value="+cpuset +cpu", readback="words")
    applied = applier.apply(step)
    applier.undo(applied)
    assert host.fs.read(step.path).split() == ["cpu", "cpuset"]


def test_a_write_that_reads_back_otherwise_is_a_failure(host, applier):
    host.fs.partitions = False
    step = SetValue(path=f"{ROOT}/g/cpuset.cpus.partition", value="isolated")
    with pytest.raises(OperationFailed, match="the kernel took it, but reads back 'isolated invalid"):
        applier.apply(step)


def test_what_the_kernel_refuses_is_told_with_the_file_and_the_value(applier):
    with pytest.raises(OperationFailed, match=r"write '1' to /sys/none: the kernel refused: No such file or directory"):
        applier.apply(SetValue(path="/sys/none", value="1"))


@pytest.mark.parametrize(
    "step",
    [MoveThread(path=f"{ROOT}/g/cgroup.threads", group="/g", tid=999), MoveProcess(path=f"{ROOT}/g/cgroup.procs", group="/g", pid=999)],
)
def test_a_thread_that_ended_before_its_move_is_no_failure(applier, step):
    assert applier.apply(step) is None
    applier.undo(Applied(step=step, before="/", after="/g"))


def test_a_group_that_vanished_under_a_living_thread_is_one(applier):
    with pytest.raises(OperationFailed, match="move thread 101 to /none"):
        applier.apply(MoveThread(path="/none/cgroup.threads", group="/none", tid=101))


def test_an_invalid_partition_goes_back_as_what_it_was_meant_to_be(host, applier):
    group = f"{ROOT}/g"
    step = SetValue(path=f"{group}/cpuset.cpus.partition", value="member")
    applier.undo(Applied(step=step, before="isolated invalid (Cpu list in cpuset.cpus not exclusive)", after="member"))
    assert host.fs.read(step.path).startswith("isolated")


@pytest.mark.parametrize("text", ["", "fifo", "fast 1", "fifo x"])
def test_a_recorded_policy_is_read_strictly(text):
    with pytest.raises(ValueError):  # noqa: PT011 - any of int's and ours
        parse_scheduler(text)
    assert parse_scheduler("rr 7") == ("rr", 7)


def broken(error: BaseException, **undos: Callable[[], None]) -> None:
    """An operation that did these things and then failed."""
    with UndoStack() as undo:
        for what, how in undos.items():
            undo.push(what.replace("_", " "), how)
        raise error


def test_what_was_done_is_undone_last_first_and_not_when_it_is_kept():
    done: list[int] = []
    with pytest.raises(OperationFailed, match="full; what had been done was undone"):
        broken(OSError("full"), one=lambda: done.append(1), two=lambda: done.append(2), three=lambda: done.append(3))
    assert done == [3, 2, 1]
    with UndoStack() as undo:
        undo.push("x", lambda: done.append(9))
        undo.keep()
    assert 9 not in done


@pytest.mark.parametrize("raised", [InputError("wrong"), KeyboardInterrupt(), ZeroDivisionError("ours")])
def test_what_is_no_fault_of_the_host_comes_out_as_it_is(raised):
    done: list[int] = []
    with pytest.raises(type(raised)):
        broken(raised, x=lambda: done.append(1))
    assert done == [1]


def test_an_undo_that_fails_does_not_keep_the_others_from_running():
    def fails() -> None:
        raise ValueError("odd")

    done: list[int] = []
    with pytest.raises(UndoFailed) as refusal:
        broken(OperationFailed("it broke"), the_first=lambda: done.append(1), the_second=fails)
    assert (done, str(refusal.value)) == ([1], "it broke; not undone: the second (odd)")


def irq(host: FakeHost, number: int, cpus: str) -> None:
    for path, text in ((f"/proc/irq/{number}/smp_affinity_list", cpus), (f"/sys/kernel/irq/{number}/actions", f"dev{number}")):
        host.fs.path(path).parent.mkdir(parents=True, exist_ok=True)
        host.fs.path(path).write_text(f"{text}\n")


def irqs(host: FakeHost) -> list[str]:
    return [host.fs.read(f"/proc/irq/{number}/smp_affinity_list").strip() for number in (24, 25, 26)]


def test_interrupts_leave_and_return_whatever_the_order_of_vms(host):
    for number, cpus in ((24, "0-5"), (25, "1"), (26, "1-2")):
        irq(host, number, cpus)
    engine = host.program()
    engine.apply(spec("a"), "text")
    assert irqs(host) == ["0,2-5", "0,2-5", "2"]
    engine.apply(spec("b"), "text")
    assert irqs(host) == ["0,3-5", "0,3-5", "0,3-5"]
    assert all(engine.verify(view).ok for view in engine.views())
    engine.delete(VmName(name="a"))
    assert irqs(host) == ["0-1,3-5", "1", "1"]
    engine.delete(VmName(name="b"))
    assert irqs(host) == ["0-5", "1", "1-2"]


def test_an_interrupt_that_the_kernel_keeps_is_told_and_no_error(host):
    irq(host, 24, "0-5")
    real = host.fs.write

    def write(path: str, text: str) -> None:
        if path.startswith("/proc/irq/"):
            raise OSError(5, "Input/output error")
        real(path, text)

    host.fs.write = write
    engine = host.program()
    engine.apply(spec("a"), "text")
    (view,) = engine.views()
    found = [(one.severity, one.code) for one in engine.verify(view).findings]
    assert found == [("info", "irq-allowed")]


def test_what_an_administrator_claims_for_others_stays(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    file = host.fs.path(f"{ROOT}/machine/cpuset.cpus.exclusive")
    file.write_text("1,5\n")
    engine.delete(VmName(name="a"))
    assert file.read_text().strip() == "5"
