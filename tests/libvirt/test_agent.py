"""The agent against real libvirt and QEMU: what drifts is put back, VMs outlive it, a guest that powers off frees its CPU."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest
from tests.libvirt.test_quietcore import ONE, Program, move_away, vmi

from lab.looking import PATIENCE_S, eventually

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(900)]
POWER_OFF = bytes.fromhex("b486b91e00ba8084cd15ba0406b80020effaf4ebfd")
"""Boot code: wait 2 s (int 15h, ah=86h), write S5 to the PM1a control port of q35 (0x604), halt."""
DISK = """\
apiVersion: kubevirt.io/v1
kind: {kind}
metadata:
  name: {name}
spec:
{head}terminationGracePeriodSeconds: 0
{pad}domain:
{pad}  cpu:
{pad}    cores: 1
{pad}    dedicatedCpuPlacement: true
{pad}  memory:
{pad}    guest: 64Mi
{pad}  resources:
{pad}    requests:
{pad}      memory: 64Mi
{pad}    limits:
{pad}      memory: 64Mi
{pad}  devices:
{pad}    disks:
{pad}    - name: root
{pad}      bootOrder: 1
{pad}      disk:
{pad}        bus: sata
{pad}volumes:
{pad}- name: root
{pad}  hostDisk:
{pad}    path: {path}
{pad}    type: Disk
"""


class Running:
    """`quietcore agent` as a process, told apart by the lines that it writes."""

    def __init__(self, program: Program, folder) -> None:
        self.program = program
        self.log = folder / f"agent-{len(list(folder.glob('agent-*')))}.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "quietcore", "agent"],
                env=program.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self.wait_for("agent-started")

    def wait_for(self, word):
        eventually(lambda: self._said(word) or self.process.poll() is not None, lambda: f"no {word}:\n{self.log.read_text()}")
        found = self._said(word)
        assert found, self.log.read_text()
        return found

    def _said(self, word):
        return [line for line in self.log.read_text().splitlines() if line.startswith(word)]

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


class AgentProgram(Program):
    """The program with a socket of its own and a resync that a test can wait for."""

    def __init__(self, folder, uri):
        super().__init__(folder, uri)
        config = folder / "config.toml"
        config.write_text(config.read_text() + f'[agent]\nsocket = "{folder}/agent.sock"\nresync_seconds = 1\n')


@pytest.fixture
def quietcore(tmp_path, libvirt_uri):
    program = AgentProgram(tmp_path, libvirt_uri)
    yield program
    for name in program.owners():
        program("delete", name, "--now")
    assert program.domains() == []


@pytest.fixture
def agent(quietcore, tmp_path):
    """A running agent; a test may end it and make another with `agent()`."""
    started = []

    def start():
        started.append(Running(quietcore, tmp_path))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()


def without_workers(described):
    """What `describe` shows, without the workers of QEMU's thread pool: these come and go."""
    return {**described, "threads": [one for one in described["threads"] if one["role"] != "worker"]}


def lasting(quietcore):
    """The VM's threads now."""
    return without_workers(quietcore.json("describe", ONE))["threads"]


def test_a_vcpu_thread_that_is_moved_by_hand_is_put_back(quietcore, agent, tmp_path):
    running = agent()
    quietcore("run", "-f", vmi(tmp_path))
    before, threads = quietcore.json("describe", ONE), lasting(quietcore)
    announced = Path("/sys/fs/cgroup/cpuset/tasks").exists()  # the move through a file is an event, and so has a reaction time
    for _ in range(20):  # a look that came for another reason, such as the start just before, may have repaired it first
        move_away(before["vcpus"][0]["tid"])
        running.wait_for("drift-repaired")
        eventually(lambda: lasting(quietcore) == threads)
        care = quietcore.json("describe", ONE)["agent"]
        if not announced or care["lastReactionSeconds"] is not None:
            break
    quietcore("verify", ONE)
    assert care["repairs"] >= 1
    if announced:
        assert care["maxReactionSeconds"] >= care["lastReactionSeconds"] >= 0
        assert "reaction last" in quietcore("describe", ONE)


