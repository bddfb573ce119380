"""A fault before and after every single write: after it the host is as before the operation or as after it, never between."""

from __future__ import annotations

import contextlib
import copy
import shutil
from pathlib import Path

import pytest

from quietcore.engine import Wanted
from quietcore.errors import OperationFailed, UndoFailed
from quietcore.model import CpuSet, VmName
from tests.shell.fake_host import FakeHost, Faults, Killed
from tests.shell.foreign import AGENT, foreign
from tests.shell.numa_host import NumaHost
from tests.shell.test_defrag import scattered, whole_cores
from tests.shell.test_engine import KINDS, spec
from tests.shell.test_repin import rotate

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
}


def prepared(root, kind, names) -> FakeHost:
    """A host with these VMs at `root`: made once, then copied, because the copy is much quicker."""
    model = root.with_name("-".join((root.name, kind, *names)))
    if not model.exists():
        shutil.rmtree(root, ignore_errors=True)
        MADE[model] = made(root, kind, names)
        shutil.copytree(root, model)
    shutil.rmtree(root)
    shutil.copytree(model, root)
    return copy.deepcopy(MADE[model])


MADE: dict[Path, FakeHost] = {}
"""Folder of a model -> what a host remembers besides its folder."""


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
            case "scattered" | "numa":
                pass
            case _:
                host.program().apply(spec(name), "text")
    return host


def snapshot(host: FakeHost) -> dict[str, object]:
    state = host.state()
    mounted = str(host.fs.path(host.fs.mount).relative_to(host.root))
    shells = {f"{mounted}/machine", f"{mounted}/quietcore"}  # what is empty and claims nothing may stay
    state["groups"] = {name: text for name, text in state["groups"].items() if name not in shells or text}
    return state


def probes(names, number) -> bool:
    """Whether a write is one of the probe's: the first enables cpuset at the root, just before the scratch group is made."""
    return any("quietcore-probe" in name for name in names[number : number + 2])


CASES = [
    (kind, name)
    for kind in KINDS
    for name in OPERATIONS
    if name not in {"defrag", "move memory", "swap"} or kind in {"v1 libvirt", "v2 libvirt partitions", "v2 bare threaded"}
]
"""These do what `repin` does and a little more, so that not every kind of host is needed again."""


@pytest.mark.parametrize(("kind", "operation"), CASES)
def test_a_refused_write_is_undone_or_reported(tmp_path, kind, operation):
    act, names = OPERATIONS[operation]
    host = prepared(tmp_path / "h", kind, names)
    before = snapshot(host)
    counting = Faults()
    act(host.program(counting))
    after = snapshot(host)
    assert counting.names
    for number, name in enumerate(counting.names):
        if probes(counting.names, number):
            continue  # a probe that fails is an answer: see test_a_probe_that_fails_means_a_weaker_mechanism
        for moment in ("before", "after"):
            host = prepared(tmp_path / "h", kind, names)
            with contextlib.suppress(OperationFailed, UndoFailed):
                act(host.program(Faults(at=number, moment=moment)))
            if snapshot(host) not in (before, after):
                host.program().reconcile()  # an operation that could not be undone said so: the next command ends it
            assert snapshot(host) in (before, after), f"{moment} {name}"


@pytest.mark.parametrize(("kind", "operation"), CASES)
def test_a_killed_operation_is_finished_or_undone_by_the_next_command(tmp_path, kind, operation):
    act, names = OPERATIONS[operation]
    host = prepared(tmp_path / "h", kind, names)
    before = snapshot(host)
    counting = Faults()
    act(host.program(counting))
    after = snapshot(host)
    for number, name in enumerate(counting.names):
        for moment in ("before", "after"):
            host = prepared(tmp_path / "h", kind, names)
            with pytest.raises(Killed):
                act(host.program(Faults(at=number, kind="kill", moment=moment)))
            host.program().reconcile()
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


def test_every_kind_of_write_has_an_injection_point(tmp_path):
    kinds = set()
    for kind in ("v2 libvirt partitions", "v1 bare"):  # only where groups do not say it all are affinities written
        host = prepared(tmp_path / "h", kind, ())
        counting = Faults()
        engine = host.program(counting)
        engine.apply(spec("a"), "text")
        engine.delete(A)
        kinds |= {name.split()[0] for name in counting.names}
    assert {"write", "mkdir", "rmdir", "affinity", "create", "resume", "destroy", "ledger"} <= kinds
