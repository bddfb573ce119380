"""A machine from the texts of /sys and /proc: pure, so that a recorded tree gives the same answer anywhere.

Paths are relative to the root ("sys/devices/system/cpu/online"). `host.topology` says which files are recorded.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from quietcore.errors import InputError, Problem
from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode, union
from quietcore.model.machine import LOCAL_DISTANCE, CoreKind

CPU: Final = "sys/devices/system/cpu"
NODE: Final = "sys/devices/system/node"
HUGEPAGES: Final = "sys/kernel/mm/hugepages"
EFFECTIVE_CPUS: Final = (
    "sys/fs/cgroup/cpuset.cpus.effective",
    "sys/fs/cgroup/unified/cpuset.cpus.effective",
    "sys/fs/cgroup/cpuset/cpuset.effective_cpus",
    "sys/fs/cgroup/cpuset/cpuset.cpus",
)
"""The CPUs of the topmost cpuset that this system sees: cgroup v2, hybrid, v1. In a container that is the container's own."""
AFFINITIES: Final = ("proc/self/status", "proc/1/status")
ISOLATED: Final = (f"{CPU}/isolated", "sys/fs/cgroup/cpuset.cpus.isolated")
"""isolcpus= of the command line; partitions (root of cgroup v2 from Linux 6.7). The first file never shows partitions."""
FAST_CPUS: Final = "sys/devices/cpu_core/cpus"
SLOW_CPUS: Final = ("sys/devices/cpu_atom/cpus", "sys/devices/cpu_lowpower/cpus")
SPEEDS: Final = ("cpu_capacity", "acpi_cppc/highest_perf", "cpufreq/cpuinfo_max_freq")
"""Per CPU, the better evidence first."""

_HUGEPAGES: Final = re.compile(r"(.*)/hugepages-(\d+)kB/nr_hugepages")
_KIB: Final = 1024
_CACHES: Final = 10
"""More cache folders than any CPU has."""


