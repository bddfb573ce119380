"""The ledger on disk: it is never half written, never believed when damaged, and never changed by two at once."""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from quietcore.engine import LedgerFile
from quietcore.engine.codec import encode
from quietcore.engine.ledger_file import FORMAT, _digest
from quietcore.errors import OperationFailed, PermissionProblem, TimedOut
from quietcore.machines import parse_spec
from quietcore.model import CpuSet, Entry, Ledger, Options, Plan, Refusal, VmName
from quietcore.placement import admit
from quietcore.pod import launcher_pod
from tests.shell.processes import started
from tests.vm_specs import dedicated, plan_for


def booked(name: str = "a", cpus: list[int | None] | None = None) -> Entry:
    spec = dedicated(name, len(cpus or [4, 5]))
    return Entry(spec=spec, digest="d", manifest="text", phase="running", plan=plan_for(spec, cpus or [4, 5]))


@pytest.fixture
def books(tmp_path) -> LedgerFile:
    file = LedgerFile(tmp_path / "state")
    with file.locked():
        file.save(Ledger(entries=(booked(),)))
    return file


def test_what_was_saved_is_loaded_and_is_the_groups_to_read(books):
    assert books.load() == Ledger(entries=(booked(),))
    assert stat.S_IMODE(books.path.stat().st_mode) & 0o027 == 0
    assert sorted(path.name for path in books.directory.iterdir()) == ["ledger.json", "ledger.lock", "vms"]


def test_qemus_user_comes_through_the_folder_of_the_ledger_whatever_the_umask_is(tmp_path):
    before = os.umask(0o077)
    try:
        with LedgerFile(tmp_path / "state").locked():
            pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("state", "state/vms")] == [0o755, 0o755]
    (tmp_path / "state").chmod(0o700)
    with LedgerFile(tmp_path / "state").locked():
        pass
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700  # somebody's decision


def test_no_file_is_an_empty_ledger(tmp_path):
    assert LedgerFile(tmp_path / "nothing").load() == Ledger()


def rewritten(text: str, **changes: object) -> bytes:
    """The file with some of its outer fields changed, and the checksum right."""
    document = json.loads(text) | changes
    return json.dumps(document | {"sha256": _digest(document["ledger"])}).encode()


def with_two_owners(text: str) -> bytes:
    first, second = encode(booked("a")), encode(booked("b"))
    return rewritten(text, ledger={"entries": [first, second], "irqs": {}, "unmovable_irqs": []})


