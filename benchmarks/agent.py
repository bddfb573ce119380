"""What the agent costs on a host where nothing happens, and how quickly it puts a moved vCPU thread back.

100 VMs of 4 vCPUs: real processes with real sleeping threads, in real cgroups (cpuset v1) below a scratch group that is removed
afterwards, behind a hypervisor that only answers which thread is which. The host need not have 400 CPUs, so the vCPUs have none of
their own; what is looked at and how often is the same. Root, cgroup v1. Usage: benchmarks/agent.py [--seconds 30]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import _bench

from quietcore.agent import Agent, Ears, EventLog
from quietcore.agent.routes import Routes
from quietcore.agent.server import Server
from quietcore.config import Config
from quietcore.engine import LedgerFile, World
from quietcore.host import cgroups
from quietcore.host.fs import HostFs
from quietcore.host.kvm import Acceleration
from quietcore.host.threads import KernelThreads
from quietcore.host.topology import read_machine
from quietcore.host.watch import Inotify, ProcessEvents
from quietcore.images import ImageStore, SubprocessRunner
from quietcore.model import CpuSpec, Entry, GuestTopology, Ledger, MemorySpec, Plan, VcpuPlacement, VmName, VmSpec
from quietcore.virt import LibvirtHypervisor
from quietcore.virt.hypervisor import DomainView, QemuThreads

VMS, VCPUS, OTHERS = 100, 4, 4
SCRATCH = f"/quietcore-bench-{os.getpid()}"
SLEEPERS = """
import os, signal, sys, threading
vms, threads = int(sys.argv[1]), int(sys.argv[2])
pids = []
for _ in range(vms):
    pid = os.fork()
    if pid == 0:
        for _ in range(threads - 1):
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        signal.pause()
        os._exit(0)
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.read()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
"""


class OnlyScratch(HostFs):
    """The real host, where nothing outside of the scratch group may be changed: others work here too."""

    def write(self, path: str, text: str) -> None:
        """Write below the scratch group."""
        self._check(path)
        super().write(path, text)

    def mkdir(self, path: str) -> None:
        """Make a group below the scratch group."""
        self._check(path)
        super().mkdir(path)

    def rmdir(self, path: str) -> None:
        """Remove a group below the scratch group."""
        self._check(path)
        super().rmdir(path)

    def _check(self, path: str) -> None:
        if f"{SCRATCH}/" not in path and not path.endswith(SCRATCH):
            raise PermissionError(f"{path} is not the benchmark's")


class Answering:
    """A hypervisor whose domains are the sleepers."""

    def __init__(self, domains: dict[str, QemuThreads]) -> None:
        self._threads = domains
        self._views = tuple(DomainView(name=name, uuid="", state="running", persistent=False) for name in sorted(domains))

    def domains(self) -> tuple[DomainView, ...]:
        """All of them."""
        return self._views

    def find(self, name: str) -> DomainView | None:
        """One of them."""
        return next((view for view in self._views if view.name == name), None)

    def threads(self, name: str) -> QemuThreads:
        """Which thread is which."""
        return self._threads[name]


def threads_of(pid: int) -> list[int]:
    """The threads of one sleeper, once it has all of them."""
    while len(found := sorted(int(one.name) for one in Path(f"/proc/{pid}/task").iterdir())) < VCPUS + OTHERS:
        time.sleep(0.01)
    return found


def furnish(mount: str, number: int, pid: int) -> QemuThreads:
    """Put one sleeper into groups as libvirt makes them."""
    home = f"{mount}{SCRATCH}/qemu-{number}-vm{number}.libvirt-qemu"
    tids = threads_of(pid)
    groups = {f"{home}/emulator": [tid for tid in tids if tid not in tids[1 : VCPUS + 1]]}
    groups |= {f"{home}/vcpu{vcpu}": [tids[1 + vcpu]] for vcpu in range(VCPUS)}
    for group in (home, *groups):
        make(group)
    for group, members in groups.items():
        for tid in members:
            Path(f"{group}/tasks").write_text(str(tid))
    return QemuThreads(vcpus={tids[1 + vcpu]: vcpu for vcpu in range(VCPUS)}, iothreads={})


def make(group: str) -> None:
    """One cpuset v1 group with all CPUs and memory of its parent."""
    path = Path(group)
    path.mkdir()
    for name in ("cpuset.mems", "cpuset.cpus"):
        (path / name).write_text((path.parent / name).read_text())


def remove(mount: str) -> None:
    """Remove the scratch groups, the innermost first; a group is busy until its last task is reaped."""
    root = Path(f"{mount}{SCRATCH}")
    for path in sorted((one for one in (root, *root.rglob("*")) if one.is_dir()), reverse=True):
        for _ in range(200):
            with suppress(FileNotFoundError):
                try:
                    path.rmdir()
                except OSError:
                    time.sleep(0.05)
                    continue
            break


def entries(world: World) -> Ledger:
    """The books: every VM on the shared pool."""
    shared = read_machine(world.fs).usable
    found = []
    for number in range(VMS):
        vm = VmName(name=f"vm{number:03}")
        spec = VmSpec(vm=vm, cpu=CpuSpec(topology=GuestTopology(cores=VCPUS)), memory=MemorySpec(guest_bytes=1 << 30))
        vcpus = tuple(VcpuPlacement(vcpu=vcpu) for vcpu in range(VCPUS))
        plan = Plan(vm=vm, uid=str(number), strategy="dedicated", vcpus=vcpus, shared=shared, emulator=shared)
        found.append(Entry(spec=spec, digest="", manifest="", phase="running", plan=plan, boot_id=world.boot_id, mechanism="cpuset-v1"))
    return Ledger(entries=tuple(found))


def idle(agent: Agent, seconds: float) -> float:
    """Percent of one CPU over one window."""
    before, end = time.process_time(), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        agent.step(left)
    return (time.process_time() - before) / seconds * 100


def reaction_ms(agent: Agent, world: World, mount: str, vm: VmName) -> float:
    """Move a vCPU thread of a VM to another group and wait until it is back."""
    tid = next(iter(world.hypervisor.threads(vm.domain).vcpus))
    group = Path(f"/proc/{tid}/cgroup").read_text()
    before = time.perf_counter()
    Path(f"{mount}/tasks").write_text(str(tid))
    while Path(f"/proc/{tid}/cgroup").read_text() != group:
        agent.step(1.0)
    return (time.perf_counter() - before) * 1000


def measure(agent: Agent, world: World, mount: str, seconds: float) -> list[_bench.Case]:
    """The table."""
    costs = [idle(agent, seconds) for _ in range(_bench.RUNS)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    times = []
    for number in range(20):
        time.sleep(0.6)  # looks at all VMs are at least half a second apart
        times.append(reaction_ms(agent, world, mount, VmName(name=f"vm{number:03}")))
    remark = f"windows of {seconds:.0f} s, each with one resync"
    return [
        _bench.Case(
            case=f"idle, {VMS} VMs of {VCPUS} vCPUs",
            metric="median",
            unit="% of a CPU",
            ours=statistics.median(costs),
            spread=max(costs) - min(costs),
            bound=0.5,
            remark=remark,
        ),
        _bench.Case(case="resident memory, at most", metric="maximum", unit="MB", ours=memory, spread=0.0, bound=100.0),
        _bench.Case(
            case="moved vCPU thread back in place",
            metric="median",
            unit="ms",
            ours=statistics.median(times),
            spread=max(times) - min(times),
            remark=f"longest {max(times):.1f} ms of {len(times)}, the write that moves it included",
        ),
    ]


def main() -> int:
    """Build, measure, remove."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a window")
    seconds = parser.parse_args().seconds
    fs = OnlyScratch()
    tree = cgroups.hierarchy(fs)
    if os.geteuid() != 0 or tree.version != 1 or not tree.writable:
        print("agent: needs root and a writable cpuset hierarchy of cgroup v1; not measured", file=sys.stderr)
        return 77
    with ExitStack() as undo:
        state = tempfile.mkdtemp(prefix="quietcore-bench-")
        undo.callback(shutil.rmtree, state)
        make(f"{tree.mount}{SCRATCH}")
        undo.callback(remove, tree.mount)
        sleepers = subprocess.Popen(
            [sys.executable, "-S", "-c", SLEEPERS, str(VMS), str(VCPUS + OTHERS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        undo.callback(end, sleepers)
        assert sleepers.stdout is not None
        pids = [int(word) for word in sleepers.stdout.readline().split()]
        domains = {f"default_vm{number:03}": furnish(tree.mount, number, pid) for number, pid in enumerate(pids)}
        with ExitStack() as releases:
            agent, world = begun(fs, Path(state), Answering(domains), releases, seconds)
            _bench.report("agent", measure(agent, world, tree.mount, seconds))
    return 0


def begun(fs: HostFs, state: Path, hypervisor: Answering, releases: ExitStack, resync_s: float) -> tuple[Agent, World]:
    """An agent with everything that the real one has: libvirt's library and event loop, its socket, its ears."""
    runner = SubprocessRunner()
    world = World(
        config=replace(Config(), state_dir=str(state), socket=str(state / "agent.sock")),
        fs=fs,
        control=KernelThreads(),
        hypervisor=hypervisor,  # type: ignore[arg-type]  # nothing is created here
        books=LedgerFile(state),
        store=ImageStore(state / "images", runner),
        runner=runner,
        acceleration=lambda: Acceleration(domain_type="qemu", reason="not used"),
        clock=time.monotonic,
        sleep=time.sleep,
    )
    world.books.save(entries(world))
    events = LibvirtHypervisor("test:///default")
    domains = events.listen()
    events.domains()
    log = EventLog(time.time)
    ears = Ears(files=Inotify(fs), books=Inotify(HostFs()), domains=domains, processes=ProcessEvents())
    agent = Agent(world, ears, log, resync_s=resync_s)
    server = Server(world.config, Routes(agent), log)
    releases.callback(server.server_close)
    agent.listen(server, server.handle_request)
    agent.begin()
    idle(agent, 1.0)
    wrong = [one.line for one in log.since() if one.event not in {"agent-started", "drift-repaired"}]
    if wrong or len(agent.caretaker.vms) != VMS:
        raise SystemExit("agent: not as it should be: " + "; ".join(wrong[:5]))
    return agent, world


def end(sleepers: subprocess.Popen[str]) -> None:
    """The sleepers' parent ends them when its input ends."""
    assert sleepers.stdin is not None
    sleepers.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        sleepers.wait(10)
    if sleepers.poll() is None:
        sleepers.send_signal(signal.SIGKILL)
    sleepers.wait()


if __name__ == "__main__":
    sys.exit(main())
