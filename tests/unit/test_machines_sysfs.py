"""Machines read from recorded sysfs files."""

from pathlib import Path

import pytest
from tests.machine_trees import sysfs_of, without_numa, write_tree

from quietcore.errors import InputError
from quietcore.host.fs import HostFs
from quietcore.host.topology import read_machine, record_tree
from quietcore.machines import dump_recording, from_tree, load_recording, propose_allowed
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode

GI = 1 << 30
PAGE_2M, PAGE_1G = 2 << 20, 1 << 30


def two_nodes_with_threads() -> Machine:
    """Two sockets with one node each, two cores of two threads on each; CPU n and n+4 are siblings."""
    cpus = tuple(LogicalCpu(cpu=cpu, core=cpu % 4, socket=cpu % 4 // 2, node=cpu % 4 // 2, l3=cpu % 4 // 2) for cpu in range(8))
    nodes = tuple(
        NumaNode(
            node=node,
            memory_bytes=16 * GI,
            hugepages={PAGE_2M: 100 + node, PAGE_1G: 4},
            free_hugepages={PAGE_2M: 90, PAGE_1G: node},
            distances={node: 10, 1 - node: 21},
        )
        for node in (0, 1)
    )
    return Machine(name="host", cpus=cpus, nodes=nodes)


def one_cpu_files() -> dict[str, str]:
    return {"sys/devices/system/cpu/online": "0\n", "sys/devices/system/cpu/present": "0\n", "proc/meminfo": "MemTotal: 1048576 kB\n"}


def test_a_machine_is_read_back_from_its_files() -> None:
    machine = two_nodes_with_threads()
    assert from_tree(sysfs_of(machine)) == machine


def test_a_recording_taken_through_the_host_is_the_same_machine(tmp_path: Path) -> None:
    machine = two_nodes_with_threads()
    write_tree(tmp_path, sysfs_of(machine))
    recorded = record_tree(HostFs(tmp_path))
    assert load_recording(dump_recording(recorded, name="host")) == machine == read_machine(HostFs(tmp_path))


def test_a_recording_holds_only_the_lines_that_matter(tmp_path: Path) -> None:
    files = sysfs_of(two_nodes_with_threads()) | {"proc/meminfo": "MemTotal: 8 kB\nMemFree: 7 kB\n", "etc/hostname": "secret\n"}
    files["proc/cpuinfo"] = "processor: 0\nmodel name: A\nserial: 1\nprocessor: 1\nmodel name: A\n"
    write_tree(tmp_path, files)
    recorded = record_tree(HostFs(tmp_path))
    assert (recorded["proc/meminfo"], recorded["proc/cpuinfo"]) == ("MemTotal: 8 kB\n", "model name: A\n")
    assert "etc/hostname" not in recorded


def test_this_host_can_be_read() -> None:
    machine = read_machine(HostFs())
    assert machine.usable
    assert sum(node.memory_bytes for node in machine.nodes) > 0


def test_a_kernel_without_numa_has_one_node_with_everything() -> None:
    machine = from_tree(without_numa(sysfs_of(two_nodes_with_threads())))
    hugepages, free = {PAGE_2M: 201, PAGE_1G: 8}, {PAGE_2M: 180, PAGE_1G: 1}
    assert machine.nodes == (NumaNode(node=0, memory_bytes=32 * GI, hugepages=hugepages, free_hugepages=free, distances={0: 10}),)
    assert machine.cpus_of_node(0) == CpuSet.parse("0-7")


def test_a_bare_tree_gives_cores_of_one_thread() -> None:
    machine = from_tree(one_cpu_files())
    assert machine.cpus == (LogicalCpu(cpu=0, core=0, socket=0, node=0, l3=0),)
    assert machine.nodes[0].memory_bytes == GI


def test_an_offline_cpu_is_no_thread_of_its_core_and_a_possible_one_is_not_offline() -> None:
    files = sysfs_of(two_nodes_with_threads())
    files["sys/devices/system/cpu/online"] = "1-7\n"
    files["sys/devices/system/cpu/offline"] = "0,8-63\n"
    files["sys/devices/system/cpu/cpu4/topology/core_cpus_list"] = "4\n"
    machine = from_tree(files)
    assert (machine.offline, machine.cpu(4).core) == (CpuSet.of(0), 4)


def test_memory_only_nodes_have_no_cpus() -> None:
    machine = two_nodes_with_threads()
    far = NumaNode(node=2, memory_bytes=64 * GI, free_hugepages={}, distances={0: 30, 1: 30, 2: 10})
    near = tuple(NumaNode(node=node, memory_bytes=GI, free_hugepages={}, distances={0: 10, 1: 10, 2: 30}) for node in (0, 1))
    machine = Machine(name="host", cpus=machine.cpus, nodes=(*near, far))
    assert from_tree(sysfs_of(machine)) == machine
    assert machine.cpus_of_node(2) == CpuSet()


def test_l3_groups_without_ids_are_named_by_their_lowest_cpu() -> None:
    files = {path: text for path, text in sysfs_of(two_nodes_with_threads()).items() if not path.endswith("/id")}
    assert [cpu.l3 for cpu in from_tree(files).cpus] == [0, 0, 2, 2, 0, 0, 2, 2]


def test_without_an_l3_the_socket_stands_in() -> None:
    files = {path: text for path, text in sysfs_of(two_nodes_with_threads()).items() if "/cache/" not in path}
    files["sys/devices/system/cpu/cpu3/topology/physical_package_id"] = "-1\n"
    assert [(cpu.socket, cpu.l3) for cpu in from_tree(files).cpus][:4] == [(0, 0), (0, 0), (1, 1), (0, 0)]


@pytest.mark.parametrize(
    ("source", "values", "kinds"),
    [
        ("cpu_capacity", (1024, 446), ("performance", "efficiency")),
        ("acpi_cppc/highest_perf", (196, 125), ("performance", "efficiency")),
        ("cpufreq/cpuinfo_max_freq", (5_100_000, 3_300_000), ("performance", "efficiency")),
        ("acpi_cppc/highest_perf", (236, 166), ("", "")),  # preferred cores of one kind
        ("cpu_capacity", (0, 1024), ("", "")),  # 0: the kernel does not say
    ],
)
def test_hybrid_cores_are_told_by_their_speed(source: str, values: tuple[int, int], kinds: tuple[str, str]) -> None:
    files = {"sys/devices/system/cpu/online": "0-1", "sys/devices/system/cpu/present": "0-1"}
    files |= {f"sys/devices/system/cpu/cpu{cpu}/{source}": f"{value}\n" for cpu, value in enumerate(values)}
    assert tuple(cpu.kind for cpu in from_tree(files).cpus) == kinds


def test_the_kernels_own_lists_of_hybrid_cores_win() -> None:
    files = {"sys/devices/system/cpu/online": "0-2", "sys/devices/cpu_core/cpus": "0\n", "sys/devices/cpu_atom/cpus": "1\n"}
    files["sys/devices/cpu_lowpower/cpus"] = "2\n"
    files |= {f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": "1024\n" for cpu in range(3)}
    assert [cpu.kind for cpu in from_tree(files).cpus] == ["performance", "efficiency", "efficiency"]


def test_isolated_cpus_come_from_the_command_line_and_from_partitions() -> None:
    files = sysfs_of(two_nodes_with_threads())
    files |= {"sys/devices/system/cpu/isolated": "2\n", "sys/fs/cgroup/cpuset.cpus.isolated": "3,7\n"}
    assert from_tree(files).isolated == CpuSet.parse("2-3,7")


def test_cpus_that_only_our_own_partitions_took_away_are_usable() -> None:
    files = sysfs_of(two_nodes_with_threads()) | {"sys/fs/cgroup/cpuset.cpus.effective": "0-1,4-6\n"}
    files["proc/self/status"] = "Cpus_allowed_list:\t0-1,4-6\n"
    assert from_tree(files, owned=CpuSet.parse("2-3,7")).allowed is None
    assert from_tree(files, owned=CpuSet.of(2)).usable == CpuSet.parse("0-2,4-6")  # 3 and 7 are in somebody else's partition


def test_a_container_may_use_its_own_cpuset_only() -> None:
    files = sysfs_of(two_nodes_with_threads()) | {"sys/fs/cgroup/cpuset.cpus.effective": "1,5\n"}
    assert from_tree(files).allowed == CpuSet.parse("1,5")


def test_a_narrow_affinity_forbids_nothing_where_the_cpuset_is_wide() -> None:
    files = sysfs_of(two_nodes_with_threads()) | {"proc/self/status": "Cpus_allowed_list:\t0\n", "sys/devices/system/cpu/isolated": "2-3"}
    assert from_tree(files).allowed is None


@pytest.mark.parametrize("path", ["sys/fs/cgroup/unified/cpuset.cpus.effective", "sys/fs/cgroup/cpuset/cpuset.cpus"])
def test_hybrid_and_v1_hierarchies_limit_as_well(path: str) -> None:
    files = sysfs_of(two_nodes_with_threads()) | {"sys/fs/cgroup/cpuset.cpus.effective": "\n", path: "0-3\n"}
    assert propose_allowed(files) == CpuSet.parse("0-3")


def test_without_cpuset_files_the_affinities_of_us_and_init_count() -> None:
    files = sysfs_of(two_nodes_with_threads())
    del files["sys/fs/cgroup/cpuset.cpus.effective"]
    files |= {"proc/self/status": "Name:\tx\nCpus_allowed_list:\t0\n", "proc/1/status": "Cpus_allowed_list:\t1-3\n"}
    assert propose_allowed(files) == CpuSet.parse("0-3")
    assert propose_allowed(files, owned=CpuSet.parse("4-7")) is None


def test_every_unreadable_file_is_named_at_once() -> None:
    files = sysfs_of(two_nodes_with_threads())
    files |= {
        "sys/devices/system/cpu/isolated": "x\n",
        "sys/devices/system/node/node0/distance": "10\n",
        "sys/devices/system/node/node1/meminfo": "Node 1 MemTotal: lots\n",
        "sys/devices/system/cpu/cpu3/topology/physical_package_id": "one\n",
    }
    with pytest.raises(InputError) as raised:
        from_tree(files)
    assert [problem.field for problem in raised.value.problems] == [
        "sys/devices/system/node/node0/distance",
        "sys/devices/system/node/node1/meminfo",
        "sys/devices/system/cpu/cpu3/topology/physical_package_id",
        "sys/devices/system/cpu/isolated",
    ]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("{", ""),
        ('{"kind": "Other"}', "kind"),
        ('{"kind": "MachineRecording", "version": 2}', "version"),
        ('{"kind": "MachineRecording", "version": 1, "name": 3, "files": {}}', "name"),
        ('{"kind": "MachineRecording", "version": 1, "files": {"a": 1}}', "files"),
        ('{"kind": "MachineRecording", "version": 1, "files": {}}', "sys/devices/system/cpu/online"),
    ],
)
def test_what_is_no_recording_is_refused_by_name(text: str, field: str) -> None:
    with pytest.raises(InputError) as raised:
        load_recording(text, file="m.json")
    assert [problem.field for problem in raised.value.problems] == [field]
