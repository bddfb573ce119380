"""What `quietcore run` costs beside plain libvirt, what `get vms` costs, and how long 64 vCPU threads take to be placed.

Runs against a private libvirtd with TCG, as root; the peer creates the very same XML through libvirt alone. Usage: make bench NAME=startup
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

import libvirt  # noqa: E402  # the distribution's binding, as the tests use it
from _bench import Case, report  # noqa: E402
from tests.libvirt.daemon import private_libvirtd  # noqa: E402  # found below the project, which is no package here

from quietcore.engine.apply import Applier  # noqa: E402
from quietcore.host import cgroups, threads  # noqa: E402
from quietcore.host.fs import HostFs  # noqa: E402
from quietcore.isolation import isolate, mechanism_of  # noqa: E402
from quietcore.model import Applied, CpuSet, MakeGroup, Plan, SetValue, VcpuPlacement, VmName  # noqa: E402

RUNS = 7
PEER = """
import sys, libvirt
connection = libvirt.open(sys.argv[1])
domain = connection.createXML(open(sys.argv[2]).read(), libvirt.VIR_DOMAIN_START_PAUSED)
domain.resume()
"""


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qc-bench-")))
        daemon = stack.enter_context(private_libvirtd(folder / "libvirt"))
        program = Program(folder, daemon.uri)
        guest = subprocess.run(["/usr/bin/python3", PROJECT / "scripts/demo_guest.py"], check=True, capture_output=True, text=True).stdout
        program.run("image", "import", "quietcore.io/demo:1", guest.strip())
        report("startup", [*program.startup(), *program.listing(), place_64_threads()])


class Program:
    """The command with a state directory of its own."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri
        self.manifest = PROJECT / "examples/quickstart.yaml"
        config = [f'[paths]\nstate = "{folder}/state"', f'[hypervisor]\nuri = "{uri}"\nacceleration = "tcg"\nqemu_user = "root"\n']
        (folder / "config.toml").write_text("\n".join(config))
        self.environment = {**os.environ, "QUIETCORE_CONFIG": str(folder / "config.toml")}

    def run(self, *arguments: str) -> tuple[float, int]:
        """Wall seconds and peak kilobytes of one whole process."""
        began = time.perf_counter()
        process = subprocess.Popen(
            [PROJECT / ".venv/bin/quietcore", "--quiet", *arguments],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        complaint = process.stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"quietcore {' '.join(arguments)}: exit {process.returncode}\n{complaint}")
        return time.perf_counter() - began, usage.ru_maxrss

    def startup(self) -> list[Case]:
        """`run` of the quickstart and plain libvirt's create of the same XML, in turn."""
        self.run("run", "-f", str(self.manifest))
        xml = self.folder / "domain.xml"
        connection = libvirt.open(self.uri)
        xml.write_text(connection.lookupByName("default_quickstart").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        files, kept = self.folder / "state/vms/default_quickstart", self.folder / "kept"
        shutil.copytree(files, kept, symlinks=True)
        self.run("delete", "quickstart", "--now")
        ours, peers = [], []
        for _ in range(RUNS):
            ours.append(self.run("run", "-f", str(self.manifest))[0])
            self.run("delete", "quickstart", "--now")
            shutil.copytree(kept, files, symlinks=True)  # the peer boots the same kernel from the same place
            began = time.perf_counter()
            subprocess.run([PROJECT / ".venv/bin/python", "-c", PEER, self.uri, xml], check=True)
            peers.append(time.perf_counter() - began)
            connection.lookupByName("default_quickstart").destroy()
            shutil.rmtree(files)
        connection.close()
        ratios = sorted(one / other for one, other in zip(ours, peers, strict=True))
        return [
            Case(
                case="run of the quickstart, whole process",
                metric="median",
                unit="ms",
                ours=statistics.median(ours) * 1000,
                spread=(max(ours) - min(ours)) * 1000,
                peer=statistics.median(peers) * 1000,
                peer_name="libvirt createXML + resume, whole process",
                remark=f"ratio pair by pair: {ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f} (bound 1.3)",
            )
        ]

    def listing(self) -> list[Case]:
        """`get vms` with one VM running, time and memory of the whole process."""
        self.run("run", "-f", str(self.manifest))
        measured = [self.run("get", "vms") for _ in range(RUNS)]
        self.run("delete", "quickstart", "--now")
        times = [seconds * 1000 for seconds, _ in measured]
        sizes = [kilobytes / 1024 for _, kilobytes in measured]
        return [
            Case(case="get vms", metric="median", unit="ms", ours=statistics.median(times), spread=max(times) - min(times), bound=250),
            Case(case="get vms", metric="peak memory", unit="MiB", ours=max(sizes), spread=max(sizes) - min(sizes), bound=80 / 1.048576),
        ]


def place_64_threads() -> Case:
    """Census, move, affinity and policy of 64 sleeping threads that stand for vCPUs, every write read back; their groups exist."""
    fs, control = HostFs(), threads.KernelThreads()
    tree = cgroups.hierarchy(fs)
    stop = threading.Event()
    sleepers = [threading.Thread(target=stop.wait, daemon=True) for _ in range(64)]
    for one in sleepers:
        one.start()
    tids = {one.native_id: number for number, one in enumerate(sleepers) if one.native_id is not None}
    cpus = CpuSet.from_iterable(os.sched_getaffinity(0))
    vcpus = tuple(VcpuPlacement(vcpu=vcpu, pcpu=cpus.highest, realtime=True) for vcpu in range(64))
    plan = Plan(vm=VmName(name="startup"), uid="", strategy="dedicated", vcpus=vcpus, shared=cpus, emulator=cpus)
    applier = Applier(fs, control, tree)

    def place() -> tuple[float, list[Applied]]:
        began = time.perf_counter()
        seen = threads.census(fs, control, os.getpid(), vcpus=tids, iothreads={}, version=tree.version)
        around = cgroups.facts(fs, tree, cgroups.groups_of(fs, tree, seen, "bench_startup"), cgroups.Probe(works=False))
        applied = [applier.apply(step) for step in isolate(plan, seen, around, mechanism_of(plan, around)).steps]
        return (time.perf_counter() - began) * 1000, [one for one in applied if one is not None]

    _, made = place()
    times = []
    try:
        for _ in range(RUNS):
            _take_back(applier, [one for one in made if not isinstance(one.step, MakeGroup | SetValue)])
            milliseconds, moved = place()
            times.append(milliseconds)
            made = [*(one for one in made if isinstance(one.step, MakeGroup | SetValue)), *moved]
    finally:
        _take_back(applier, made)
        stop.set()
    return Case(
        case="64 vCPU threads: census, move, affinity, policy",
        metric="median",
        unit="ms",
        ours=statistics.median(times),
        spread=max(times) - min(times),
        bound=5,
        remark=f"{len(moved)} writes, each read back",
    )


def _take_back(applier: Applier, applied: list[Applied]) -> None:
    for one in reversed(applied):
        applier.undo(one)


if __name__ == "__main__":
    main()
