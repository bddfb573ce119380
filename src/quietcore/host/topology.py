"""This host's machine: the sysfs files that `machines.from_tree` understands are recorded, and the recording is read.

A recording holds only what is read: of long files the lines that matter. So two recordings differ when the hardware does,
and a user who sends one in sends no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from quietcore.machines import from_tree
from quietcore.machines.sysfs import AFFINITIES, CPU, EFFECTIVE_CPUS, FAST_CPUS, HUGEPAGES, ISOLATED, NODE, SLOW_CPUS, SPEEDS
from quietcore.model import CpuSet, Machine


class Reader(Protocol):
    """What is needed of the host's file system; paths are absolute."""

    def read(self, path: str) -> str:
        """The whole text of a file. Raises OSError."""

    def listdir(self, path: str) -> list[str]:
        """The names in a directory. Raises OSError."""


_WHOLE: Final = (
    *(f"{CPU}/{name}" for name in ("online", "present")),
    *ISOLATED,
    *EFFECTIVE_CPUS,
    FAST_CPUS,
    *SLOW_CPUS,
    f"{NODE}/online",
    "proc/sys/kernel/arch",
)
_LINES: Final[Mapping[str, tuple[str, ...]]] = {
    "proc/cpuinfo": ("model name", "CPU implementer"),
    "proc/meminfo": ("MemTotal",),
    **dict.fromkeys(AFFINITIES, ("Cpus_allowed_list",)),
}
_OF_CPU: Final = ("topology/core_cpus_list", "topology/physical_package_id", *SPEEDS)


def read_machine(fs: Reader, *, owned: CpuSet = CpuSet(), name: str = "host") -> Machine:
    """The machine as the kernel shows it now; `owned` are the CPUs of our VMs in the ledger (see `machines.propose_allowed`).

    Raises InputError where the files are not those of a Linux machine.
    """
    return from_tree(record_tree(fs), name=name, owned=owned)


def record_tree(fs: Reader) -> dict[str, str]:
    """Read exactly the files that `machines.from_tree` looks at, sorted by path; absent and unreadable ones are left out."""
    tree: dict[str, str] = {}
    for path in _WHOLE:
        _record(fs, path, tree)
    for path, labels in _LINES.items():
        _record(fs, path, tree, labels)
    for cpu in _parsed(tree.get(f"{CPU}/online", "")):
        _record_cpu(fs, f"{CPU}/cpu{cpu}", tree)
    for node in _parsed(tree.get(f"{NODE}/online", "")):
        folder = f"{NODE}/node{node}"
        _record(fs, f"{folder}/meminfo", tree, ("MemTotal",))
        for path in (f"{folder}/cpulist", f"{folder}/distance", *_of_hugepages(fs, f"{folder}/hugepages")):
            _record(fs, path, tree)
    for path in _of_hugepages(fs, HUGEPAGES):
        _record(fs, path, tree)
    return dict(sorted(tree.items()))


def _record_cpu(fs: Reader, folder: str, tree: dict[str, str]) -> None:
    for name in _OF_CPU:
        _record(fs, f"{folder}/{name}", tree)
    if f"{folder}/topology/core_cpus_list" not in tree:  # its name before Linux 5.3
        _record(fs, f"{folder}/topology/thread_siblings_list", tree)
    for index in _names(fs, f"{folder}/cache", "index"):
        cache = f"{folder}/cache/{index}"
        _record(fs, f"{cache}/level", tree)
        if tree.get(f"{cache}/level", "").strip() == "3":
            _record(fs, f"{cache}/id", tree)
            _record(fs, f"{cache}/shared_cpu_list", tree)


def _of_hugepages(fs: Reader, folder: str) -> Iterator[str]:
    for size in _names(fs, folder, "hugepages-"):
        for name in ("nr_hugepages", "free_hugepages"):
            yield f"{folder}/{size}/{name}"


def _names(fs: Reader, folder: str, prefix: str) -> list[str]:
    try:
        return sorted(name for name in fs.listdir(f"/{folder}") if name.startswith(prefix))
    except OSError:
        return []


def _parsed(text: str) -> CpuSet:
    try:
        return CpuSet.parse(text)
    except ValueError:  # from_tree reports it with the name of the file
        return CpuSet()


def _record(fs: Reader, path: str, tree: dict[str, str], labels: tuple[str, ...] = ()) -> None:
    try:
        text = fs.read(f"/{path}")
    except OSError:
        return
    if labels:
        text = _first_lines(text, labels)
    tree[path] = text


def _first_lines(text: str, labels: tuple[str, ...]) -> str:
    """The first line of each label."""
    kept: dict[str, str] = {}
    for line in text.splitlines(keepends=True):
        label = next((one for one in labels if one in line.partition(":")[0]), None)
        if label is not None:
            kept.setdefault(label, line)
    return "".join(kept.values())
