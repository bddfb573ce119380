"""A fault before and after every single write: after it the host is as before the operation or as after it, never between."""

from __future__ import annotations

import contextlib
import inspect

import pytest

from quietcore.engine import Wanted
from quietcore.engine.world import Hypervisor
from quietcore.errors import OperationFailed, UndoFailed
from quietcore.host.fs import HostFs
from quietcore.host.threads import ThreadControl
from quietcore.model import CpuSet, VmName
from tests.shell.fake_agent import begun
from tests.shell.fake_host import FakeHost, Faults, Killed, again
from tests.shell.foreign import AGENT, foreign
from tests.shell.numa_host import NumaHost
from tests.shell.test_defrag import scattered, whole_cores
from tests.shell.test_engine import KINDS, spec
from tests.shell.test_repin import rotate
from tests.shell.writes import heard

A, B, OLD = VmName(name="a"), VmName(name="b"), VmName(name="old")
OPERATIONS = {
    "run": (lambda engine: engine.apply(spec("a"), "text"), ()),
    "run beside another": (lambda engine: engine.apply(spec("a"), "text"), ("b",)),
    "delete": (lambda engine: engine.delete(A), ("a",)),
    "delete beside another": (lambda engine: engine.delete(A), ("a", "b")),
    "repin": (lambda engine: engine.repin(A, cpus=CpuSet.of(3)), ("a", "b")),
    "swap": (rotate, ("two",)),
    "move memory": (lambda engine: engine.repin(A, cpus=CpuSet.of(5), memory=True), ("numa", "a")),
    "defrag": (lambda engine: engine.defrag([whole_cores()]), ("scattered",)),
    "adopt": (lambda engine: engine.adopt(Wanted(domain="old")), ("b", "foreign")),
    "sandbox create": (lambda engine: engine.create_sandbox(Wanted(domain="old", containers={"c": CpuSet.of(3)})), ("b", "guest")),
    "sandbox grows": (lambda engine: engine.update_sandbox(OLD, {"d": CpuSet.of(2)}), ("b", "sandbox")),
    "sandbox empties": (lambda engine: engine.update_sandbox(OLD, {"c": CpuSet()}), ("b", "sandbox")),
    "release": (lambda engine: engine.release(OLD), ("b", "adopted")),
    "agent start": (begun, ("a", "ended", "strayed", "orphan")),
}


def reconciled(host: FakeHost, faults: Faults | None = None) -> None:
    """The pass that `quietcore agent --once` makes."""
    host.program(faults).reconcile()


def carried_out(operation: str, host: FakeHost, faults: Faults) -> None:
    """Carry out an operation in which any change can fail: of the host, of libvirt, of the books, of any file."""
    act = OPERATIONS[operation][0]
    with heard(faults.file):
        if act is begun:
            begun(host, faults)
        else:
            act(host.program(faults))


def recovered(operation: str, host: FakeHost) -> None:
    """What comes after an operation that was cut off."""
    (begun if operation == "agent start" else reconciled)(host)


def prepared(root, kind, names) -> FakeHost:
    """A host with these VMs at `root`."""
    return again(root, made, kind, names)


def made(root, kind, names) -> FakeHost:
    root.mkdir()
    host_type = scattered if "scattered" in names else NumaHost if "numa" in names else FakeHost
    host = host_type(root, **KINDS[kind])
    for name in names:
        match name:
            case "foreign":
                foreign(host, vcpus=1)
            case "adopted":
                foreign(host, vcpus=1)
                host.program().adopt(Wanted(domain="old"))
            case "guest":
                foreign(host, vcpus=2, agent=AGENT)
            case "sandbox":
                foreign(host, vcpus=2, agent=AGENT)
                host.program().create_sandbox(Wanted(domain="old", containers={"c": CpuSet.of(3)}))
            case "two":
                host.program().apply(spec("a", vcpus=2), "text")
            case "ended" | "strayed" | "orphan":
                troubled(host, name)
            case "scattered" | "numa":
                pass
            case _:
                host.program().apply(spec(name), "text")
    return host


def troubled(host: FakeHost, how: str) -> None:
    """What an agent finds at its start, and nobody has looked at."""
    if how == "ended":
        host.program().apply(spec("ended", kind="VirtualMachine", run_strategy="Always"), "text")
        host.hypervisor.end("default_ended")
    elif how == "strayed":
        pid = host.hypervisor.pids["default_a"]
        host.fs.set_group(pid, pid + 2, host.fs._group(pid))
    else:
        for group in ("/quietcore", "/quietcore/default_gone"):
            if not host.fs.is_dir(host.fs.mount + group):
                host.fs.mkdir(host.fs.mount + group)


def snapshot(host: FakeHost) -> dict[str, object]:
    state = host.state()
    mounted = str(host.fs.path(host.fs.mount).relative_to(host.root))
    shells = {f"{mounted}/machine", f"{mounted}/quietcore"}  # what is empty and claims nothing may stay
    state["groups"] = {name: text for name, text in state["groups"].items() if name not in shells or text}
    return state


def probes(names, number) -> bool:
    """Whether a write is one of the probe's: the first enables cpuset at the root, just before the scratch group is made."""
    return any("quietcore-probe" in name for name in names[number : number + 2])


def moments(name: str) -> tuple[str, ...]:
    """A file's change is told before it happens; what comes after it is before the next one."""
    return ("before",) if name.startswith(("open", "os.")) else ("before", "after")


