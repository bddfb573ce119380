"""libvirt and QEMU inside the lab: their own threads and cgroups, before any of our code touches them."""

import pytest

from lab.inside import CGROUP_ROOT, Cgroup, allowed, cgroup_of
from lab.looking import eventually, lasting_threads, read
from quietcore.model import CpuSet

pytestmark = pytest.mark.lab("2s4n16c")
XML = """
<domain type='qemu'>
  <name>plain</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <cputune>
    <vcpupin vcpu='0' cpuset='4'/><vcpupin vcpu='1' cpuset='5'/><emulatorpin cpuset='0-1'/>
  </cputune>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>
"""


@pytest.fixture
def domain(hypervisor):
    import libvirt

    domain = hypervisor.createXML(XML, libvirt.VIR_DOMAIN_START_PAUSED)
    yield domain
    for left in hypervisor.listAllDomains():
        left.destroy()


def vcpu_threads(domain):
    pid = int(read(f"/run/libvirt/qemu/{domain.name()}.pid"))
    names = {comm: tid for tid, comm in lasting_threads(pid).items()}
    return pid, names["CPU 0/TCG"], names["CPU 1/TCG"]


def test_libvirt_gives_each_vcpu_a_threaded_group_that_can_become_a_partition(domain):
    pid, first, second = vcpu_threads(domain)
    groups = [Cgroup(cgroup_of(tid)) for tid in (first, second)]
    vm = Cgroup(groups[0].path.parent)
    assert [group.path.name for group in groups] == ["vcpu0", "vcpu1"]
    assert [group.get("cgroup.type") for group in groups] == ["threaded", "threaded"]
    assert [allowed(tid) for tid in (first, second)] == [CpuSet.of(4), CpuSet.of(5)]
    assert allowed(pid) == CpuSet.of(0, 1)
    for level in (Cgroup(vm.path.parent), vm):
        level.set("cpuset.cpus.exclusive", "4-5")
    for group, cpu in zip(groups, (4, 5), strict=True):
        group.set("cpuset.cpus.exclusive", cpu)
        group.set("cpuset.cpus.partition", "isolated")
    assert [group.get("cpuset.cpus.partition") for group in groups] == ["isolated", "isolated"]
    assert allowed(1).isdisjoint(CpuSet.of(4, 5))
    domain.destroy()
    eventually(lambda: not vm.path.exists(), "libvirt leaves the group of a domain that is gone")
    assert read(CGROUP_ROOT / "cpuset.cpus.isolated") == ""
    assert CpuSet.of(4, 5) <= allowed(1)
