"""Hearing changes: inotify on a folder that stands for cgroups, and the process connector's messages and filter."""

from __future__ import annotations

import os
import struct
import threading

import pytest

from quietcore.host.fs import HostFs
from quietcore.host.watch import FileEvent, Inotify, ProcessEvent, ProcessEvents, filter_program, parse_process_event
from tests.prerequisites import missing

FORK, EXEC, COMM, EXIT = 0x1, 0x2, 0x200, 0x80000000


@pytest.fixture
def watched(tmp_path):
    (tmp_path / "group").mkdir()
    (tmp_path / "group" / "cpuset.cpus").write_text("1\n")
    watches = Inotify(HostFs(tmp_path))
    yield tmp_path / "group", watches
    watches.close()


def message(what: int, *data: int, time_ns: int = 5_000_000_000) -> bytes:
    return (
        struct.pack("=IHHII", 76, 3, 0, 0, 0) + struct.pack("=IIIIHH", 1, 1, 0, 0, 40, 0) + struct.pack("=IIQ6I", what, 0, time_ns, *data)
    )


def passes(program: list[tuple[int, int, int, int]], packet: bytes) -> bool:
    """What the kernel's machine for classic BPF does with the few instructions that we use."""
    position, word = 0, 0
    while True:
        code, jump_true, jump_false, constant = program[position]
        position += 1
        match code:
            case 0x20:
                word = int.from_bytes(packet[constant : constant + 4], "big")
            case 0x15:
                position += jump_true if word == constant else jump_false
            case 0x05:
                position += constant
            case 0x06:
                return constant != 0


def test_a_write_and_a_new_group_are_heard_once_each(watched):
    folder, watches = watched
    assert watches.keep(["/group", "/nowhere"]) == frozenset()
    assert watches.watched == {"/group"}
    for text in ("0-3\n", "0-3\n"):
        (folder / "cpuset.cpus").write_text(text)
    (folder / "vcpu2").mkdir()
    assert watches.events() == (
        FileEvent(path="/group", name="cpuset.cpus", change="written"),
        FileEvent(path="/group", name="vcpu2", change="made"),
    )
    assert watches.events() == ()


def test_a_path_that_is_no_longer_kept_is_not_heard(watched):
    folder, watches = watched
    watches.keep(["/group"])
    watches.keep([])
    (folder / "cpuset.cpus").write_text("0\n")
    assert watches.events() == ()
    assert watches.watched == frozenset()


def test_a_group_that_is_made_again_under_its_name_is_watched_again(watched):
    folder, watches = watched
    watches.keep(["/group"])
    (folder / "cpuset.cpus").unlink()
    folder.rmdir()
    assert FileEvent(path="/group", name="", change="removed") in watches.events()
    folder.mkdir()
    watches.keep(["/group"])
    (folder / "tasks").write_text("1\n")
    assert [event.name for event in watches.events()] == ["tasks", "tasks"]


def test_messages_of_the_connector_are_understood():
    assert parse_process_event(message(FORK, 10, 10, 12, 10, 0, 0)) == ProcessEvent(change="fork", tid=12, pid=10, at_s=5.0)
    assert parse_process_event(message(EXIT, 12, 10, 0, 17, 0, 0)) == ProcessEvent(change="exit", tid=12, pid=10, at_s=5.0)
    assert parse_process_event(message(COMM, 12, 10, 0, 0, 0, 0)) == ProcessEvent(change="comm", tid=12, pid=10, at_s=5.0)
    assert parse_process_event(message(EXEC, 12, 10, 0, 0, 0, 0)) is None
    assert parse_process_event(b"short") is None


@pytest.mark.parametrize("pids", [(), (10,), (7, 10, 4_000_000)])
def test_the_filter_lets_through_threads_of_these_processes_and_new_kernel_threads(pids):
    program = filter_program(frozenset(pids))
    ours = 10 in pids
    assert passes(program, message(FORK, 10, 10, 12, 10, 0, 0)) is ours
    assert passes(program, message(EXIT, 12, 10, 0, 17, 0, 0)) is ours
    assert passes(program, message(COMM, 12, 10, 0, 0, 0, 0)) is ours
    assert not passes(program, message(FORK, 10, 10, 90, 90, 0, 0))  # a process of its own
    assert not passes(program, message(EXEC, 12, 10, 0, 0, 0, 0))
    assert not passes(program, message(EXIT, 99, 99, 0, 17, 0, 0))
    assert passes(program, message(FORK, 2, 2, 95, 95, 0, 0))


def test_more_processes_than_a_filter_can_name_are_all_let_through():
    assert passes(filter_program(frozenset(range(1, 3000))), message(EXIT, 5000, 5000, 0, 0, 0, 0))


def test_the_kernel_tells_of_our_own_new_thread():
    try:
        connector = ProcessEvents()
    except OSError as err:
        missing(f"no process connector: {err}")
    try:
        connector.keep([os.getpid()])
        thread = threading.Thread(target=lambda: None)
        thread.start()
        tid = thread.native_id
        thread.join()
        heard = [(event.change, event.pid) for event in connector.events() if event.tid == tid]
        assert heard[0] == ("fork", os.getpid())
    finally:
        connector.close()
