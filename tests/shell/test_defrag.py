"""Making room on a fake host: who moves, that all of it happens or nothing, and what is said."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest

from quietcore.engine import Defrag
from quietcore.errors import InputError, OperationFailed, UndoFailed
from quietcore.model import CpuSet, GuestTopology, Refusal, VmName, VmSpec
from tests.shell.fake_host import FakeHost, Faults
from tests.shell.test_engine import KINDS, spec
from tests.shell.test_repin import Watched, places


def scattered(root, **kind) -> FakeHost:
    """Three cores of four threads: the first one the host's, on the second a and b, on the third c, which has two vCPUs."""
    host = FakeHost(root, cpus=12, threads_per_core=4, **kind)
    engine = host.program()
    for one in (spec("a"), spec("b"), spec("gone", vcpus=2), spec("c", vcpus=2)):
        engine.apply(one, "text")
    engine.delete(VmName(name="gone"))
    return host


def whole_cores(name: str = "w", vcpus: int = 4) -> VmSpec:
    """A VM that takes whole cores only."""
    one = spec(name, vcpus)
    return replace(one, cpu=replace(one.cpu, thread_policy="require"))


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> FakeHost:
    host = scattered(tmp_path, **KINDS[request.param])
    assert where(host) == {"a": ["4"], "b": ["5"], "c": ["8", "9"]}
    return host


def where(host: FakeHost) -> dict[str, list[str]]:
    engine = host.program()
    return {entry.vm.name: places(engine, entry.vm)[0] for entry in engine.world.books.load().entries}


def test_the_fewest_vcpus_move_and_the_vm_that_did_not_fit_runs(host):
    engine = host.program()
    assert engine.apply(whole_cores(), "text").result == "refused"
    answer = engine.defrag([whole_cores()])
    assert isinstance(answer, Defrag)
    assert (answer.room.cost, answer.room.at_least) == (2, 2)
    assert where(host) == {"a": ["10"], "b": ["11"], "c": ["8", "9"]}
    assert {entry.moving for entry in engine.world.books.load().entries} == {None}
    assert all(engine.verify(view).ok for view in engine.views())
    assert {str(cpus) for entry in ("a", "b", "c") for cpus in places(engine, VmName(name=entry))[1]} == {"0-7"}
    started = engine.apply(whole_cores(), "text")
    assert (started.result, started.plan) == ("created", answer.room.plans[0])
    assert all(engine.verify(view).ok for view in engine.views())


def test_several_vms_of_one_manifest_get_room_together(host):
    engine = host.program()
    wanted = [whole_cores(), spec("one"), spec("two")]
    assert isinstance(engine.plan_defrag(wanted), Refusal)
    answer = engine.defrag(wanted[:1])
    assert isinstance(answer, Defrag)
    assert [engine.apply(one, "text").result for one in wanted] == ["created", "refused", "refused"]


def test_each_thread_goes_straight_from_its_old_to_its_new_cpu(host):
    tids = [host.hypervisor.pids["default_a"] + 2, host.hypervisor.pids["default_b"] + 2, host.hypervisor.pids["default_c"] + 2]
    watched = Watched(host, tids)
    host.program(watched).defrag([whole_cores()])
    assert list(watched.seen.values()) == [["4", "10"], ["5", "11"], ["8"]]


def test_helper_threads_leave_every_new_cpu_before_the_first_vcpu_comes(host):
    helpers = {thread.tid for name in ("a", "b", "c") for thread in host.program().observation(VmName(name=name)).census.others}
    helpers -= {pid + 91 for pid in host.hypervisor.pids.values()}  # the timers' threads follow vCPU 0
    arrived = CpuSet()

    class Together(Faults):
        @contextmanager
        def change(self, name, error):
            nonlocal arrived
            with super().change(name, error):
                yield
            vcpus = [host.hypervisor.pids[f"default_{name}"] + 2 for name in ("a", "b")]
            arrived = CpuSet.from_iterable(cpu for tid in vcpus for cpu in host.threads.affinity(tid)) & CpuSet.of(10, 11)
            if arrived:
                assert all(host.threads.affinity(tid).isdisjoint(arrived) for tid in helpers)

    host.program(Together()).defrag([whole_cores()])
    assert arrived == CpuSet.of(10, 11)


def test_what_fits_moves_nobody(host):
    before = host.state()
    answer = host.program().defrag([spec("w")])
    assert isinstance(answer, Defrag)
    assert (answer.steps, len(answer.room.plans)) == ((), 1)
    assert host.state() == before


def test_a_dry_run_moves_nothing(host):
    before = host.state()
    answer = host.program().plan_defrag([whole_cores()])
    assert isinstance(answer, Defrag)
    assert len(answer.steps) == 2
    assert host.state() == before


def test_where_no_moves_make_room_nothing_moves(host):
    before = host.state()
    answer = host.program().defrag([whole_cores(vcpus=8)])
    assert isinstance(answer, Refusal)
    assert answer.reasons[-1].constraint == "no-moves"
    assert host.state() == before


def test_a_vm_that_lacks_something_other_than_cpus_gets_no_search(host, monkeypatch):
    one = spec("w")
    huge = replace(one, cpu=replace(one.cpu, dedicated=False), memory=replace(one.memory, hugepage_bytes=2 << 20))
    monkeypatch.setattr("quietcore.placement.defrag.move", lambda *_args, **_options: pytest.fail("a move was looked for"))
    answer = host.program().plan_defrag([huge])
    assert isinstance(answer, Refusal)
    assert [reason.constraint for reason in answer.reasons] == ["pages-on-node", "no-moves"]