DERIVED = {"agent start", "defrag", "move memory", "sandbox create", "sandbox empties", "sandbox grows", "swap"}
"""These do what `run`, `repin` or `adopt` does and a little more, so that not every kind of host is needed again."""
CASES = [
    (kind, name)
    for kind in KINDS
    for name in OPERATIONS
    if name not in DERIVED or kind in {"v1 libvirt", "v2 libvirt partitions", "v2 bare threaded"}
]


@pytest.mark.parametrize(("kind", "operation"), CASES)
def test_a_refused_write_is_undone_or_reported(tmp_path, kind, operation):
    names = OPERATIONS[operation][1]
    host = prepared(tmp_path / "h", kind, names)
    before = snapshot(host)
    counting = Faults()
    carried_out(operation, host, counting)
    after = snapshot(host)
    assert counting.names
    for number, name in enumerate(counting.names):
        if probes(counting.names, number):
            continue  # a probe that fails is an answer: see test_a_probe_that_fails_means_a_weaker_mechanism
        for moment in moments(name):
            host = prepared(tmp_path / "h", kind, names)
            with contextlib.suppress(OperationFailed, UndoFailed):
                carried_out(operation, host, Faults(at=number, moment=moment))
            if snapshot(host) not in (before, after):
                recovered(operation, host)  # an operation that could not be undone said so: the next command ends it
            now = snapshot(host)
            if "entry.json" in name or name == "os.mkdir default_old":
                now["files"] = after["files"]  # the copy of an entry is best effort: without it `ledger rebuild` knows less
            assert now in (before, after), f"{moment} {name}"


@pytest.mark.parametrize(("kind", "operation"), CASES)
def test_a_killed_operation_is_finished_or_undone_by_the_next_command(tmp_path, kind, operation):
    names = OPERATIONS[operation][1]
    host = prepared(tmp_path / "h", kind, names)
    before = snapshot(host)
    counting = Faults()
    carried_out(operation, host, counting)
    after = snapshot(host)
    for number, name in enumerate(counting.names):
        for moment in moments(name):
            host = prepared(tmp_path / "h", kind, names)
            with pytest.raises(Killed):
                carried_out(operation, host, Faults(at=number, kind="kill", moment=moment))
            recovered(operation, host)
            assert snapshot(host) in (before, after), f"{moment} {name}"


def test_a_probe_that_fails_means_a_weaker_mechanism(tmp_path):
    counting = Faults()
    prepared(tmp_path / "h", "v2 libvirt partitions", ()).program(counting).apply(spec("a"), "text")
    probing = [number for number, name in enumerate(counting.names) if probes(counting.names, number) and "rmdir" not in name]
    assert probing
    for number in probing:
        host = prepared(tmp_path / "h", "v2 libvirt partitions", ())
        engine = host.program(Faults(at=number))
        engine.apply(spec("a"), "text")
        view = engine.view(A)
        assert view is not None
        assert view.entry.mechanism == "threaded"
        assert engine.verify(view).ok


READS = {
    Hypervisor: {"version", "find", "domains", "threads", "xml"},
    ThreadControl: {"affinity", "scheduler"},
    HostFs: {"path", "read", "read_or", "exists", "is_dir", "listdir"},
}
"""What changes nothing; all else that the engine may ask of a host is a write."""


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (part, name)
        for part, reads in READS.items()
        for name, _method in inspect.getmembers(part, inspect.isfunction)
        if not name.startswith("_") and name not in reads
    ],
)
def test_every_write_of_a_host_has_an_injection_point(tmp_path, part, name):
    host = NumaHost(tmp_path, **KINDS["v2 libvirt partitions"])
    pid = foreign(host, agent=AGENT)
    path = f"{host.fs.mount}/{'g' if name == 'mkdir' else 'cpuset.cpus'}"
    values = {
        "xml": "",
        "name": "old",
        "vcpu": 0,
        "thread": 1,
        "cpus": CpuSet.of(1),
        "tid": pid,
        "pid": pid,
        "policy": "other",
        "priority": 0,
    }
    values |= {"path": path, "text": "0", "nodes": CpuSet.of(0), "away": CpuSet.of(1)}
    of = {Hypervisor: host.hypervisor, ThreadControl: host.threads, HostFs: host.fs}[part]
    arguments = [values[one] for one in inspect.signature(getattr(part, name)).parameters if one != "self"]
    faults = Faults(at=0)
    host.program(faults)
    with heard(faults.file), pytest.raises((OSError, OperationFailed), match="injected"):
        getattr(of, name)(*arguments)
    assert len(faults.names) == 1


def test_a_write_that_goes_around_the_host_has_an_injection_point_too(tmp_path):
    faults = Faults(at=1)
    with heard(faults.file):
        (tmp_path / "one").write_text("")
        with pytest.raises(OSError, match="injected"):
            (tmp_path / "one").rename(tmp_path / "two")
    assert faults.names == ["open one", "os.rename one"]
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_every_operation_is_recorded_with_its_writes_to_files(tmp_path):
    found = {}
    for operation in ("run", "delete", "repin", "adopt", "agent start"):
        counting = Faults()
        carried_out(operation, prepared(tmp_path / "h", "v2 bare partitions", OPERATIONS[operation][1]), counting)
        found[operation] = set(counting.names)
    assert all({"open ledger.lock", "ledger"} <= names for names in found.values())
    assert all("os.rename entry.json.new" in found[operation] for operation in ("run", "repin", "adopt", "agent start"))
    assert {"create", "resume"} <= found["run"] & found["agent start"]
    assert {"destroy", "os.remove entry.json"} <= found["delete"]
    assert "rmdir /sys/fs/cgroup/quietcore/default_gone" in found["agent start"]
