"""A described machine as the sysfs files that a kernel would show for it, for fake hosts and recorded test data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quietcore.machines.sysfs import CPU, HUGEPAGES, NODE
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode


def _numbers(machine: Machine, wanted: Callable[[LogicalCpu], bool]) -> str:
    return f"{CpuSet.from_iterable(cpu.cpu for cpu in machine.cpus if wanted(cpu))}\n"


def _node_files(machine: Machine, node: NumaNode) -> dict[str, str]:
    folder = f"{NODE}/node{node.node}"
    files = {
        f"{folder}/cpulist": f"{machine.cpus_of_node(node.node)}\n",
        f"{folder}/meminfo": f"Node {node.node} MemTotal:       {node.memory_bytes // 1024} kB\n",
    }
    if node.distances:
        files[f"{folder}/distance"] = " ".join(str(node.distances[other.node]) for other in machine.nodes) + "\n"
    for size, count in node.hugepages.items():
        pages = f"{folder}/hugepages/hugepages-{size // 1024}kB"
        files[f"{pages}/nr_hugepages"] = f"{count}\n"
        files[f"{pages}/free_hugepages"] = f"{(node.free_hugepages or node.hugepages)[size]}\n"
    return files


def sysfs_of(machine: Machine) -> dict[str, str]:
    """The files below / (paths without a leading slash) that `machines.from_tree` reads back as the same machine."""
    allowed = machine.online if machine.allowed is None else machine.allowed
    kinds = {cpu.kind for cpu in machine.cpus}
    files = {
        f"{CPU}/online": f"{machine.online}\n",
        f"{CPU}/present": f"{machine.online | machine.offline}\n",
        f"{CPU}/isolated": f"{machine.isolated}\n",
        f"{NODE}/online": f"{CpuSet.from_iterable(node.node for node in machine.nodes)}\n",
        "proc/cpuinfo": f"model name\t: {machine.cpu_model}\n",
        "proc/meminfo": f"MemTotal:       {sum(node.memory_bytes for node in machine.nodes) // 1024} kB\n",
        "proc/self/status": f"Cpus_allowed_list:\t{allowed}\n",
        "proc/sys/kernel/arch": f"{machine.architecture}\n",
        "sys/fs/cgroup/cpuset.cpus.effective": f"{allowed}\n",
    }
    if kinds != {""}:
        files["sys/devices/cpu_core/cpus"] = _numbers(machine, lambda cpu: cpu.kind == "performance")
        files["sys/devices/cpu_atom/cpus"] = _numbers(machine, lambda cpu: cpu.kind == "efficiency")
    cores, groups = machine.cores(), {l3: CpuSet() for l3 in {cpu.l3 for cpu in machine.cpus}}
    for cpu in machine.cpus:
        groups[cpu.l3] |= CpuSet.of(cpu.cpu)
    for cpu in machine.cpus:
        folder = f"{CPU}/cpu{cpu.cpu}"
        files[f"{folder}/topology/core_cpus_list"] = f"{cores[cpu.core]}\n"
        files[f"{folder}/topology/physical_package_id"] = f"{cpu.socket}\n"
        files[f"{folder}/cache/index0/level"] = "1\n"
        files[f"{folder}/cache/index1/level"] = "3\n"
        files[f"{folder}/cache/index1/id"] = f"{cpu.l3}\n"
        files[f"{folder}/cache/index1/shared_cpu_list"] = f"{groups[cpu.l3]}\n"
        if cpu.max_khz:
            files[f"{folder}/cpufreq/cpuinfo_max_freq"] = f"{cpu.max_khz}\n"
    for node in machine.nodes:
        files |= _node_files(machine, node)
    return dict(sorted(files.items()))


def without_numa(files: dict[str, str]) -> dict[str, str]:
    """The same files as a kernel built without NUMA shows them: hugepages only in total."""
    kept = {path: text for path, text in files.items() if not path.startswith(NODE)}
    for path, text in files.items():
        if path.startswith(f"{NODE}/node") and "/hugepages/" in path:
            total = f"{HUGEPAGES}/{path.partition('/hugepages/')[2]}"
            kept[total] = f"{int(kept.get(total, '0')) + int(text)}\n"
    return kept


def write_tree(root: Path, files: dict[str, str]) -> None:
    """Lay the files out below a folder, as the root of a fake host."""
    for path, text in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