def test_a_vm_that_runs_has_its_room(host):
    with pytest.raises(InputError, match="default/a runs"):
        host.program().defrag([spec("a")])


def test_a_vm_that_would_sit_worse_stays(tmp_path):
    """One vCPU of `pair` would be enough, but its guest core would be split: two others move."""
    host = FakeHost(tmp_path, cpus=12, threads_per_core=4)
    engine = host.program()
    pair = replace(spec("pair"), cpu=replace(spec("pair").cpu, topology=GuestTopology(threads=2)))
    for one in (pair, spec("a"), spec("b")):
        engine.apply(one, "text")
    engine.repin(VmName(name="pair"), cpus=CpuSet.parse("4-5"))
    engine.repin(VmName(name="a"), cpus=CpuSet.of(8))
    engine.repin(VmName(name="b"), cpus=CpuSet.of(9))
    answer = engine.plan_defrag([whole_cores()])
    assert isinstance(answer, Defrag)
    assert answer.room.cost == 2
    assert [len(step.there.dedicated) for step in answer.steps] in ([2], [1, 1])
    assert all(step.there.dedicated != CpuSet.parse("5") for step in answer.steps)


def test_when_the_second_vm_cannot_move_the_first_one_is_back(host):
    before, places_before = host.state(), where(host)
    moves = Faults()
    host.program(moves).defrag([whole_cores()])
    for entry, cpu in (("a", 4), ("b", 5)):
        host.program().repin(VmName(name=entry), cpus=CpuSet.of(cpu))
    assert host.state() == before
    second = [number for number, name in enumerate(moves.names) if name == "pin vcpu 0"][1]
    with pytest.raises(OperationFailed):
        host.program(Faults(at=second)).defrag([whole_cores()])
    assert (host.state(), where(host)) == (before, places_before)
    assert all(host.program().verify(view).ok for view in host.program().views())


def test_what_cannot_be_taken_back_is_named_and_done_by_the_next_command(tmp_path):
    host = scattered(tmp_path)
    before = host.state()
    vcpu = f"qemu-{host.hypervisor.pids['default_b']}-default_b.libvirt-qemu/vcpu0/cpuset.cpus.exclusive"
    with pytest.raises(UndoFailed, match="default/b") as failed:
        host.program(Lost(vcpu)).defrag([whole_cores()])
    assert "default/a" not in failed.value.message
    assert "next quietcore command" in failed.value.hint
    host.program().reconcile()
    assert host.state() == before


class Lost(Faults):
    """A file that takes one more write and then none, and a hypervisor that refuses the second VM."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path, self.writes, self.pins = path, 0, 0

    @contextmanager
    def change(self, name, error):
        self.writes += self.path in name
        self.pins += name == "pin vcpu 0"
        if (name == "pin vcpu 0" and self.pins == 2) or (self.path in name and self.writes > 1):
            raise error()
        with super().change(name, error):
            yield


CORES = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: w
  annotations: {quietcore.io/thread-policy: require}
spec:
  domain:
    cpu: {cores: %d, dedicatedCpuPlacement: true}
    memory: {guest: 64Mi}
    devices: {}
"""


@pytest.fixture
def command(quietcore, tmp_path):
    """The command line on a scattered host, with a manifest of a VM that takes whole cores."""
    quietcore.on(scattered(tmp_path))
    quietcore.big = tmp_path / "w.yaml"
    quietcore.big.write_text(CORES % 4)
    return quietcore


def test_the_command_explains_the_plan_and_then_carries_it_out(command):
    dry = command("defrag", "-f", command.big, "--dry-run")
    assert dry.code == 0
    assert [" ".join(line.split()) for line in dry.out.splitlines()[:5]] == [
        "2 vCPUs would move (the fewest that make room)",
        "VM VCPU FROM TO WHY",
        "default/a 0 CPU 4 CPU 10 CPU 4 is for default/w, vCPU 0",
        "default/b 0 CPU 5 CPU 11 CPU 5 is for default/w, vCPU 1",
        "then",
    ]
    assert dry.out.splitlines()[5].startswith("default/w: fits, strategy dedicated, 4 CPUs of its own (4-7)")
    done = command("defrag", "-f", command.big, "--yes", "-o", "json").json
    assert (done["kind"], done["outcome"], done["cost"], done["atLeast"]) == ("Defrag", "moves", 2, 2)
    assert [(one["vm"]["name"], one["vcpus"][0]["from"], one["vcpus"][0]["to"]) for one in done["moves"]] == [("a", 4, 10), ("b", 5, 11)]
    assert done["items"][0]["outcome"] == "plan"
    again = command("defrag", "-f", command.big, "--yes")
    assert (again.code, again.out.splitlines()[0]) == (0, "nothing has to move")
    assert command("run", "-f", command.big).code == 0


def test_the_command_says_why_no_room_can_be_made(command):
    command.big.write_text(CORES % 8)
    told = command("defrag", "-f", command.big, "--yes")
    assert (told.code, told.out.splitlines()[0]) == (3, "no room can be made")
    assert "no-moves" in told.out
    assert command("defrag", "-f", command.big, "--dry-run", "-o", "json").json["outcome"] == "refusal"
