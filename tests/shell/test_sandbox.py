"""Sandboxes on a fake host: the vCPUs follow the union of the containers' CPUs, and in the end the domain is as it was."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager

import pytest

from quietcore.engine import SandboxChange, Wanted
from quietcore.engine.sandbox import GUEST_FILE
from quietcore.errors import InputError, OperationFailed
from quietcore.model import CpuSet, Refusal, VmName, union
from tests.shell.fake_agent import Cared
from tests.shell.fake_host import FakeHost, Faults
from tests.shell.foreign import AGENT, PINS, foreign
from tests.shell.test_adopt import everything
from tests.shell.test_engine import KINDS, spec
from tests.shell.test_repin import Watched

OLD = VmName(name="old")


def cpus(**containers: str) -> dict[str, CpuSet]:
    return {name: CpuSet.parse(text) for name, text in containers.items()}


def create(engine, **containers: str):
    return engine.create_sandbox(Wanted(domain="old", containers=cpus(**containers)))


def places(engine) -> list[str]:
    return [str(thread.allowed) for thread in engine.observation(OLD).census.vcpus]


def helpers(engine) -> set[str]:
    return {str(thread.allowed) for thread in engine.observation(OLD).census.others if thread.role != "pit"}


def all_well(engine) -> bool:
    return all(engine.verify(view).ok for view in engine.views())


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> FakeHost:
    return FakeHost(tmp_path, cpus=8, **KINDS[request.param])


def test_a_sandbox_grows_moves_shrinks_empties_and_fills_again_and_ends_without_a_trace(host):
    foreign(host, vcpus=3)
    before = everything(host)
    engine = host.program()
    made = create(engine, web="2-3")
    assert isinstance(made, SandboxChange)
    assert (places(engine), helpers(engine)) == (["2", "3", "0-1,4-7"], {"0-1,4-7"})
    steps = [
        ({"db": "5"}, (), ["2", "3", "5"]),
        ({"web": "3,6"}, (), ["6", "3", "5"]),
        ({}, ("web",), ["0-4,6-7", "0-4,6-7", "5"]),
        ({}, ("db",), ["0-7", "0-7", "0-7"]),
        ({"web": "2,4,6"}, (), ["2", "4", "6"]),
    ]
    for put, removed, expected in steps:
        engine = host.program()
        change = engine.update_sandbox(OLD, cpus(**put), frozenset(removed))
        assert isinstance(change, SandboxChange)
        assert places(engine) == expected
        assert engine.world.books.load().owned == union(change.sandbox.containers.values())
        assert all_well(engine)
    assert engine.release(OLD)
    assert everything(host) == before


def test_beside_our_own_vms_only_the_pool_changes(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    foreign(host, vcpus=2)
    before = everything(host)
    create(engine, web="2")
    engine.update_sandbox(OLD, cpus(db="3"))
    assert [str(thread.allowed) for thread in engine.observation(VmName(name="a")).census.vcpus] == ["1"]
    assert helpers(engine) == {"0,4-7"}
    assert all_well(engine)
    engine.release(OLD)
    assert everything(host) == before


def test_each_thread_migrates_once_and_those_whose_cpu_stays_not_at_all(host):
    pid = foreign(host, vcpus=3, tune="")
    engine = host.program()
    create(engine, web="2-3", db="4")
    watched = Watched(host, [pid + 2, pid + 3, pid + 4])
    change = host.program(watched).update_sandbox(OLD, cpus(web="3,6"))
    assert change.moved == ((0, 2, 6),)
    assert list(watched.seen.values()) == [["2", "6"], ["3"], ["4"]]


def test_a_cpu_of_two_containers_counts_once(host):
    foreign(host)
    engine = host.program()
    create(engine, web="2-3", log="3")
    assert places(engine) == ["2", "3"]
    engine.update_sandbox(OLD, {}, frozenset({"web"}))
    assert places(engine)[1] == "3"
    assert engine.sandbox(OLD).containers == cpus(log="3")


def test_a_container_that_changes_nothing_of_the_union_writes_the_books_only(host):
    foreign(host)
    create(host.program(), web="2-3")
    counting = Faults()
    host.program(counting).update_sandbox(OLD, cpus(log="3"))
    assert counting.names == ["ledger"]
    assert host.program().sandbox(OLD).containers == cpus(web="2-3", log="3")


def test_the_guest_reads_which_of_its_cpus_back_which(host):
    foreign(host, vcpus=3, agent=AGENT)
    engine = host.program()
    assert create(engine, web="2-3").untold == ""
    engine.update_sandbox(OLD, cpus(web="3", db="6"))
    text = host.hypervisor.guest_files["old", GUEST_FILE]
    assert text.endswith("\n")
    told = json.loads(text)
    assert told["map"] == [{"pcpu": 3, "vcpu": 1}, {"pcpu": 6, "vcpu": 0}]
    assert told["unbacked"]["cpus"] == [2]
    assert [(one["id"], one["vcpus"]["list"]) for one in told["containers"]] == [("db", "0"), ("web", "1")]
    engine.release(OLD)
    told = json.loads(host.hypervisor.guest_files["old", GUEST_FILE])
    assert (told["map"], told["containers"], told["unbacked"]["list"]) == ([], [], "0-2")


def test_a_guest_that_cannot_be_told_does_not_hold_up_its_host(host):
    foreign(host)
    engine = host.program()
    assert create(engine, web="2").untold == "QEMU guest agent is not configured"
    assert places(engine)[0] == "2"


class Refusing(Faults):
    """Refuses the first change of one name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    @contextmanager
    def change(self, name, error):
        if name == self.name and name not in self.names:
            self.at = len(self.names)
        with super().change(name, error):
            yield