class _Tree:
    """The recorded texts, and every fault that was met while reading them."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.problems: list[Problem] = []
        sizes: dict[str, list[int]] = defaultdict(list)
        for match in filter(None, map(_HUGEPAGES.fullmatch, sorted(files))):
            sizes[match[1]].append(int(match[2]))
        self.hugepage_sizes = {folder: sorted(found) for folder, found in sizes.items()}

    def fault(self, path: str, message: str) -> None:
        self.problems.append(Problem(message=message, field=path, hint="record the machine again"))

    def text(self, path: str) -> str:
        return self.files.get(path, "").strip()

    def cpus(self, path: str) -> CpuSet:
        try:
            return CpuSet.parse(self.text(path))
        except ValueError as err:
            self.fault(path, str(err))
            return CpuSet()

    def number(self, path: str, default: int = 0) -> int:
        text = self.text(path)
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            self.fault(path, f"{text[:40]!r} is no whole number")
            return default

    def after(self, path: str, label: str) -> str:
        """What follows "label" and a colon in a file of such lines; "" where there is none."""
        match = re.search(rf"^[^:\n]*\b{re.escape(label)}\s*:[ \t]*(.*)$", self.files.get(path, ""), re.MULTILINE)
        return match[1].strip() if match else ""

    def memory_bytes(self, path: str) -> int:
        amount = self.after(path, "MemTotal")
        if not amount and path not in self.files:
            return 0
        number, _, unit = amount.partition(" ")
        if not number.isdecimal() or unit != "kB":
            self.fault(path, f"MemTotal is {amount!r}, not a number of kB")
            return 0
        return int(number) * _KIB


def from_tree(files: Mapping[str, str], *, name: str = "host", owned: CpuSet = CpuSet()) -> Machine:
    """Build a machine from the texts of its sysfs files.

    `owned` are CPUs that our ledger has given to VMs, see `propose_allowed`. A kernel without NUMA gives node 0 with all
    memory; CPUs without a topology folder are cores of their own. Core ids count online threads only, because the kernel
    forgets where an offline CPU sits, and so does the kubelet. Raises InputError with every file that cannot be read as meant.
    """
    tree = _Tree(files)
    online = tree.cpus(f"{CPU}/online")
    if not online and not tree.problems:
        tree.fault(f"{CPU}/online", "the file is missing or empty, so this is no recording of a Linux machine")
    home, nodes = _nodes(tree)
    cpus = _cpus(tree, online, home)
    offline = tree.cpus(f"{CPU}/present") - online  # the file `offline` also counts CPUs that are merely possible
    isolated = union([tree.cpus(path) for path in ISOLATED])
    allowed = _allowed(tree, online, owned)
    if tree.problems:
        raise InputError.of(tuple(tree.problems))
    return Machine(
        name=name,
        cpus=cpus,
        nodes=nodes,
        offline=offline,
        allowed=allowed,
        isolated=isolated & (online | offline),
        architecture=_architecture(tree),
        cpu_model=tree.after("proc/cpuinfo", "model name"),
    )


def propose_allowed(files: Mapping[str, str], *, owned: CpuSet = CpuSet()) -> CpuSet | None:
    """The online CPUs that this system may hand out; None when that is all of them.

    The measure is the topmost cpuset that this system sees (the container's own, in a container), not the affinity of this
    process: affinity loses every CPU under isolcpus=, and a narrowed system.slice says nothing about the VMs' slice. That
    cpuset's *effective* list also loses the CPUs of isolated partitions below it, for every task of the host. Those that
    are missing because our own VMs have them are `owned` and still usable; what another program's partition holds is not,
    since the kernel would refuse a second claim. Without any cpuset files, the affinities of this process and of init
    are all there is.
    """
    tree = _Tree(files)
    allowed = _allowed(tree, tree.cpus(f"{CPU}/online"), owned)
    if tree.problems:
        raise InputError.of(tuple(tree.problems))
    return allowed


def _allowed(tree: _Tree, online: CpuSet, owned: CpuSet) -> CpuSet | None:
    cpuset = next((path for path in EFFECTIVE_CPUS if tree.text(path)), None)
    visible = tree.cpus(cpuset) if cpuset else union([_affinity(tree, path) for path in AFFINITIES])
    if not visible:
        return None
    allowed = (visible | owned) & online
    return None if allowed == online else allowed


def _affinity(tree: _Tree, path: str) -> CpuSet:
    try:
        return CpuSet.parse(tree.after(path, "Cpus_allowed_list"))
    except ValueError as err:
        tree.fault(path, str(err))
        return CpuSet()


def _nodes(tree: _Tree) -> tuple[Mapping[int, int], tuple[NumaNode, ...]]:
    """CPU -> node, and the nodes."""
    numbers = tuple(tree.cpus(f"{NODE}/online"))
    if not numbers:
        total, free = _hugepages(tree, HUGEPAGES)
        memory = tree.memory_bytes("proc/meminfo")
        return {}, (
            NumaNode(node=0, memory_bytes=memory, hugepages=total, free_hugepages=free, distances=_distances([0], [LOCAL_DISTANCE])),
        )
    home: dict[int, int] = {}
    nodes = []
    for number in numbers:
        folder = f"{NODE}/node{number}"
        home.update(dict.fromkeys(tree.cpus(f"{folder}/cpulist"), number))
        total, free = _hugepages(tree, f"{folder}/hugepages")
        row = tree.text(f"{folder}/distance").split()
        if row and (len(row) != len(numbers) or not all(word.isdecimal() for word in row)):
            tree.fault(f"{folder}/distance", f"{' '.join(row)!r} is not one distance for each of {len(numbers)} nodes")
            row = []
        distances = _distances(numbers, [int(word) for word in row])
        memory = tree.memory_bytes(f"{folder}/meminfo")
        nodes.append(NumaNode(node=number, memory_bytes=memory, hugepages=total, free_hugepages=free, distances=distances))
    return home, tuple(nodes)


def _distances(nodes: Sequence[int], row: Sequence[int]) -> Mapping[int, int]:
    return MappingProxyType(dict(zip(nodes, row, strict=False)))  # an empty row says nothing about any node


def _hugepages(tree: _Tree, folder: str) -> tuple[Mapping[int, int], Mapping[int, int]]:
    """Page size in bytes -> pages in total, and free."""
    total, free = {}, {}
    for size_kib in tree.hugepage_sizes.get(folder, ()):
        where = f"{folder}/hugepages-{size_kib}kB"
        total[size_kib * _KIB] = tree.number(f"{where}/nr_hugepages")
        free[size_kib * _KIB] = tree.number(f"{where}/free_hugepages")
    return MappingProxyType(total), MappingProxyType(free)


def _cpus(tree: _Tree, online: CpuSet, home: Mapping[int, int]) -> tuple[LogicalCpu, ...]:
    first_node = min(home.values(), default=0)
    l3_of = _l3_ids(tree, online)
    kind_of = _kinds(tree, online)
    cpus = []
    for cpu in online:
        topology = f"{CPU}/cpu{cpu}/topology"
        threads = tree.cpus(f"{topology}/core_cpus_list") or tree.cpus(f"{topology}/thread_siblings_list")
        socket = max(0, tree.number(f"{topology}/physical_package_id"))  # -1: firmware without package information
        cpus.append(
            LogicalCpu(
                cpu=cpu,
                core=((threads & online) | CpuSet.of(cpu)).lowest,
                socket=socket,
                node=home.get(cpu, first_node),
                l3=l3_of.get(cpu, socket),
                kind=kind_of.get(cpu, ""),
                max_khz=tree.number(f"{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq"),
            )
        )
    return tuple(cpus)


def _l3_ids(tree: _Tree, online: CpuSet) -> Mapping[int, int]:
    """CPU -> L3 id: the kernel's `id`, or on machines where that file is missing the lowest CPU of the group."""
    ids: dict[int, int] = {}
    lowest: dict[int, int] = {}
    for cpu in online:
        for index in range(_CACHES):
            folder = f"{CPU}/cpu{cpu}/cache/index{index}"
            if tree.text(f"{folder}/level") == "3":
                lowest[cpu] = ((tree.cpus(f"{folder}/shared_cpu_list") & online) | CpuSet.of(cpu)).lowest
                if tree.text(f"{folder}/id"):
                    ids[cpu] = tree.number(f"{folder}/id")
                break
    return ids if ids.keys() == lowest.keys() else lowest


def _kinds(tree: _Tree, online: CpuSet) -> Mapping[int, CoreKind]:
    """CPU -> kind on hybrid machines: the kernel's own lists (Intel), else the CPUs with at most two thirds of the top speed.

    Preferred cores of one kind differ by up to 30 % in `highest_perf` (AMD), cores of two kinds by more.
    """
    slow = union([tree.cpus(path) for path in SLOW_CPUS]) & online
    fast = tree.cpus(FAST_CPUS) & online
    if slow and fast:
        return {**dict.fromkeys(slow, "efficiency"), **dict.fromkeys(fast, "performance")}
    for source in SPEEDS:
        speed = {cpu: tree.number(f"{CPU}/cpu{cpu}/{source}") for cpu in online}
        top = max(speed.values(), default=0)
        if any(0 < 3 * one <= 2 * top for one in speed.values()):
            return {cpu: "efficiency" if 3 * one <= 2 * top else "performance" for cpu, one in speed.items()}
    return {}


def _architecture(tree: _Tree) -> str:
    """The kernel says it itself from 6.1; before, the words of cpuinfo tell."""
    told = tree.text("proc/sys/kernel/arch")
    if told:
        return told
    return "aarch64" if tree.after("proc/cpuinfo", "CPU implementer") else "x86_64"
