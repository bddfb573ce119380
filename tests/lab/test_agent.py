"""The agent on cgroup v2 with partitions: real threads, the kernel's own events, CPUs that go away, and the units for systemd."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab import product
from lab.inside import CGROUP_ROOT, CPUS, Cgroup, eventually, read, restored, write
from quietcore.model import CpuSet

pytestmark = pytest.mark.lab
UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
AGENT = f"{product.HERE}[agent]\nresync_seconds = 5\n"


class Agent:
    """A running `quietcore agent` and the lines that it has written."""

    def __init__(self, folder):
        self.log = folder / "agent.log"
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen([sys.executable, "-m", "quietcore", "agent"], stdout=stream, stderr=stream)
        self.expect("agent-started")

    def told(self, word, *parts):
        return [line for line in self.log.read_text().splitlines() if line.startswith(word) and all(part in line for part in parts)]

    def expect(self, word, *parts):
        eventually(lambda: self.told(word, *parts), f"no {word} {parts}: {self.log.read_text()}")

    def repairs_at_once(self, drift, *parts):
        """Make a drift that an event tells. A look that happened to come first saw it without one: then once more."""
        for count in range(1, 4):
            drift()
            eventually(lambda count=count: len(self.told("drift-repaired", *parts)) >= count, f"no repair {parts}: {self.log.read_text()}")
            if self.told("drift-repaired", *parts, "by=file"):
                return
        raise AssertionError(f"no event told of {parts}: {self.log.read_text()}")

    def until(self, what, message):
        """As `eventually`, with what the agent said in the message."""
        try:
            eventually(what, message)
        except AssertionError:
            vms = product.quietcore("verify")
            raise AssertionError(f"{message}: {self.log.read_text()}{vms.out}{vms.err}") from None

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def agent(hypervisor, tmp_path):
    product.configure(AGENT)
    running = Agent(tmp_path)
    yield running
    assert running.end() == 0


@pytest.fixture
def run(agent, tmp_path):
    """Start VMs through the agent; at the end they are deleted and every CPU is everybody's again."""

    def start(name, **shape):
        file = tmp_path / f"{name}.yaml"
        file.write_text(product.manifest(name, **shape))
        answer = product.quietcore("run", "-f", str(file), "-o", "json")
        assert answer.code == 0, answer.err + answer.out
        return product.RunningVm.of(name)

    yield start
    product.delete_all(tmp_path)


def in_place(vm):
    return vm.vcpus_allowed() == {vcpu: CpuSet.of(pcpu) for vcpu, pcpu in vm.pcpus.items()}


def sound(name):
    return product.quietcore("verify", name).code == 0


@pytest.mark.lab("2s4n16c", "systemd")
def test_the_kernels_events_reach_the_agent(agent):
    assert not agent.told("no-process-events")


@pytest.mark.lab("2s4n16c", "systemd")
def test_a_vcpu_thread_that_leaves_for_any_group_is_put_back_at_once(run, agent):
    vm = run("moved", topology=(1, 2, 1))
    home = vm.group_of_vcpu(0)
    agent.repairs_at_once(lambda: Cgroup(home.path.parent / "emulator").set("cgroup.threads", vm.vcpu_tids[0]), "vCPU 0")
    agent.until(lambda: vm.group_of_vcpu(0) == home and in_place(vm) and sound("moved"), "it stays away")
    care = product.RunningVm.of("moved").described["agent"]
    assert care["lastReactionSeconds"] > 0


def test_a_partition_that_becomes_invalid_is_made_again(run, agent):
    vm = run("invalid", topology=(1, 2, 1))
    group = vm.group_of_vcpu(0)
    Cgroup(group.path.parent).set("cpuset.cpus.exclusive", vm.pcpus[1])
    agent.expect("drift-repaired", "cpuset.cpus.exclusive")
    agent.until(lambda: group.get("cpuset.cpus.partition") == "isolated" and in_place(vm) and sound("invalid"), "it stays invalid")


def test_a_quota_is_lifted_at_once(run, agent):
    vm = run("quota", topology=(1, 2, 1))
    agent.repairs_at_once(lambda: vm.group_of_vcpu(0).set("cpu.max", "20000 100000"), "cpu.max")
    agent.until(lambda: vm.group_of_vcpu(0).get("cpu.max").startswith("max") and sound("quota"), "the quota stays")