def test_a_guest_that_was_not_told_is_told_by_the_same_update_again(host):
    foreign(host, agent=AGENT)
    create(host.program(), web="2")
    assert host.program(Refusing("guest file")).update_sandbox(OLD, cpus(web="3")).untold == "injected"
    assert places(host.program())[0] == "3"
    assert '"pcpu": 2' in host.hypervisor.guest_files["old", GUEST_FILE]
    assert host.program().update_sandbox(OLD, {}).untold == ""
    assert '"pcpu": 3' in host.hypervisor.guest_files["old", GUEST_FILE]


@pytest.mark.parametrize(
    ("wanted", "constraints"),
    [
        ("0", ["cpu-reserved"]),
        ("1", ["cpu-free"]),
        ("9", ["cpu-online"]),
        ("2-5", ["vcpu-count"]),
        ("0-3,9", ["cpu-online", "cpu-reserved", "cpu-free", "vcpu-count"]),
    ],
)
def test_cpus_that_it_cannot_have_are_refused_with_all_reasons_and_nothing_changes(tmp_path, wanted, constraints):
    host = FakeHost(tmp_path, cpus=8)
    engine = host.program()
    engine.apply(spec("a"), "text")
    foreign(host, vcpus=3)
    before = everything(host)
    refused = create(engine, web=wanted)
    assert isinstance(refused, Refusal)
    assert [reason.constraint for reason in refused.reasons] == constraints
    assert everything(host) == before
    create(engine, web="7")
    before = everything(host)
    refused = engine.update_sandbox(OLD, cpus(web=wanted))
    assert isinstance(refused, Refusal)
    assert [reason.constraint for reason in refused.reasons] == constraints
    assert everything(host) == before


def test_the_last_cpu_of_the_pool_is_refused(tmp_path):
    host = FakeHost(tmp_path, cpus=2)
    foreign(host, vcpus=2, tune="")
    engine = host.program()
    create(engine, web="1")
    refused = engine.update_sandbox(OLD, cpus(web="0-1"))
    assert isinstance(refused, Refusal)
    assert places(engine) == ["1", "0"]


