"""Our own reading of the host, on machines whose every detail is known, and the probe that decides about partitions."""

from pathlib import Path

import pytest

from lab.inside import CGROUP_ROOT, restored, write
from lab.looking import read
from lab.machines import OLDER, machine_named
from quietcore.host.cgroups import hierarchy, probe_partitions
from quietcore.host.fs import HostFs
from quietcore.host.topology import read_machine
from quietcore.model import CpuSet, LogicalCpu

PAGE = 2 << 20


@pytest.mark.lab("2s4n16c", "1s1n4c", "uneven", "systemd")
def test_the_machine_is_read_as_it_was_built(row):
    built, seen = machine_named(row.rpartition("-")[0]), read_machine(HostFs())
    per_socket = built.cores * built.threads
    assert [(one.cpu, one.core, one.socket, one.node, one.l3) for one in seen.cpus] == [
        (cpu, cpu - cpu % built.threads, cpu // per_socket, node, cpu // per_socket)
        for node in range(len(built.nodes))
        for cpu in built.cpus_of(node)
    ]
    assert all(isinstance(one, LogicalCpu) for one in seen.cpus)
    numbers = range(len(built.nodes))
    assert [dict(node.distances) for node in seen.nodes] == [{other: built.distance(one, other) for other in numbers} for one in numbers]
    assert [node.hugepages.get(PAGE, 0) for node in seen.nodes] == [node.hugepages for node in built.nodes]
    assert [node.memory_bytes > 0 for node in seen.nodes] == [node.memory_mib > 0 for node in built.nodes]
    assert seen.isolated == built.isolated


@pytest.mark.lab
def test_an_offline_cpu_is_seen_as_offline():
    with restored("/sys/devices/system/cpu/cpu6/online") as switch:
        write(switch, "0")
        seen = read_machine(HostFs())
    assert seen.offline == CpuSet.of(6)
    assert 6 not in seen.online


@pytest.mark.lab
@pytest.mark.kernel_differs
def test_the_probe_finds_partitions_on_the_newer_kernel_and_says_what_the_older_one_lacks(row):
    fs = HostFs()
    groups = sorted(path.name for path in CGROUP_ROOT.iterdir() if path.is_dir())
    probe = probe_partitions(fs, hierarchy(fs), 5)
    if row.endswith(f"-{OLDER}"):
        assert (probe.works, probe.why_not) == (False, "this kernel has no cpuset.cpus.exclusive")
    else:
        assert (probe.works, probe.why_not) == (True, "")
        assert read(CGROUP_ROOT / "cpuset.cpus.isolated") == ""
    assert sorted(path.name for path in CGROUP_ROOT.iterdir() if path.is_dir()) == groups
    assert not Path("/sys/fs/cgroup/quietcore-probe").exists()
