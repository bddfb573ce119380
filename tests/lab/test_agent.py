"""The agent on cgroup v2 with partitions: real threads, the kernel's own events, CPUs that go away, and the units for systemd."""

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lab import product
from lab.inside import CGROUP_ROOT, CPUS, Cgroup, restored, write
from lab.looking import PATIENCE_S, eventually, read
from quietcore.model import CpuSet

pytestmark = pytest.mark.lab
UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
AGENT = f"{product.HERE}[agent]\nresync_seconds = 5\n"


class Agent:
    """A running `quietcore agent` and the lines that it has written."""

    def __init__(self, folder):
        self.log = folder / "agent.log"
        self.since = 0
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen([sys.executable, "-m", "quietcore", "agent"], stdout=stream, stderr=stream)
        self.expect("agent-started")

    def said(self):
        return self.log.read_text().splitlines()

    def told(self, word, *parts):
        """Its lines since the test began."""
        return [line for line in self.said()[self.since :] if line.startswith(word) and all(part in line for part in parts)]

    def expect(self, word, *parts):
        eventually(lambda: self.told(word, *parts), f"no {word} {parts}: {self.log.read_text()}")

    def repairs_at_once(self, drift, *parts):
        """Make a drift that an event tells. A look that happened to come first saw it without one: then once more."""
        for count in range(1, 21):
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
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def agents(hypervisor, tmp_path_factory):
    """Gives the agent that tests share, with nothing told yet; one that has ended is followed by another."""
    del hypervisor
    product.configure(AGENT)
    running = []

    def current():
        if not running or running[-1].process.poll() is not None:
            running.append(Agent(tmp_path_factory.mktemp("agent")))
        running[-1].since = len(running[-1].said())
        return running[-1]

    yield current
    assert [one.end() for one in running] == [0] * len(running)


@pytest.fixture
def agent(agents):
    one = agents()
    yield one
    assert one.process.poll() is None, one.log.read_text()


@pytest.fixture(scope="module")
def standing(agents, tmp_path_factory):
    """The VM that tests share, one at a time."""
    agents()
    one = product.Standing(partial(product.start, tmp_path_factory.mktemp("vms")))
    yield one
    one.end()


@pytest.fixture
def steady(agent, standing):
    """A VM of two vCPUs on the two threads of a core; the test may spoil it and must see the agent mend it."""
    del agent
    with standing.lent("steady", topology=(1, 1, 2)) as vm:
        yield vm


@pytest.fixture
def run(agent, standing, tmp_path):
    """Start VMs through the agent; at the end they are deleted and every CPU is everybody's again."""
    del agent
    standing.end()
    yield partial(product.start, tmp_path)
    product.delete_all(tmp_path)


def in_place(vm):
    return vm.vcpus_allowed() == {vcpu: CpuSet.of(pcpu) for vcpu, pcpu in vm.pcpus.items()}


def sound(name):
    return product.quietcore("verify", name).code == 0


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
        started = subprocess.run(["timeout", str(PATIENCE_S), "systemctl", "start", "quietcore-agent.service"], check=False)
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


@pytest.mark.lab("2s4n16c", "systemd")
def test_the_kernels_events_reach_the_agent(agent):
    assert not any(line.startswith("no-process-events") for line in agent.said())


@pytest.mark.lab("2s4n16c", "systemd")
def test_a_vcpu_thread_that_leaves_for_any_group_is_put_back_at_once(steady, agent):
    home, repairs = steady.group_of_vcpu(0), product.RunningVm.of("steady").described["agent"]["repairs"]
    agent.repairs_at_once(lambda: Cgroup(home.path.parent / "emulator").set("cgroup.threads", steady.vcpu_tids[0]), "vCPU 0")
    agent.until(lambda: steady.group_of_vcpu(0) == home and in_place(steady) and sound("steady"), "it stays away")
    care = product.RunningVm.of("steady").described["agent"]
    assert care["repairs"] > repairs
    assert care["lastReactionSeconds"] > 0


def test_a_partition_that_becomes_invalid_is_made_again(steady, agent):
    group = steady.group_of_vcpu(0)
    Cgroup(group.path.parent).set("cpuset.cpus.exclusive", steady.pcpus[1])
    agent.expect("drift-repaired", "cpuset.cpus.exclusive")
    agent.until(lambda: group.get("cpuset.cpus.partition") == "isolated" and in_place(steady) and sound("steady"), "it stays invalid")


def test_a_quota_is_lifted_at_once(steady, agent):
    agent.repairs_at_once(lambda: steady.group_of_vcpu(0).set("cpu.max", "20000 100000"), "cpu.max")
    agent.until(lambda: steady.group_of_vcpu(0).get("cpu.max").startswith("max") and sound("steady"), "the quota stays")


def test_a_cpu_that_goes_offline_is_told_and_its_vcpu_is_put_back_when_it_returns(steady, agent):
    with restored(CPUS / f"cpu{steady.pcpus[1]}/online") as switch:
        write(switch, "0")
        agent.expect("finding", "cpu-offline", f"cpu {steady.pcpus[1]}")
    agent.until(lambda: in_place(steady) and sound("steady"), "it does not return")


def test_smt_that_is_switched_off_is_told(steady, agent):
    assert CpuSet.parse(read(CPUS / f"cpu{steady.pcpus[0]}/topology/thread_siblings_list")) == steady.dedicated
    with restored(CPUS / "smt/control") as switch:
        write(switch, "off")
        agent.expect("finding", "smt-changed")
        agent.expect("finding", "cpu-offline")
    agent.until(lambda: in_place(steady) and sound("steady"), "it does not return")


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
