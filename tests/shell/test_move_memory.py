"""Memory that follows moved vCPUs on a fake host with two NUMA nodes: what is checked, what moves, what is reported."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quietcore.engine import Move
from quietcore.errors import OperationFailed
from quietcore.model import CpuSet, Refusal, VmName
from tests.shell.fake_host import Faults
from tests.shell.numa_host import NODE, PAGES, NumaHost
from tests.shell.test_engine import KINDS, spec
from tests.shell.test_repin import places

A = VmName(name="a")


@pytest.fixture(params=KINDS, ids=list(KINDS))
def host(request, tmp_path) -> NumaHost:
    host = NumaHost(tmp_path, **KINDS[request.param])
    host.program().apply(spec("a", vcpus=2), "text")
    assert places(host.program())[0] == ["1", "2"]
    return host


def memory(host):
    return host.fs.pages(host.hypervisor.pids["default_a"])


def bound(host):
    return {str(one) for one in host.state()["memory"]["default_a"][1].values()}


def test_memory_goes_to_the_node_of_the_new_cpus_and_is_counted(host):
    move = host.program().repin(A, cpus=CpuSet.parse("5-6"), memory=True)
    assert isinstance(move, Move)
    assert (str(move.memory.nodes), move.memory.before, move.memory.after) == ("1", {4096: 16384, 2 << 20: 8}, {})
    assert memory(host) == {size: {1: count} for size, count in PAGES.items()}
    assert bound(host) == (set() if host.bare else {"1\n"})  # only libvirt binds by groups
    engine = host.program()
    entry = engine.world.books.load().find(A)
    assert ({one.node for one in entry.plan.memory}, entry.moving) == ({1}, None)
    assert engine.verify(engine.view(A)).ok


def test_without_the_flag_it_stays(host):
    before = host.state()["memory"]
    host.program().repin(A, cpus=CpuSet.parse("5-6"))
    assert host.state()["memory"] == before
    assert {one.node for one in host.program().world.books.load().find(A).plan.memory} == {0}


def test_memory_can_follow_later_while_the_vcpus_stay(host):
    host.program().repin(A, cpus=CpuSet.parse("5-6"))
    move = host.program().repin(A, memory=True)
    assert isinstance(move, Move)
    assert (move.order, move.memory.after) == ((), {})
    assert memory(host) == {size: {1: count} for size, count in PAGES.items()}
    again = host.program().repin(A, memory=True)
    assert isinstance(again, Move)
    assert again.memory.before == {}


def test_pages_that_stay_are_told_apart_and_tried_again(host):
    host.threads.stuck = 3
    move = host.program().repin(A, cpus=CpuSet.parse("5-6"), memory=True)
    assert isinstance(move, Move)
    assert move.memory.after == {4096: 3, 2 << 20: 3}
    host.threads.stuck = 0
    host.program().repin(A, memory=True)
    assert memory(host) == {size: {1: count} for size, count in PAGES.items()}


def test_where_most_of_it_stays_everything_is_taken_back(host):
    before = host.state()
    host.threads.stuck = 10**6
    with pytest.raises(OperationFailed, match="could not be moved to node 1"):
        host.program().repin(A, cpus=CpuSet.parse("5-6"), memory=True)
    assert host.state() == before


def test_a_dry_run_says_what_would_move(host):
    before = host.state()
    move = host.program().plan_move(A, cpus=CpuSet.parse("5-6"), memory=True)
    assert isinstance(move, Move)
    assert (str(move.memory.nodes), move.memory.before, move.memory.after) == ("1", {4096: 16384, 2 << 20: 8}, None)
    assert host.state() == before


@pytest.mark.parametrize(
    ("xml", "constraint"),
    [
        ("<hostdev mode='subsystem' type='pci'/>", "vfio"),
        ("<interface type='hostdev'/>", "vfio"),
        ("<interface type='vhostuser'/>", "vhost-user"),
        ("<filesystem><driver type='virtiofs'/></filesystem>", "vhost-user"),
    ],
)
def test_memory_that_others_hold_is_refused(tmp_path, xml, constraint):
    host = NumaHost(tmp_path)
    host.program().apply(spec("a"), "text")
    host.hypervisor.xmls["default_a"] = host.hypervisor.xmls["default_a"].replace("<devices>", f"<devices>{xml}")
    before = host.state()
    answer = host.program().repin(A, cpus=CpuSet.of(5), memory=True)
    assert isinstance(answer, Refusal)
    assert [reason.constraint for reason in answer.reasons] == [constraint]
    assert host.state() == before


def test_missing_pages_are_refused_for_each_size_with_what_is_there(tmp_path):
    host = NumaHost(tmp_path)
    host.program().apply(spec("a"), "text")
    host.fs.path(f"{NODE}/node1/hugepages/hugepages-2048kB/free_hugepages").write_text("7\n")
    host.fs.path(f"{NODE}/node1/meminfo").write_text("Node 1 MemTotal: 4194304 kB\nNode 1 MemFree: 1024 kB\n")
    before = host.state()
    answer = host.program().repin(A, cpus=CpuSet.of(5), memory=True)
    assert isinstance(answer, Refusal)
    told = [(reason.constraint, reason.node, reason.wanted, reason.free) for reason in answer.reasons]
    assert told == [("pages-on-node", 1, str(64 << 20), str(1 << 20)), ("pages-on-node", 1, str(16 << 20), str(14 << 20))]
    assert host.state() == before


def test_a_guest_that_sees_its_nodes_keeps_its_memory(tmp_path):
    host = NumaHost(tmp_path)
    seeing = replace(
        spec("a"),
        cpu=replace(spec("a").cpu, numa_passthrough=True),
        memory=replace(spec("a").memory, guest_bytes=16 << 20, hugepage_bytes=2 << 20),
    )
    engine = host.program()
    assert engine.apply(seeing, "text").result == "created"
    answer = engine.repin(A, cpus=CpuSet.of(3), memory=True)
    assert isinstance(answer, Refusal)
    assert "guest-cells" in {reason.constraint for reason in answer.reasons}


def test_the_command_reports_memory_apart(quietcore, tmp_path):
    quietcore.on(NumaHost(tmp_path))
    assert quietcore("run", "-f", quietcore.manifest("a")).code == 0
    dry = quietcore("repin", "a", "--cpus", "5", "--move-memory", "--dry-run")
    assert dry.out.splitlines()[-1] == "  memory: 16384 pages of 4 KiB and 8 pages of 2 MiB would move to node 1"
    moved = quietcore("repin", "a", "--cpus", "5", "--move-memory", "-o", "json").json
    assert moved["memory"] == {
        "nodes": [1],
        "pages": [{"pageBytes": 4096, "elsewhere": 16384, "stayed": 0}, {"pageBytes": 2 << 20, "elsewhere": 8, "stayed": 0}],
    }
    again = quietcore("repin", "a", "--move-memory")
    assert again.out == "vm/a unchanged: it sits on 5 as well as it can\n  memory: all of it is on node 1\n"


def test_every_write_of_a_memory_move_has_an_injection_point(host):
    counting = Faults()
    host.program(counting).repin(A, cpus=CpuSet.parse("5-6"), memory=True)
    assert any(name.startswith("migrate") for name in counting.names)