def test_a_cpu_that_goes_offline_is_told_and_its_vcpu_is_put_back_when_it_returns(run, agent):
    vm = run("offline", topology=(1, 2, 1))
    with restored(CPUS / f"cpu{vm.pcpus[1]}/online") as switch:
        write(switch, "0")
        agent.expect("finding", "cpu-offline", f"cpu {vm.pcpus[1]}")
    agent.until(lambda: in_place(vm) and sound("offline"), "it does not return")


def test_smt_that_is_switched_off_is_told(run, agent):
    vm = run("siblings", topology=(1, 2, 2))
    with restored(CPUS / "smt/control") as switch:
        write(switch, "off")
        agent.expect("finding", "smt-changed")
        agent.expect("finding", "cpu-offline")
    agent.until(lambda: in_place(vm) and sound("siblings"), "it does not return")


def test_a_vcpu_that_is_plugged_in_gets_a_cpu_and_gives_it_back(run, agent, hypervisor):
    vm = run("plugged", topology=(1, 1, 1), cpu={"maxSockets": 2})
    domain = hypervisor.lookupByName("default_plugged")
    domain.setVcpusFlags(2, 1)  # VIR_DOMAIN_AFFECT_LIVE
    agent.expect("vcpu-plugged-in", "vcpu=1")
    agent.until(lambda: len(product.RunningVm.of("plugged").dedicated) == 2 and sound("plugged"), "it has no CPU")
    more = product.RunningVm.of("plugged")
    assert in_place(more)
    assert vm.dedicated < more.dedicated
    assert CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated")) == more.dedicated


def test_orphaned_claims_are_freed_before_anything_starts(hypervisor, tmp_path):
    del hypervisor
    product.configure(AGENT)
    stale = Cgroup(CGROUP_ROOT / "machine" / "qemu-99-defaultgone.libvirt-qemu")
    stale.path.mkdir(parents=True)
    Cgroup(CGROUP_ROOT).set("cgroup.subtree_control", "+cpuset")
    stale_parent = Cgroup(stale.path.parent)
    stale_parent.set("cgroup.subtree_control", "+cpuset")
    for group in (stale_parent, stale):
        group.set("cpuset.cpus.exclusive", "6-7")
    stale.set("cpuset.cpus.partition", "isolated")
    assert CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated")) == CpuSet.parse("6-7")
    running = Agent(tmp_path)
    try:
        assert running.told("orphan-freed", "cpus=6-7")
        running.until(lambda: read(CGROUP_ROOT / "cpuset.cpus.isolated") == "", "the CPUs stay away")
        assert not stale.path.exists()
        assert stale_parent.get("cpuset.cpus.exclusive") == ""
    finally:
        assert running.end() == 0


@pytest.mark.lab("systemd")
def test_the_units_start_in_order_and_keep_the_cpuset_controller(hypervisor):
    del hypervisor
    product.configure(AGENT)
    etc = Path("/etc/systemd/system")
    early = "[Unit]\nDefaultDependencies=no"  # the lab never reaches basic.target, and its libvirtd is no unit
    for unit in UNITS.glob("*.service"):
        (etc / unit.name).write_text(unit.read_text().replace("[Unit]", early).replace("Wants=libvirtd.socket", "Wants="))
    here = etc / "quietcore-agent.service.d" / "here.conf"
    here.parent.mkdir()
    source = Path(__file__).parents[2] / "src"
    here.write_text(f"[Service]\nExecStart=\nExecStart={sys.executable} -m quietcore agent\nEnvironment=PYTHONPATH={source}\n")
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    try:
        started = subprocess.run(["timeout", "60", "systemctl", "start", "quietcore-agent.service"], check=False)
        said = subprocess.run(["systemctl", "status", "--no-pager", "-n", "50", "quietcore-*"], capture_output=True, text=True, check=False)
        assert started.returncode == 0, said.stdout
        for unit in ("quietcore-agent", "quietcore-vms"):
            assert subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=True).stdout == "active\n"
        assert product.quietcore("get", "vms", "-o", "json").value["items"] == []
        subprocess.run(["systemd-run", "--quiet", "--wait", "-p", "Delegate=yes", "-p", "DefaultDependencies=no", "true"], check=True)
        subprocess.run(["systemctl", "daemon-reload"], check=True)
        assert "cpuset" in Cgroup(CGROUP_ROOT).get("cgroup.subtree_control").split()
        assert "cpuset" in Cgroup(CGROUP_ROOT / "machine.slice").get("cgroup.subtree_control").split()
    finally:
        subprocess.run(["systemctl", "stop", "quietcore-agent.service", "quietcore-vms.service"], check=True)
