"""A host whose cgroup tree belongs to systemd: what survives its daemon-reload, and what libvirt does when machined is there."""

import subprocess
from contextlib import contextmanager

import pytest

from lab.inside import CGROUP_ROOT, Cgroup, cgroup_of
from lab.looking import eventually, read

pytestmark = pytest.mark.lab("systemd")
ROOT = Cgroup(CGROUP_ROOT)
SLICE = Cgroup(CGROUP_ROOT / "machine.slice")


def systemctl(*words):
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def delegated_unit(name):
    """A service in machine.slice that may have cgroups of its own below its group."""
    options = ["--slice=machine.slice", "-p", "Delegate=yes", "-p", "DefaultDependencies=no", f"--unit={name}"]
    subprocess.run(["systemd-run", "--quiet", *options, "sleep", "infinity"], check=True)
    group = Cgroup(SLICE.path / f"{name}.service")
    eventually(group.path.exists, f"{name} does not start")
    try:
        yield group
    finally:
        systemctl("stop", name)


def partition_below(group):
    """An isolated partition of CPUs 4-5 in a threaded child, with the exclusive lists on the levels above it."""
    vcpu0 = group.child("vcpu0", threaded=True)
    group.set("cgroup.subtree_control", "+cpuset")
    for level in (SLICE, group, vcpu0):
        level.set("cpuset.cpus.exclusive", "4-5")
    vcpu0.set("cpuset.cpus.partition", "isolated")
    assert vcpu0.get("cpuset.cpus.partition") == "isolated"
    return vcpu0


def test_systemd_is_init():
    assert read("/proc/1/comm") == "systemd"
    assert "cpuset" in ROOT.get("cgroup.controllers").split()


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
def test_a_partition_below_a_delegated_unit_survives(verb):
    with delegated_unit("vm1") as group:
        vcpu0 = partition_below(group)
        systemctl(verb)
        with delegated_unit("neighbour"):
            pass
        assert (vcpu0.get("cpuset.cpus.partition"), ROOT.get("cpuset.cpus.isolated")) == ("isolated", "4-5")


def test_a_partition_below_a_delegated_unit_survives_writes_to_its_slice():
    with delegated_unit("vm2") as group:
        vcpu0 = partition_below(group)
        systemctl("set-property", "--runtime", "machine.slice", "AllowedCPUs=0-3", "CPUWeight=200")
        eventually(lambda: SLICE.get("cpuset.cpus") == "0-3", "systemd does not write the slice's CPUs")
        assert (vcpu0.get("cpuset.cpus.partition"), vcpu0.get("cpuset.cpus.effective")) == ("isolated", "4-5")
        systemctl("set-property", "--runtime", "machine.slice", "AllowedCPUs=", "CPUWeight=")


def test_a_partition_outside_of_any_unit_vanishes_with_a_daemon_reload():
    ROOT.set("cgroup.subtree_control", "+cpuset")
    stray = ROOT.child("stray")
    try:
        stray.set("cpuset.cpus.exclusive", "4-5")
        stray.set("cpuset.cpus.partition", "isolated")
        assert stray.get("cpuset.cpus.partition") == "isolated"
        systemctl("daemon-reload")
        eventually(lambda: not stray.has("cpuset.cpus.partition"), "the stray partition survives")
        assert ROOT.get("cpuset.cpus.isolated") == ""
    finally:
        stray.path.rmdir()


def test_with_machined_libvirt_puts_a_domain_into_a_delegated_scope(hypervisor):
    import libvirt
    from test_libvirt import XML, vcpu_threads

    domain = hypervisor.createXML(XML, libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        _, first, _ = vcpu_threads(domain)
        group = Cgroup(cgroup_of(first))
        scope = next(parent for parent in group.path.parents if parent.name.endswith(".scope"))
        assert scope.parent == SLICE.path
        assert systemctl("show", "--property=Delegate", "--value", scope.name) == "yes"
        levels = [path for path in reversed(group.path.parents) if path.is_relative_to(SLICE.path)]
        for level in levels:
            Cgroup(level).set("cpuset.cpus.exclusive", "4")
        group.set("cpuset.cpus.exclusive", "4")
        group.set("cpuset.cpus.partition", "isolated")
        systemctl("daemon-reload")
        assert (group.get("cpuset.cpus.partition"), ROOT.get("cpuset.cpus.isolated")) == ("isolated", "4")
    finally:
        domain.destroy()
    eventually(lambda: ROOT.get("cpuset.cpus.isolated") == "", "the CPU of a domain that is gone does not come back")
