"""Claims on CPUs that a VM left behind, and that nobody has any more: they go before their CPUs are given to the next one."""

from __future__ import annotations

import pytest

from quietcore.engine import Wanted
from quietcore.model import CpuSet, VmName
from tests.shell.fake_host import FakeHost
from tests.shell.foreign import foreign
from tests.shell.test_engine import spec


def leave_behind(host, cpus="1"):
    """The groups of a domain that nobody knows any more, with its claim."""
    claim = CpuSet.parse(host.fs.read_or(f"{host.fs.mount}/machine/cpuset.cpus.exclusive", ""))
    for group in ("/machine", "/machine/qemu-7-defaultgone.libvirt-qemu", "/machine/qemu-7-defaultgone.libvirt-qemu/vcpu0"):
        if not host.fs.is_dir(host.fs.mount + group):
            host.fs.path(host.fs.mount + group).mkdir()
            host.fs.furnish(host.fs.mount + group)
        host.fs.path(f"{host.fs.mount}{group}/cpuset.cpus.exclusive").write_text(f"{cpus}\n")
    host.fs.path(f"{host.fs.mount}/machine/cpuset.cpus.exclusive").write_text(f"{claim | CpuSet.parse(cpus)}\n")


@pytest.mark.parametrize("operation", ["run", "adopt", "repin", "agent --once"])
def test_a_claim_that_nobody_has_any_more_does_not_weaken_the_next_vm(tmp_path, operation):
    host = FakeHost(tmp_path)
    engine = host.program()
    if operation == "adopt":
        foreign(host)
    if operation == "repin":
        engine.apply(spec("a"), "text")
    leave_behind(host, "3" if operation == "repin" else "1")
    match operation:
        case "run":
            engine.apply(spec("a"), "text")
        case "adopt":
            engine.adopt(Wanted(domain="old"))
        case "repin":
            engine.repin(VmName(name="a"), cpus=CpuSet.of(3))
        case _:
            engine.reconcile()
    assert [entry.mechanism for entry in engine.world.books.load().entries] == ["partition"] * (operation != "agent --once")
    assert all(engine.verify(view).ok for view in engine.views())
    assert not host.fs.path(f"{host.fs.mount}/machine/qemu-7-defaultgone.libvirt-qemu/vcpu0").exists()
