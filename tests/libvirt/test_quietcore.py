"""The command line against real libvirt and QEMU: what a user sees, and what is left when it is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import libvirt
import pytest
from tests.libvirt.program import Program
from tests.prerequisites import need_programs, need_root

from lab.looking import PATIENCE_S, eventually

pytestmark = pytest.mark.libvirt

ONE, TWO = f"one-{os.getpid()}", f"two-{os.getpid()}"
"""Names of this run: the kernel's cgroups are one for all who test on a host."""
PROJECT = Path(__file__).parents[2]
MANIFEST = """\
apiVersion: kubevirt.io/v1
kind: {kind}
metadata:
  name: {name}
spec:
  terminationGracePeriodSeconds: 0
  domain:
    cpu:
      cores: {cores}
      dedicatedCpuPlacement: {dedicated}
    memory:
      guest: 64Mi
    resources:
      requests:
        memory: 64Mi
      limits:
        memory: 64Mi
    devices: {{}}
"""


def vmi(folder, name=ONE, *, cores=1, dedicated="true"):
    path = folder / f"{name}-{cores}.yaml"
    path.write_text(MANIFEST.format(kind="VirtualMachineInstance", name=name, cores=cores, dedicated=dedicated))
    return path


def first_vcpu(program, name=ONE):
    return program.json("describe", name)["vcpus"][0]["tid"]


def move_away(tid):
    """Take a vCPU thread off its CPU by hand, by the cpuset where there is one, as somebody else's script might."""
    root = Path("/sys/fs/cgroup/cpuset/tasks")
    if root.exists():
        root.write_text(str(tid))
    os.sched_setaffinity(tid, range(os.cpu_count() or 1))


def test_the_quickstart_story(quietcore, tmp_path):
    manifest = vmi(tmp_path)
    assert quietcore("run", "-f", manifest) == f"vm/{ONE} created\n"
    assert quietcore("run", "-f", manifest) == f"vm/{ONE} unchanged\n"
    assert quietcore("diff", "-f", manifest) == ""
    quietcore("verify", ONE)
    seen = quietcore.json("describe", ONE)
    pcpu = seen["vcpus"][0]["pcpu"]
    places = {thread["role"].split()[0]: thread["allowed"]["cpus"] for thread in seen["threads"]}
    assert places["vcpu"] == [pcpu]
    assert all(pcpu not in thread["allowed"]["cpus"] for thread in seen["threads"] if thread["vcpu"] is None)
    assert quietcore.domains() == [f"default_{ONE}"]


def test_a_vcpu_thread_moved_by_hand_is_named_and_put_back(quietcore, tmp_path):
    manifest = vmi(tmp_path)
    quietcore("run", "-f", manifest)
    tid = first_vcpu(quietcore)
    move_away(tid)
    found = quietcore.json("verify", ONE, expect=1)
    errors = [finding for finding in found["findings"] if finding["severity"] == "error"]
    assert errors
    assert all(finding["subject"]["id"].startswith(f"{tid} ") for finding in errors)
    assert quietcore("apply", "-f", manifest) == f"vm/{ONE} repaired\n"
    quietcore("verify", ONE)


def test_what_does_not_fit_leaves_nothing(quietcore, tmp_path):
    answer = quietcore.json("run", "-f", vmi(tmp_path, cores=999), expect=3)
    assert answer["items"][0]["outcome"] == "refusal"
    assert quietcore.domains() == []
    assert quietcore.owners() == {}


def test_a_vm_that_libvirt_refuses_is_undone(quietcore, tmp_path):
    (tmp_path / "config.toml").write_text((tmp_path / "config.toml").read_text() + 'emulator = "/usr/bin/qemu-system-none"\n')
    answer = quietcore.json("run", "-f", vmi(tmp_path), expect=5)
    assert answer["code"] == 5
    assert "qemu-system-none" in answer["errors"][0]["message"]
    assert quietcore.owners() == {}


def test_a_shared_vm_makes_room_for_a_dedicated_one(quietcore, tmp_path):
    quietcore("run", "-f", vmi(tmp_path, TWO, dedicated="false"))
    quietcore("run", "-f", vmi(tmp_path))
    pcpu = quietcore.json("describe", ONE)["vcpus"][0]["pcpu"]
    assert all(pcpu not in thread["allowed"]["cpus"] for thread in quietcore.json("describe", TWO)["threads"])
    quietcore("verify")


def test_vms_outlive_a_restart_of_libvirtd(quietcore, tmp_path, libvirt_daemon):
    quietcore("run", "-f", vmi(tmp_path))
    before = first_vcpu(quietcore)
    libvirt_daemon.stop()
    error = quietcore.json("verify", ONE, expect=5)
    assert "cannot connect" in error["errors"][0]["message"]
    libvirt_daemon.start()
    quietcore("verify", ONE)
    assert first_vcpu(quietcore) == before


def test_a_guest_that_was_ended_from_outside_is_reported_and_its_cpu_comes_back(quietcore, tmp_path):
    quietcore("run", "-f", vmi(tmp_path))
    connection = libvirt.open(quietcore.uri)
    connection.lookupByName(f"default_{ONE}").destroy()
    connection.close()
    assert quietcore.json("verify", ONE, expect=1)["findings"][0]["code"] == "domain-missing"
    quietcore("agent", "--once")
    assert quietcore.owners() == {ONE: "stopped"}
    quietcore("run", "-f", vmi(tmp_path, TWO))


def test_an_interrupt_undoes_the_start(quietcore, tmp_path):
    process = quietcore.start("run", "-f", vmi(tmp_path))
    eventually(quietcore.is_creating)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, quietcore.owners()) in [(130, {}), (0, {ONE: "running"})]


def test_without_root_nothing_is_touched_and_the_advice_is_given(tmp_path):
    need_root()
    manifest = vmi(tmp_path)
    for path in (tmp_path, *tmp_path.parents):
        if path.owner() == "root" and path.name.startswith("pytest"):
            path.chmod(0o755)
    program = f"run_cli(['run', '-f', {str(manifest)!r}])"
    modules = "one.name for one in pkgutil.walk_packages(quietcore.__path__, 'quietcore.') if '__main__' not in one.name"
    everything = f"[importlib.import_module(name) for name in ({modules})]"
    loaded = f"import importlib, os, pkgutil, sys, quietcore; {everything}; from quietcore.cli.main import run_cli"
    code = f"{loaded}; os.setresuid(65534, 65534, 65534); sys.exit({program})"  # the clone may lie where only root can read
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    assert "sudo" in done.stderr


@pytest.fixture
def short_folder():
    """A folder whose name leaves room for the sockets that libvirt makes below it (a UNIX socket's path has 108 bytes)."""
    with tempfile.TemporaryDirectory(prefix="qc-") as name:
        yield Path(name)


def test_the_embedded_driver_needs_no_daemon(tmp_path, short_folder):
    need_root()
    need_programs("qemu-system-x86_64")
    root = short_folder
    (root / "etc").mkdir()
    (root / "etc/qemu.conf").write_text('user = "root"\ngroup = "root"\ncgroup_controllers = []\nnamespaces = []\nstdio_handler = "file"\n')
    program = Program(tmp_path, f"qemu:///embed?root={root}")
    program("run", "-f", vmi(tmp_path))
    program("verify", ONE)
    assert program("run", "-f", vmi(tmp_path)) == f"vm/{ONE} unchanged\n"
    program("delete", ONE)
    assert program.owners() == {}
