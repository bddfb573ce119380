"""Moving and adopting against real libvirt and QEMU: the kernel's answers before, during and after."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest
from tests.libvirt.test_quietcore import ONE, Program, first_vcpu, vmi
from tests.prerequisites import missing

from lab.looking import PATIENCE_S, lasting_threads

pytestmark = pytest.mark.libvirt

FOREIGN = """\
<domain type='qemu'>
  <name>Somebodys_VM</name>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  {tune}
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
</domain>
"""


@pytest.fixture
def program(tmp_path, libvirt_uri):
    """quietcore with a configuration that can say which of the two CPUs is the host's."""
    program = Program(tmp_path, libvirt_uri)
    first = (tmp_path / "config.toml").read_text()

    def reserve(cpu):
        (tmp_path / "config.toml").write_text(f'{first}[placement]\nreserved_cpus = "{cpu}"\n')

    program.reserve = reserve
    reserve(0)
    yield program
    for name in program.owners():
        program("delete", name, "--now")


@pytest.fixture
def foreign(libvirt_uri):
    """Start somebody else's domain; ended afterwards."""
    connection = libvirt.open(libvirt_uri)
    started = []

    def start(tune=""):
        started.append(connection.createXML(FOREIGN.format(tune=tune)))
        return started[-1]

    yield start
    for domain in started:
        with suppress(libvirt.libvirtError):  # a test ended it
            domain.destroy()
    connection.close()


def threads_of(domain):
    """Each thread's CPUs, policy and groups, and the text of every cpuset and quota of the domain's groups."""
    pid = next(
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and f"guest={domain.name()},".encode() in _cmdline(entry)
    )
    found = {}
    for tid, comm in lasting_threads(pid).items():
        groups = Path(f"/proc/{pid}/task/{tid}/cgroup").read_text()
        found[tid] = (comm, sorted(os.sched_getaffinity(tid)), os.sched_getscheduler(tid), groups)
    groups = [line.rpartition(":")[2] for *_, text in found.values() for line in text.splitlines() if ":cpuset:" in line]
    homes = {group for group in groups if group != "/"}
    files = [f"/sys/fs/cgroup/{name}" for home in homes for name in (f"cpuset{home}/cpuset.cpus", f"cpu{home}/cpu.cfs_quota_us")]
    return found, {file: Path(file).read_text() for file in files if Path(file).exists()}


def _cmdline(entry):
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def two_cpus():
    if len(os.sched_getaffinity(0)) < 2:
        missing("needs two CPUs")


def test_a_running_vcpu_goes_to_the_other_cpu_and_is_never_seen_elsewhere(program, tmp_path):
    two_cpus()
    program("run", "-f", vmi(tmp_path))
    tid = first_vcpu(program)
    assert os.sched_getaffinity(tid) == {1}
    seen, stop = set(), threading.Event()

    def watch():
        while not stop.is_set():
            seen.add(frozenset(os.sched_getaffinity(tid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    program.reserve(1)
    moved = program.json("repin", ONE, "--cpus", "0")
    stop.set()
    watcher.join()
    assert moved["vcpus"] == [{"vcpu": 0, "from": 1, "to": 0}]
    assert seen <= {frozenset({0}), frozenset({1})}
    assert os.sched_getaffinity(tid) == {0}
    assert first_vcpu(program) == tid
    program("verify", ONE)
    pin = libvirt.open(program.uri).lookupByName(f"default_{ONE}").vcpuPinInfo()
    assert [cpu for cpu, on in enumerate(pin[0]) if on] == [0]
    assert program("run", "-f", vmi(tmp_path)) == f"vm/{ONE} unchanged\n"


def test_a_dry_run_moves_nothing_and_a_wrong_list_is_refused(program, tmp_path):
    two_cpus()
    program("run", "-f", vmi(tmp_path))
    tid = first_vcpu(program)
    refused = program.json("repin", ONE, "--cpus", "0,99", expect=3)
    assert [reason["constraint"] for reason in refused["reasons"]] == ["cpu-online", "cpu-reserved", "cpu-count"]
    program.reserve(1)
    assert program.json("repin", ONE, "--cpus", "0", "--dry-run")["outcome"] == "move"
    assert os.sched_getaffinity(tid) == {1}


@pytest.mark.parametrize(
    "tune", ["", "<cputune><vcpupin vcpu='0' cpuset='0-1'/><emulatorpin cpuset='0'/></cputune>"], ids=["plain", "pinned"]
)
def test_an_adopted_domain_gets_a_cpu_and_release_gives_back_what_was_there(program, foreign, tune):
    two_cpus()
    domain = foreign(tune)
    before, xml = threads_of(domain), domain.XMLDesc()
    assert program("adopt", "Somebodys_VM", "--name", "theirs") == "vm/theirs adopted on CPU 1\n"
    seen = program.json("describe", "theirs")
    assert (seen["phase"], seen["domain"]) == ("Running", "Somebodys_VM")
    assert os.sched_getaffinity(seen["vcpus"][0]["tid"]) == {1}
    assert all(1 not in thread["allowed"]["cpus"] for thread in seen["threads"] if thread["role"] != "vcpu")
    program("verify", "theirs")
    assert program("release", "theirs") == "vm/theirs released\n"
    assert (threads_of(domain), domain.XMLDesc()) == (before, xml)
    assert domain.isActive()


def test_a_quota_is_lifted_while_a_domain_is_adopted(program, foreign, request):
    two_cpus()
    if "no cgroups" in request.node.name:
        return  # libvirt takes no quota there
    domain = foreign("<cputune><period>100000</period><quota>50000</quota></cputune>")
    before = threads_of(domain)
    assert "50000\n" in before[1].values() or not Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").exists()
    program("adopt", "Somebodys_VM", "--name", "theirs")
    program("verify", "theirs")
    program("release", "theirs")
    assert threads_of(domain) == before


def test_an_adopted_domain_may_become_real_time_and_every_thread_returns_to_its_groups(program, foreign):
    two_cpus()
    domain = foreign()
    before = threads_of(domain)
    program("adopt", "Somebodys_VM", "--name", "theirs", "--realtime", "0", "--priority", "2")
    tid = program.json("describe", "theirs")["vcpus"][0]["tid"]
    assert (os.sched_getscheduler(tid), os.sched_getparam(tid).sched_priority) == (os.SCHED_FIFO, 2)
    program("verify", "theirs")
    program("release", "theirs")
    assert threads_of(domain) == before


def test_an_adopted_domain_that_ends_is_forgotten(program, foreign):
    domain = foreign()
    program("adopt", "Somebodys_VM", "--name", "theirs")
    error = program.start("delete", "theirs", "--now")
    _, told = error.communicate(timeout=PATIENCE_S)
    assert (error.returncode, "quietcore release theirs" in told) == (2, True)
    domain.destroy()
    program("agent", "--once")
    assert program.owners() == {}
    foreign()