def test_what_is_no_sandbox_and_what_it_does_not_have_is_named(host):
    engine = host.program()
    engine.apply(spec("a"), "text")
    foreign(host)
    for act, words in (
        (lambda: engine.update_sandbox(VmName(name="a"), {}), "default/a is no sandbox"),
        (lambda: create(engine), "begins with a container that has CPUs"),
        (lambda: create(engine, web=""), "begins with a container that has CPUs"),
        (lambda: engine.create_sandbox(Wanted(domain="default_a", containers=cpus(web="3"))), "in the books already"),
    ):
        with pytest.raises(InputError, match=words):
            act()
    assert engine.update_sandbox(OLD, {}) is None
    create(engine, web="2")
    with pytest.raises(InputError, match="default/old has no container db"):
        engine.update_sandbox(OLD, {}, frozenset({"db"}))
    with pytest.raises(InputError, match=r"is a sandbox, whose CPUs are its containers'.*"):
        engine.repin(OLD)


def test_a_dry_run_tells_and_changes_nothing(host):
    foreign(host)
    before = everything(host)
    engine = host.program()
    planned = engine.create_sandbox(Wanted(domain="old", containers=cpus(web="4-5")), dry_run=True)
    assert [(one.pcpu, one.vcpu) for one in planned.sandbox.vcpus] == [(4, 0), (5, 1)]
    assert everything(host) == before
    create(engine, web="2")
    before = everything(host)
    assert engine.update_sandbox(OLD, cpus(web="3"), dry_run=True).moved == ((0, 2, 3),)
    assert everything(host) == before


@pytest.mark.parametrize("seen_by", ["the agent", "nobody"])
def test_plugged_vcpus_wait_on_the_pool_until_a_container_has_cpus_for_them(host, seen_by):
    foreign(host, vcpus=1, tune="")
    before = everything(host)
    engine = host.program()
    create(engine, web="2")
    cared = Cared(host)
    cared.settle()
    if seen_by == "the agent":
        cared.plug("old")
        assert cared.settle()[0] == "vcpu-plugged-in"
        assert places(engine) == ["2", "0-1,3-7"]
        assert all_well(engine)
    else:
        host.hypervisor.plug("old")
    change = engine.update_sandbox(OLD, cpus(db="5"))
    assert change.moved == ((1, None, 5),)
    assert places(engine) == ["2", "5"]
    assert all_well(engine)
    if seen_by == "the agent":
        cared.settle()
        cared.unplug("old")
        assert cared.settle()[0] == "vcpu-plugged-out"
        assert engine.world.books.load().owned == CpuSet.parse("2,5")
    else:
        host.hypervisor.unplug("old")
    assert isinstance(engine.update_sandbox(OLD, cpus(log="6")), Refusal)
    engine.update_sandbox(OLD, cpus(web="5"))
    assert places(engine) == ["5"]
    assert engine.world.books.load().owned == CpuSet.parse("5")
    engine.release(OLD)
    assert everything(host) == before


def test_a_failed_update_leaves_containers_and_vcpus_as_they_were(host):
    foreign(host, vcpus=2, tune=PINS)
    create(host.program(), web="2")
    before = host.state()
    with pytest.raises(OperationFailed):
        host.program(Refusing("pin vcpu 0")).update_sandbox(OLD, cpus(web="4-5"))
    assert host.state() == before
    assert host.program().sandbox(OLD).containers == cpus(web="2")


def test_a_rebuilt_ledger_knows_the_containers(host):
    foreign(host, vcpus=3)
    engine = host.program()
    create(engine, web="2-3")
    engine.update_sandbox(OLD, cpus(db="5"))
    before = engine.sandbox(OLD)
    (host.root / "state" / "ledger.json").unlink()
    engine.rebuild()
    assert engine.sandbox(OLD) == before
    engine.update_sandbox(OLD, {}, frozenset({"web"}))
    assert places(engine)[2] == "5"


