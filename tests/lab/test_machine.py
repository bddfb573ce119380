"""The machine is the one that the table asks for, as the kernel sees it."""

from pathlib import Path

import pytest

from lab.looking import read
from lab.machines import OLDER, machine_named
from quietcore.model import CpuSet

SYSTEM = Path("/sys/devices/system")
EVERY_MACHINE = pytest.mark.lab("2s4n16c", "1s1n4c", "uneven", "systemd")


@pytest.fixture
def machine(row):
    return machine_named(row.rpartition("-")[0])


def node_folder(number):
    return SYSTEM / "node" / f"node{number}"


@EVERY_MACHINE
def test_cpus_cores_and_sockets_are_as_asked(machine):
    seen = {}
    for cpu in CpuSet.parse(read(SYSTEM / "cpu/online")):
        topology = SYSTEM / f"cpu/cpu{cpu}/topology"
        seen[cpu] = (int(read(topology / "physical_package_id")), read(topology / "thread_siblings_list"))
    per_socket = machine.cores * machine.threads
    wanted = {}
    for cpu in range(machine.cpus):
        first = cpu - cpu % machine.threads
        wanted[cpu] = (cpu // per_socket, str(CpuSet.from_iterable(range(first, first + machine.threads))))
    assert seen == wanted


@EVERY_MACHINE
def test_nodes_have_the_cpus_and_distances_of_the_table(machine):
    numbers = range(len(machine.nodes))
    assert CpuSet.parse(read(SYSTEM / "node/online")) == CpuSet.range(len(machine.nodes))
    assert [CpuSet.parse(read(node_folder(one) / "cpulist")) for one in numbers] == [machine.cpus_of(one) for one in numbers]
    distances = [[machine.distance(one, other) for other in numbers] for one in numbers]
    assert [[int(word) for word in read(node_folder(one) / "distance").split()] for one in numbers] == distances


@EVERY_MACHINE
def test_each_node_has_the_hugepages_that_were_asked_for(machine):
    folders = [node_folder(number) / "hugepages/hugepages-2048kB/nr_hugepages" for number in range(len(machine.nodes))]
    assert [int(read(folder)) if folder.exists() else 0 for folder in folders] == [node.hugepages for node in machine.nodes]


@pytest.mark.lab("uneven")
def test_a_node_may_have_cpus_without_memory_or_memory_without_cpus():
    totals = {}
    for number in range(4):
        words = read(node_folder(number) / "meminfo").splitlines()[0].split()
        totals[number] = int(words[3])
    assert totals[2] == 0
    assert totals[3] > 0
    assert CpuSet.parse(read(node_folder(2) / "cpulist")) == CpuSet.parse("6-7")
    assert read(node_folder(3) / "cpulist") == ""
    assert CpuSet.parse(read(SYSTEM / "node/has_memory")) == CpuSet.of(0, 1, 3)
    assert CpuSet.parse(read(SYSTEM / "node/has_cpu")) == CpuSet.of(0, 1, 2)


@pytest.mark.lab("1s1n4c", "2s4n16c")
def test_only_a_machine_that_asks_for_it_is_isolated_at_boot(machine):
    assert CpuSet.parse(read(SYSTEM / "cpu/isolated")) == machine.isolated
    # Without nohz_full= the kernel prints "(null)" there.
    assert read(SYSTEM / "cpu/nohz_full").strip() in {str(machine.isolated), "(null)"}


@pytest.mark.lab("1s1n4c")
def test_smt_is_not_there_where_it_was_not_asked_for():
    assert read(SYSTEM / "cpu/smt/active") == "0"


@pytest.mark.lab
@pytest.mark.kernel_differs
def test_the_kernel_is_the_real_time_kernel_of_its_series(row):
    assert read("/sys/kernel/realtime") == "1"
    assert Path("/proc/sys/kernel/osrelease").read_text().startswith(row.rpartition("-")[2] + ".")


@pytest.mark.lab
@pytest.mark.kernel_differs
def test_exclusive_cpusets_exist_on_the_newer_kernel_only(row):
    from lab.inside import scratch_group

    with scratch_group("exclusive") as group:
        newer = not row.endswith(f"-{OLDER}")
        names = ("cpuset.cpus.exclusive", "cpuset.cpus.exclusive.effective")
        assert [group.has(name) for name in names] == [newer, newer]
        assert Path("/sys/fs/cgroup/cpuset.cpus.isolated").exists() == newer