def test_the_command_line_prints_the_same_with_and_without_an_agent(quietcore, agent, tmp_path):
    running = agent()
    quietcore("run", "-f", vmi(tmp_path))
    commands = [
        ("get", "vms", "-o", "wide"),
        ("get", "vms", "-o", "json"),
        ("verify", ONE),
        ("describe", ONE, "-o", "json"),
        ("delete", "none", "--now"),
        ("repin", ONE, "--dry-run", "-o", "json"),
        ("release", "none"),
    ]
    codes = [0, 0, 0, 0, 2, 0, 2]
    with_agent = [quietcore(*command, expect=code) for command, code in zip(commands, codes, strict=True)]
    assert "Agent:" in quietcore("describe", ONE)
    running.end()
    without = [quietcore(*command, expect=code) for command, code in zip(commands, codes, strict=True)]
    described, alone = (without_workers(json.loads(texts[3])) for texts in (with_agent, without))
    assert described.pop("agent")["findings"] == []
    assert alone.pop("agent") is None
    assert described == alone
    verdict, verdict_alone = (texts[2].splitlines()[-1] for texts in (with_agent, without))  # other tasks of the host come and go
    assert (verdict, with_agent[:2], with_agent[4:]) == (verdict_alone, without[:2], without[4:])


def test_sigterm_ends_the_agent_cleanly_and_vms_run_on_and_are_known_to_the_next(quietcore, agent, tmp_path):
    running = agent()
    quietcore("run", "-f", vmi(tmp_path))
    pid = quietcore.json("describe", ONE)["pid"]
    assert running.end() == 0
    assert running.log.read_text().splitlines()[-1].startswith("agent-stopped")
    assert quietcore.json("describe", ONE)["pid"] == pid
    agent()
    described = quietcore.json("describe", ONE)
    assert (described["pid"], described["phase"]) == (pid, "Running")
    quietcore("verify", ONE)


def test_an_agent_that_is_killed_loses_nothing(quietcore, agent, tmp_path):
    running = agent()
    quietcore("run", "-f", vmi(tmp_path))
    running.end(signal.SIGKILL)
    move_away(quietcore.json("describe", ONE)["vcpus"][0]["tid"])
    agent()
    quietcore("verify", ONE)
    assert quietcore.owners() == {ONE: "running"}


def powering_off(folder, kind="VirtualMachineInstance"):
    disk = folder / "boot.img"
    disk.write_bytes(POWER_OFF.ljust(510, b"\0") + b"\x55\xaa" + b"\0" * (1 << 20))
    is_vm = kind == "VirtualMachine"
    head = "  runStrategy: Always\n  template:\n    spec:\n      " if is_vm else "  "
    path = folder / "boot.yaml"
    path.write_text(DISK.format(kind=kind, name=ONE, head=head, pad="      " if is_vm else "  ", path=disk))
    return path


def test_a_guest_that_powers_off_frees_its_cpu(quietcore, agent, tmp_path):
    agent()
    quietcore("run", "-f", powering_off(tmp_path))
    eventually(lambda: quietcore.owners() == {ONE: "stopped"})
    ledger = json.loads((quietcore.state / "ledger.json").read_text())
    assert [entry["plan"] for entry in ledger["ledger"]["entries"]] == [None]
    assert quietcore.domains() == []


def test_a_vm_that_should_always_run_starts_again(quietcore, agent, tmp_path):
    running = agent()
    quietcore("run", "-f", powering_off(tmp_path, "VirtualMachine"))
    running.wait_for("started-again")
    quietcore("delete", ONE, "--now")
    assert quietcore.domains() == []