class TestCommandLine:
    @pytest.fixture
    def host(self, quietcore, tmp_path) -> FakeHost:
        host = quietcore.on(FakeHost(tmp_path / "host", cpus=8))
        foreign(host, vcpus=3, agent=AGENT)
        return host

    def test_the_story_of_a_pod(self, quietcore, host):
        made = quietcore("sandbox", "create", "old", "--name", "pod7", "--container", "web=2-3")
        assert made.code == 0
        assert made.out.splitlines() == [
            "sandbox/pod7 created",
            "  VCPU   FROM       TO",
            "  0      the pool   CPU 2",
            "  1      the pool   CPU 3",
            "CONTAINER   CPUS   VCPUS",
            "web         2-3    0-1",
            "CPU   VCPU",
            "2     0",
            "3     1",
            "vCPUs 2 share the pool",
        ]
        answer = quietcore("sandbox", "update", "pod7", "--container", "db=4", "--container", "log=", "--remove", "web", "-o", "json")
        assert answer.code == 0
        assert answer.json == {
            "apiVersion": "quietcore.io/v1alpha1",
            "kind": "SandboxChange",
            "vm": {"namespace": "default", "name": "pod7"},
            "domain": "old",
            "cpus": {"list": "4", "cpus": [4]},
            "map": [{"pcpu": 4, "vcpu": 0}],
            "unbacked": {"list": "1-2", "cpus": [1, 2]},
            "containers": [
                {"id": "db", "cpus": {"list": "4", "cpus": [4]}, "vcpus": {"list": "0", "cpus": [0]}},
                {"id": "log", "cpus": {"list": "", "cpus": []}, "vcpus": {"list": "", "cpus": []}},
            ],
            "outcome": "updated",
            "moved": [{"vcpu": 0, "from": 2, "to": 4}, {"vcpu": 1, "from": 3, "to": None}],
            "guest": {"file": "/run/quietcore-sandbox.json", "told": True, "why": ""},
        }
        shown = quietcore("sandbox", "show", "pod7", "-o", "json").json
        assert shown == json.loads(host.hypervisor.guest_files["old", GUEST_FILE])
        assert quietcore("sandbox", "show", "pod7").out.splitlines()[-1] == "vCPUs 1-2 share the pool"
        assert quietcore("sandbox", "delete", "pod7").out == "sandbox/pod7 deleted\n"
        assert quietcore("sandbox", "show", "pod7").code == 2

    def test_refusals_and_wrong_words(self, quietcore, host):
        refused = quietcore("sandbox", "create", "old", "--container", "web=0,9")
        assert refused.code == 3
        assert refused.out.startswith("sandbox/old refused\n")
        told = quietcore("sandbox", "create", "old", "--container", "web=0,9", "-o", "json")
        assert (told.code, told.json["outcome"]) == (3, "refusal")
        assert [one["constraint"] for one in told.json["reasons"]] == ["cpu-online", "cpu-reserved"]
        wrong = quietcore(
            "sandbox", "create", "old", "--container", "web", "--container", "a=x", "--container", "b=1", "--container", "b=2"
        )
        assert wrong.code == 2
        assert [re.split(r"[:=(]", line)[1].strip() for line in wrong.err.splitlines()] == ["--container"] * 3
        both = quietcore("sandbox", "update", "old", "--container", "a=2", "--remove", "a")
        assert (both.code, "both given CPUs and removed" in both.err) == (2, True)
        assert quietcore("sandbox", "update", "none").code == 2
        assert quietcore("sandbox", "create", "none", "--container", "a=2").code == 2

    def test_a_guest_without_an_agent_is_noted(self, quietcore, host):
        host.hypervisor.end("old")
        foreign(host, name="plain", tune="")
        made = quietcore("sandbox", "create", "plain", "--container", "web=2")
        assert made.code == 0
        assert "note: the guest was not told: QEMU guest agent is not configured" in made.err
        dry = quietcore("sandbox", "update", "plain", "--container", "web=3", "--dry-run", "-o", "json").json
        assert (dry["outcome"], dry["guest"]) == ("would be updated", None)
