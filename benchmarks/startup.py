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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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
        program.keep_for_the_peer()
        cases = [*program.startup(""), *program.listing("")]
        with program.agent():
            cases += [*program.startup(", an agent answers"), *program.listing(", an agent answers")]
        report("startup", [*cases, place_64_threads()])


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """What one whole process took: from its start to its end, on processors (its own and its children's), at its peak."""

    wall_ms: float
    processor_ms: float
    peak_mib: float


def whole(command: list[str | Path], environment: dict[str, str]) -> Whole:
    """Run a process to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    complaint = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    wall_ms = (time.perf_counter() - began) * 1000
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}\n{complaint}")
    return Whole(wall_ms=wall_ms, processor_ms=(usage.ru_utime + usage.ru_stime) * 1000, peak_mib=usage.ru_maxrss / 1024)


class Program:
    """The command with a state directory of its own."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder = folder
        self.uri = uri
        self.manifest = PROJECT / "examples/quickstart.yaml"
        self.xml, self.files, self.kept = folder / "domain.xml", folder / "state/vms/default_quickstart", folder / "kept"
        config = [f'[paths]\nstate = "{folder}/state"', f'[hypervisor]\nuri = "{uri}"\nacceleration = "tcg"\nqemu_user = "root"']
        config += [f'[agent]\nsocket = "{folder}/agent.sock"\n']
        (folder / "config.toml").write_text("\n".join(config))
        self.environment = {**os.environ, "QUIETCORE_CONFIG": str(folder / "config.toml")}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode

    def run(self, *arguments: str) -> Whole:
        """One whole command."""
        return whole([PROJECT / ".venv/bin/quietcore", "--quiet", *arguments], self.environment)

    @contextmanager
    def agent(self) -> Iterator[None]:
        """An agent that answers."""
        process = subprocess.Popen([PROJECT / ".venv/bin/quietcore", "agent"], env=self.environment, stderr=subprocess.DEVNULL)
        try:
            while not (self.folder / "agent.sock").exists():
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(30)

    def keep_for_the_peer(self) -> None:
        """Keep the XML and the files of the VM, so that the peer boots the same kernel from the same place."""
        self.run("run", "-f", str(self.manifest))
        connection = libvirt.open(self.uri)
        self.xml.write_text(connection.lookupByName("default_quickstart").XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        connection.close()
        shutil.copytree(self.files, self.kept, symlinks=True)
        self.run("delete", "quickstart", "--now")

    def startup(self, how: str) -> list[Case]:
        """`run` of the quickstart and plain libvirt's create of the same XML, in turn."""
        connection = libvirt.open(self.uri)
        ours, peers = [], []
        for _ in range(RUNS):
            ours.append(self.run("run", "-f", str(self.manifest)))
            self.run("delete", "quickstart", "--now")
            shutil.copytree(self.kept, self.files, symlinks=True)
            peers.append(whole([PROJECT / ".venv/bin/python", "-c", PEER, self.uri, self.xml], self.environment))
            connection.lookupByName("default_quickstart").destroy()
            shutil.rmtree(self.files)
        connection.close()
        return [
            _beside(f"run of the quickstart{how}", "wall", [one.wall_ms for one in ours], [one.wall_ms for one in peers], "bound 1.3"),
            _beside(f"run of the quickstart{how}", "processor", [one.processor_ms for one in ours], [one.processor_ms for one in peers]),
        ]

    def listing(self, how: str) -> list[Case]:
        """`get vms` with one VM running."""
        self.run("run", "-f", str(self.manifest))
        measured = [self.run("get", "vms") for _ in range(RUNS)]
        self.run("delete", "quickstart", "--now")
        return [
            _alone(f"get vms{how}", "wall", "ms", [one.wall_ms for one in measured], bound=250),
            _alone(f"get vms{how}", "processor", "ms", [one.processor_ms for one in measured]),
            _alone(f"get vms{how}", "peak memory", "MiB", [one.peak_mib for one in measured], bound=80 / 1.048576),
        ]


def _alone(case: str, metric: str, unit: str, values: list[float], *, bound: float | None = None) -> Case:
    return Case(case=case, metric=metric, unit=unit, ours=statistics.median(values), spread=max(values) - min(values), bound=bound)


def _beside(case: str, metric: str, ours: list[float], peers: list[float], bound: str = "") -> Case:
    ratios = sorted(one / other for one, other in zip(ours, peers, strict=True))
    return Case(
        case=case,
        metric=metric,
        unit="ms",
        ours=statistics.median(ours),
        spread=max(ours) - min(ours),
        peer=statistics.median(peers),
        peer_name="libvirt createXML + resume, whole process",
        remark=f"pair by pair {ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f} {bound}".rstrip(),
    )


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