def test_threads_that_come_later_stay_off_the_vcpus_cpu(quietcore, agent, tmp_path):
    agent()
    quietcore("run", "-f", vmi(tmp_path))
    own = quietcore.json("describe", ONE)["vcpus"][0]["pcpu"]
    connection = libvirt.open(quietcore.uri)
    with closing(connection), socket.create_server(("127.0.0.1", 0)) as listener:
        domain = connection.lookupByName(f"default_{ONE}")
        domain.addIOThread(7, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        address = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        for order in (
            {"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 4096}},
            {"execute": "migrate", "arguments": {"uri": address}},
        ):
            libvirt_qemu.qemuMonitorCommand(domain, json.dumps(order), 0)
        receiver, _ = listener.accept()
        with closing(receiver):
            eventually(lambda: {"iothread", "migration"} <= {one["role"] for one in quietcore.json("describe", ONE)["threads"]})
            later = [one["tid"] for one in quietcore.json("describe", ONE)["threads"] if one["role"] in {"iothread", "migration"}]
            eventually(lambda: all(own not in os.sched_getaffinity(tid) for tid in later))
            quietcore("verify", ONE)


def test_a_vcpu_that_is_plugged_in_where_no_cpu_is_free_shares_the_pool_and_is_an_error(quietcore, agent, tmp_path):
    running = agent()
    manifest = vmi(tmp_path)
    manifest.write_text(manifest.read_text().replace("cores: 1", "cores: 1\n      maxSockets: 2"))
    quietcore("run", "-f", manifest)
    own = quietcore.json("describe", ONE)["vcpus"][0]["pcpu"]
    connection = libvirt.open(quietcore.uri)
    with closing(connection):
        connection.lookupByName(f"default_{ONE}").setVcpusFlags(2, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    (line,) = running.wait_for("vcpu-not-placed")
    assert 'why="no CPU is free"' in line
    (plugged,) = [one for one in quietcore.json("describe", ONE)["threads"] if one["vcpu"] == 1]
    eventually(lambda: own not in os.sched_getaffinity(plugged["tid"]))
    found = quietcore.json("verify", ONE, expect=1)["findings"]
    assert [one["code"] for one in found if one["severity"] == "error"] == ["vcpu-unplanned"]


def cpu_group(tid):
    """The quota file of a thread's group, and where the hierarchy with the cpu controller is mounted."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{tid}/cgroup").read_text().splitlines()]
    for _, controllers, group in lines:
        if "cpu" in controllers.split(","):
            return Path("/sys/fs/cgroup/cpu"), Path(f"/sys/fs/cgroup/cpu{group}/cpu.cfs_quota_us"), "20000", "-1"
    return Path("/sys/fs/cgroup"), Path(f"/sys/fs/cgroup{lines[-1][2]}/cpu.max"), "20000 100000", "max"


def test_a_quota_on_the_vms_own_group_is_lifted_and_one_elsewhere_is_named(quietcore, agent, tmp_path):
    running = agent()
    quietcore("run", "-f", vmi(tmp_path))
    tid = quietcore.json("describe", ONE)["vcpus"][0]["tid"]
    mount, quota, limited, unlimited = cpu_group(tid)
    if f"default{ONE}" in str(quota).replace("_", "") or f"/quietcore/default_{ONE}/" in str(quota):  # libvirt's group, or ours
        quota.write_text(limited)
        running.wait_for("drift-repaired")
        eventually(lambda: quota.read_text().startswith(unlimited))
        quietcore("verify", ONE)
        return
    stranger = mount / f"quota-{ONE}"
    stranger.mkdir()
    try:
        (stranger / quota.name).write_text(limited)
        (stranger / "tasks").write_text(str(tid))
        errors = [one for one in quietcore.json("verify", ONE, expect=1)["findings"] if one["severity"] == "error"]
        assert [(one["code"], one["subject"]["id"]) for one in errors] == [("cpu-quota", f"/{stranger.name}")]
    finally:
        (quota.parent / "tasks").write_text(str(tid))
        stranger.rmdir()
    quietcore("verify", ONE)


def test_a_pin_that_somebody_changes_through_libvirt_is_put_back(quietcore, agent, tmp_path, request):
    running = agent()
    quietcore("run", "-f", vmi(tmp_path))
    before = lasting(quietcore)
    connection = libvirt.open(quietcore.uri)
    try:
        connection.lookupByName(f"default_{ONE}").pinEmulator((True, True))
    finally:
        connection.close()
    if "libvirt's own cgroups" in request.node.name:  # else the cpuset that we made already keeps the pin from taking effect
        running.wait_for("drift-repaired")
    eventually(lambda: lasting(quietcore) == before)
