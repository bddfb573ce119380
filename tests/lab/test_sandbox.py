"""A sandbox on cgroup v2: each container's CPU becomes the partition of one vCPU and comes back, and in the end nothing was there."""

from pathlib import Path

import pytest

from lab import product
from lab.inside import CGROUP_ROOT, CPUS, Cgroup, allowed, cgroup_of
from lab.looking import eventually, lasting_threads, read
from quietcore.model import CpuSet

pytestmark = pytest.mark.lab("2s4n16c")
XML = """
<domain type='qemu'>
  <name>pod7</name>
  <memory unit='MiB'>64</memory>
  <vcpu current='2'>3</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>
"""


@pytest.fixture
def domain(hypervisor):
    """Somebody's domain; it runs, without a guest."""
    product.configure()
    domain = hypervisor.createXML(XML)
    yield domain
    domain.destroy()
    eventually(lambda: allowed(1) == CpuSet.parse(read(CPUS / "online")), "a sandbox keeps CPUs")


def sandbox(*words):
    answer = product.quietcore("sandbox", *words, "-o", "json")
    assert answer.code == 0, answer.err + answer.out
    return answer.value


def vm():
    return product.RunningVm.of("pod7")


def sound():
    answer = product.quietcore("verify", "pod7")
    return answer.code == 0 or pytest.fail(answer.out)


def as_it_stands(domain):
    """Every thread of QEMU that lasts, with its CPUs and group, and what its groups say."""
    pid = int(read(f"/run/libvirt/qemu/{domain.name()}.pid"))
    threads = {tid: (str(allowed(tid)), cgroup_of(tid)) for tid in lasting_threads(pid)}
    groups = {Path(group) for _, group in threads.values()}
    names = ("cpuset.cpus", "cpuset.cpus.exclusive", "cpuset.cpus.partition", "cpu.weight")
    files = {f"{group}/{name}": Cgroup(group).get(name) for group in {*groups, *(group.parent for group in groups)} for name in names}
    return threads, files, domain.XMLDesc()


def test_the_partitions_of_the_vcpus_follow_the_containers(domain):
    before = as_it_stands(domain)
    sandbox("create", "pod7", "--container", "web=4-5")
    assert vm().mechanism == "partition"
    assert vm().vcpus_allowed() == {0: CpuSet.of(4), 1: CpuSet.of(5)}
    assert sound()
    assert sandbox("update", "pod7", "--container", "web=5,12")["moved"] == [{"vcpu": 0, "from": 4, "to": 12}]
    assert vm().vcpus_allowed() == {0: CpuSet.of(12), 1: CpuSet.of(5)}
    assert read(CGROUP_ROOT / "cpuset.cpus.isolated") == "5,12"
    assert allowed(1).isdisjoint(CpuSet.of(5, 12))
    assert 4 in allowed(1)
    assert sound()

    domain.setVcpus(3)
    moved = sandbox("update", "pod7", "--container", "db=6", "--remove", "web", "--container", "log=7,12")
    assert sorted(one["pcpu"] for one in moved["map"]) == [6, 7, 12]
    assert vm().vcpus_allowed() == {0: CpuSet.of(12), 1: CpuSet.of(6), 2: CpuSet.of(7)}
    assert sound()

    sandbox("update", "pod7", "--remove", "log")
    online = CpuSet.parse(read(CPUS / "online"))
    assert vm().vcpus_allowed() == {0: online - CpuSet.of(6), 1: CpuSet.of(6), 2: online - CpuSet.of(6)}
    assert {vm().group_of_vcpu(vcpu).get("cpu.weight") for vcpu in (0, 2)} == {"100"}
    assert sound()
    sandbox("update", "pod7", "--remove", "db")
    assert read(CGROUP_ROOT / "cpuset.cpus.isolated") == ""
    assert sound()
    sandbox("update", "pod7", "--container", "web=4-6")
    assert sorted(map(str, vm().vcpus_allowed().values())) == ["4", "5", "6"]
    assert sound()

    assert product.quietcore("sandbox", "delete", "pod7").code == 0
    threads, files, _ = as_it_stands(domain)
    assert {tid: threads[tid] for tid in before[0]} == before[0]
    assert {name: files[name] for name in before[1]} == before[1]
    assert read(CGROUP_ROOT / "cpuset.cpus.isolated") == ""
