"""The fake host with NUMA nodes: where a process's pages lie, cpusets that bind them, and the call that moves them."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lxml import etree

from quietcore.model import CpuSet
from quietcore.virt.hypervisor import DomainView
from tests.shell.fake_host import FakeFs, FakeHost, FakeHypervisor, FakeThreads

NODE = "/sys/devices/system/node"
PAGES = {4: 16384, 2048: 8}
"""KiB of a page -> pages of a new VM."""
PROGRAM = "7f00 default file=/usr/bin/qemu mapped=9 N0=9 kernelpagesize_kB=4\n"


class NumaThreads(FakeThreads):
    """`stuck` pages of each size cannot be moved."""

    fs: NumaFs
    stuck = 0

    def migrate_pages(self, pid: int, away: CpuSet, nodes: CpuSet) -> int:
        with self.faults.change(f"migrate {pid}", lambda: OSError(errno.EIO, "injected")):
            left = 0
            for size, places in self.fs.pages(pid).items():
                gone = [node for node in places if node in away]
                count = sum(places.pop(node) for node in gone)
                stays = min(self.stuck, count)
                places[nodes.lowest] = places.get(nodes.lowest, 0) + count - stays
                if stays:
                    places[gone[0]] = stays
                left += stays
                self.fs.put_pages(pid, size, places)
            return left


class NumaFs(FakeFs):
    """Where pages are, as numa_maps tells it."""

    def pages(self, pid: int) -> dict[int, dict[int, int]]:
        """KiB of a page -> node -> pages of the guest."""
        found = {}
        for line in self.read(f"/proc/{pid}/numa_maps").splitlines():
            if "file=" not in line:
                size = int(line.rpartition("=")[2])
                found[size] = {int(node): int(count) for node, count in re.findall(r"N(\d+)=(\d+)", line)}
        return found

    def put_pages(self, pid: int, size: int, places: dict[int, int]) -> None:
        rest = [line for line in self.read_or(f"/proc/{pid}/numa_maps", PROGRAM).splitlines() if not line.endswith(f"={size}")]
        rest = rest if size != 4 else [PROGRAM.strip(), *(line for line in rest if "file=" not in line)]
        huge = " huge" if size > 4 else ""
        counts = " ".join(f"N{node}={count}" for node, count in sorted(places.items()) if count)
        rest.append(f"7f{size} bind:{min(places)}{huge} anon=1 {counts} kernelpagesize_kB={size}")
        self.path(f"/proc/{pid}/numa_maps").write_text("\n".join(rest) + "\n")


class NumaHypervisor(FakeHypervisor):
    """libvirt with numatune: it binds the cpusets of a domain's groups at the start."""

    fs: NumaFs

    def create_paused(self, xml: str) -> DomainView:
        view = super().create_paused(xml)
        pid, nodes = self.pids[view.name], etree.fromstring(xml).xpath("string(numatune/memory/@nodeset)")
        for size, count in PAGES.items():
            self.fs.put_pages(pid, size, {CpuSet.parse(nodes or "0").lowest: count})
        home = self.fs.path(f"{self.fs.mount}/machine/qemu-{pid}-{view.name}.libvirt-qemu")
        for group in home.iterdir() if nodes and home.is_dir() else ():
            if group.is_dir():
                (group / "cpuset.mems").write_text(f"{nodes}\n")
        return view


@dataclass
class NumaHost(FakeHost):
    """Two nodes of four CPUs, each with 1 GiB free and 16 free pages of 2 MiB."""

    cpus: int = 8

    parts = NumaFs, NumaThreads, NumaHypervisor

    def __post_init__(self) -> None:
        super().__post_init__()
        files = {f"{NODE}/online": "0-1\n", f"{self.fs.mount}/cpuset.mems": "0-1\n"}
        for node in (0, 1):
            files |= {
                f"{NODE}/node{node}/cpulist": f"{4 * node}-{4 * node + 3}\n",
                f"{NODE}/node{node}/distance": "10 20\n" if node == 0 else "20 10\n",
                f"{NODE}/node{node}/meminfo": f"Node {node} MemTotal: 4194304 kB\nNode {node} MemFree: 1048576 kB\n",
                f"{NODE}/node{node}/hugepages/hugepages-2048kB/nr_hugepages": "64\n",
                f"{NODE}/node{node}/hugepages/hugepages-2048kB/free_hugepages": "16\n",
            }
        for path, text in files.items():
            place: Path = self.fs.path(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)

    def state(self) -> dict[str, Any]:
        """Also where every VM's memory is and is bound."""
        memory = {}
        for name in self.hypervisor.running:
            pid = self.hypervisor.pids[name]
            home = self.fs.path(f"{self.fs.mount}/machine/qemu-{pid}-{name}.libvirt-qemu")
            mems = {path.parent.name: path.read_text() for path in home.glob("*/cpuset.mems")} if home.is_dir() else {}
            memory[name] = (
                self.fs.pages(pid),
                mems,
                etree.fromstring(self.hypervisor.xmls[name]).xpath("string(numatune/memory/@nodeset)"),
            )
        return super().state() | {"memory": memory}