DAMAGED = {
    "cut off": (lambda text: text[: len(text) // 2].encode(), "it is not JSON ("),
    "emptied": (lambda text: b"", "it is not JSON (Expecting value"),
    "binary": (lambda text: b"\xff\xfe" + text.encode(), "it is not text"),
    "a number without end": (lambda text: b"9" * 5000, "it is not JSON (Exceeds the limit"),
    "nested without end": (lambda text: b"[" * 100_000, "it is not JSON ("),
    "one letter changed": (
        lambda text: text.replace('"running"', '"deleting"').encode(),
        "its checksum is wrong: it was changed or cut off",
    ),
    "something else": (lambda text: b'{"kind": "Pod"}', "it is no ledger"),
    "a list": (lambda text: b"[]", "it is no ledger"),
    "newer": (lambda text: rewritten(text, format=FORMAT + 1), f"its format is {FORMAT + 1} and this quietcore writes {FORMAT}"),
    "older": (lambda text: rewritten(text, format=0), f"its format is 0 and this quietcore writes {FORMAT}"),
    "with a field that we do not know": (
        lambda text: rewritten(text, ledger={"entries": [], "colour": "red"}),
        "unknown field 'colour' in Ledger",
    ),
    "with a CPU that has two owners": (with_two_owners, "CPUs 4-5 of default/b have a second owner"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_ledger_that_cannot_be_trusted_is_refused_and_a_copy_kept(books, name):
    damage, reason = DAMAGED[name]
    content = damage(books.path.read_text())
    books.path.write_bytes(content)
    for _ in range(2):  # the second time finds the copy already there
        with pytest.raises(OperationFailed, match=re.escape(f"{books.path} is refused: {reason}")) as refusal:
            books.load()
    copies = [path for path in books.directory.iterdir() if path.name.startswith("ledger.json.refused-")]
    assert [path.read_bytes() for path in copies] == [content]
    assert str(copies[0]) in str(refusal.value)
    assert books.path.read_bytes() == content


def full_disk(*_args: object) -> None:
    raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("call", ["os.write", "os.fsync", "pathlib.Path.rename"])
def test_a_write_that_fails_leaves_the_old_ledger(books, monkeypatch, call):
    before = books.path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(call, full_disk)
        with pytest.raises(OperationFailed, match=r"ledger\.json cannot be written: No space left on device"):
            books.save(Ledger())
    assert books.path.read_bytes() == before
    books.save(Ledger())
    assert books.load() == Ledger()


def test_a_short_write_is_continued(books, monkeypatch):
    real = os.write
    monkeypatch.setattr("os.write", lambda descriptor, text: real(descriptor, bytes(text[:7])))
    books.save(Ledger(entries=(booked("b"),)))
    assert books.load() == Ledger(entries=(booked("b"),))


def test_what_stands_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OperationFailed, match=r"file/state cannot hold the ledger: Not a directory"),
        LedgerFile(tmp_path / "file/state").locked(),
    ):
        pytest.fail("was locked")
    (tmp_path / "state/ledger.json").mkdir(parents=True)
    with pytest.raises(OperationFailed, match=r"ledger\.json cannot be read: Is a directory"):
        LedgerFile(tmp_path / "state").load()


def test_without_the_right_to_write_nothing_is_locked(tmp_path, monkeypatch):
    def forbidden(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", forbidden)
    with pytest.raises(PermissionProblem, match="may not be written") as refusal, LedgerFile(tmp_path).locked():
        pytest.fail("was locked")
    assert refusal.value.hint == "run it as root"


def test_who_waits_too_long_is_told_who_to_look_for(books):
    waits = pytest.raises(TimedOut, match="another quietcore has been changing this host for 0 s")
    with books.locked(), waits as refusal, LedgerFile(books.directory).locked(timeout_s=0.05):
        pytest.fail("two hold the lock")
    assert "ledger.lock (fuser)" in refusal.value.hint
    with books.locked(timeout_s=0.05):
        pass


def requests(directory: Path, worker: int, count: int) -> None:
    """What `count` commands of one process do: every other one asks for a VM, the rest give theirs back."""
    books, machine = LedgerFile(directory), parse_spec("sockets=1,cores=12,threads=1,mem=8Gi")
    for number in range(count):
        spec = dedicated(f"w{worker}-{number // 2}", 1 + number % 3)
        with books.locked():
            inside = directory / "inside"
            inside.open("x").close()  # fails where somebody else is inside
            ledger = books.load()
            if ledger.find(spec.vm) is not None:
                ledger = ledger.without(spec.vm)
            else:
                answer = admit(launcher_pod(spec, strategy="dedicated", uid=spec.vm.name), machine, ledger, Options())
                if isinstance(answer, Plan):
                    ledger = ledger.with_entry(Entry(spec=spec, digest="", manifest="", phase="running", plan=answer))
                else:
                    assert isinstance(answer, Refusal)
            books.save(ledger)
            inside.unlink()


def test_two_hundred_requests_of_four_processes_give_no_cpu_two_owners(tmp_path):
    workers = [started(requests, tmp_path, worker, 50) for worker in range(4)]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert LedgerFile(tmp_path).load().owned <= CpuSet.parse("1-11")


def test_a_process_that_is_killed_inside_gives_the_lock_back(books):
    def hold() -> None:
        with books.locked():
            os._exit(9)

    started(hold).join()
    with books.locked(timeout_s=0.05):
        assert books.load().find(VmName(name="a")) is not None


def test_books_hold_each_vm_once_in_order_and_each_cpu_once():
    one = Ledger(entries=(booked("b", [6]),)).with_entry(booked("a"))
    assert [str(entry.vm) for entry in one.entries] == ["default/a", "default/b"]
    assert (str(one.owned), one.owner(5), one.owner(7)) == ("4-6", booked("a").plan, None)
    assert one.with_entry(replace(booked("a"), phase="deleting")).find(VmName(name="a")).phase == "deleting"
    assert one.without(VmName(name="a")) == Ledger(entries=(booked("b", [6]),))
    with pytest.raises(ValueError, match="CPUs 4 of default/c have a second owner"):
        one.with_entry(booked("c", [4]))
    with pytest.raises(ValueError, match="not listed once each in order"):
        Ledger(entries=(booked("a"), booked("a", [7])))
