"""Who runs on a VM's dedicated CPUs: the three strategies and plain libvirt pinning side by side, with disk and console I/O in the guest.

Real QEMU threads in a private libvirtd with TCG, as root; the demo guest computes on every vCPU, reads and writes a disk with an I/O
thread, and prints on its console. The times come from a trace of the scheduler (tracefs), exact to every switch, or, where there is no
tracefs, from cpuacct's counters per CPU (cgroup v1), which know no causes; the table says which. A window in which anything but the VM
had more than 6 % of its CPUs is void and repeated.

Usage: make bench NAME=isolation                on this host as it is
       make bench NAME=isolation ARGS="--lab 6.12"     in a lab machine with cgroup v2 and partitions
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any, Final, Self

PROJECT = Path(__file__).parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "scripts")]

import _bench  # noqa: E402
import libvirt  # noqa: E402  # the distribution's binding, as the tests use it
from lxml import etree  # noqa: E402

from quietcore import manifest  # noqa: E402
from quietcore.cli.context import App, read_config  # noqa: E402
from quietcore.cli.main import run_cli  # noqa: E402
from quietcore.engine.observe import Observation, observe  # noqa: E402
from quietcore.engine.world import World  # noqa: E402
from quietcore.host import accounting, tracing  # noqa: E402
from quietcore.host.cgroups import v1_mount  # noqa: E402
from quietcore.host.fs import HostFs  # noqa: E402
from quietcore.host.threads import cgroup_of, kernel_tasks  # noqa: E402
from quietcore.machines import parse_spec  # noqa: E402
from quietcore.model import CpuSet, Entry, Ledger, Refusal, VmName  # noqa: E402
from quietcore.proof import Attribution, Runner, Tasks, attribute, parse_trace  # noqa: E402

INSIDE: Final = bool(os.environ.get("QUIETCORE_LAB"))
NAME, IMAGE, PLAIN = "isolation", "quietcore.io/demo:1", "plain"
INSTANCE: Final = "quietcore-bench"
VOID_PERCENT: Final = 6.0
PROMPT: Final = b"demo:/# "
FIT_MACHINE: Final = "sockets=2,nodes=2,cores=64,threads=2,mem=4096Gi"
FIT_VCPUS: Final = (1, 2, 4, 8)
LIBVIRT: Final = ("vcpupin", "all pinned")
"""libvirt alone: <vcpupin>, and with it <emulatorpin> and <iothreadpin>, as a careful administrator writes them."""
STRATEGIES: Final = (*LIBVIRT, "whole", "housekeeping", "dedicated")
BY_CAUSE: Final[tuple[tuple[str, tuple[Runner, ...]], ...]] = (
    ("the VM's own other threads", ("own",)),
    ("the kernel's threads", ("kernel",)),
    ("other tasks", ("other",)),
)
LOAD: Final = (
    "for n in $(seq {vcpus}); do while :; do :; done & done; "
    "while :; do dd if=/dev/zero of=/dev/vda bs=64k count=16 conv=fsync; echo 3 >/proc/sys/vm/drop_caches; "
    "dd if=/dev/vda of=/dev/null bs=64k count=16; cat /proc/interrupts; done 2>&1 &\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What one window showed. `traced` and `start` (from the order to create the VM to its running) are None without tracefs, `counted`
    (the VM's own other threads and foreigners on its CPUs, in ns) without cpuacct. Counters of the vCPUs are sums.
    """

    ns: int
    cpus: CpuSet
    vcpus: accounting.ThreadTimes
    disk_requests: int
    console_bytes: int
    counted: tuple[int, int] | None
    traced: Attribution | None
    lost: int
    start: Attribution | None

    @property
    def own_ns(self) -> int:
        """The time of the VM's own threads that are no vCPUs on its dedicated CPUs."""
        return self.traced.ran["own"].time_ns if self.traced is not None else self.counted[0] if self.counted is not None else -1

    @property
    def foreign_percent(self) -> float:
        """What everybody but the VM had of its CPUs."""
        if self.traced is not None:
            return self.traced.foreign_percent
        return 100 * self.counted[1] / (self.ns * len(self.cpus)) if self.counted is not None else 100.0

    @property
    def void(self) -> bool:
        """Whether others had so much of the CPUs, or the trace has such holes, that nothing can be said."""
        return self.lost > 0 or self.foreign_percent > VOID_PERCENT


def main() -> int:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", metavar="KERNEL", help="run in a lab machine on this kernel: 6.12, or 6.1, which has no partitions")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a window (default: %(default)s)")
    parser.add_argument("--starts", type=int, default=1 if INSIDE else 5, help="how often each VM is started (default: 5; in the lab 1)")
    parser.add_argument("--windows", type=int, default=5 if INSIDE else 1, help="windows on each start (default: 1; in the lab 5)")
    parser.add_argument("--vcpus", type=int, default=2 if INSIDE else 1, help="vCPUs of the VM (default: 1; in the lab 2)")
    parser.add_argument("--only", choices=STRATEGIES, action="append", help="measure these only")
    options = parser.parse_args()
    if options.lab:
        return in_lab(options.lab, [word for word in sys.argv[1:] if word not in {"--lab", options.lab} and word != f"--lab={options.lab}"])
    if os.geteuid() != 0:
        print("isolation: needs root; not measured", file=sys.stderr)
        return 77
    fs = HostFs()
    if not tracing.tracefs(fs):
        with_tracefs()
    if not tracing.tracefs(fs) and accounting.usage_ns(fs, "/") is None:
        print("isolation: this host has neither tracefs nor cpuacct: nothing counts exactly here; not measured", file=sys.stderr)
        return 77
    libvirt.registerErrorHandler(lambda *_: None, None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qc-bench-")))
        bench = Bench(folder, stack.enter_context(hypervisor(folder)), stack.enter_context(scheduler_trace(fs)), options.vcpus)
        stack.callback(bench.close)
        found = bench.measure(options.only or STRATEGIES, options.starts, options.windows, options.seconds)
        report(found, bench, options)
    return 0


def report(found: Mapping[str, Sequence[Window]], bench: Bench, options: argparse.Namespace) -> None:
    """Print the strategies side by side and store every figure."""
    valid = {strategy: [one for one in windows if not one.void] for strategy, windows in found.items()}
    one = next((window for windows in found.values() for window in windows), None)
    cases, rows = [], [("", *found)]
    for metric, unit, value in metrics(one):
        row = [f"{metric}, {unit}" if unit else metric]
        for strategy, windows in valid.items():
            values = [value(window) for window in (found[strategy] if metric == FOREIGN else windows)]
            if not values:
                row.append("void" if found[strategy] else "does not fit")
                continue
            zero = metric == OWN and strategy in {"housekeeping", "dedicated"}
            case = _bench.Case(
                case=strategy,
                metric=metric,
                unit=unit,
                ours=statistics.median(values),
                spread=max(values) - min(values),
                bound=0 if zero else None,
            )
            cases.append(case)
            missed = " MISSED, must be 0" if zero and max(values) > 0 else ""
            row.append(f"{figure(case.ours)} ({figure(case.spread)}){missed}")
        rows.append(tuple(row))
    rows.append(
        ("windows that count (void ones)", *(f"{len(valid[name])} ({len(all_) - len(valid[name])})" for name, all_ in found.items()))
    )
    rows += capacity(found, bench, options.vcpus, cases)
    name = "isolation-lab" if INSIDE else "isolation"
    _bench.store(name, cases, Path("/out") if INSIDE else _bench.OUTPUT)
    print(f"{name} on {_bench.host()}; VMs of {options.vcpus} vCPUs")
    print(f"counted by: {source(one)}; medians of windows of {options.seconds:g} s (spread)\n")
    _bench.print_table(rows)
    for strategy, windows in found.items():
        names = Counter[str]()
        for window in windows:
            if window.start is not None:
                names.update({comm: ns for (runner, comm), ns in window.start.names.items() if runner == "own"})
        if names:
            each = ", ".join(f"{comm} {figure(ns / len(windows) / 1e6)} ms" for comm, ns in names.most_common(5))
            print(f"{strategy}: the VM's own other threads on its CPUs during a start: {each}")


OWN: Final = "the VM's own other threads on its vCPUs' CPUs"
FOREIGN: Final = "foreign time on these CPUs (void windows too)"


def metrics(one: Window | None) -> Iterator[tuple[str, str, Callable[[Window], float]]]:
    """The lines of the table that are measured: what, unit, and its value in a window."""
    traced = one is not None and one.traced is not None
    yield OWN, "ms/s", lambda window: window.own_ns * 1000 / window.ns
    if traced:
        yield "  how often they came on", "1/s", lambda window: per_s(window, seen(window).ran["own"].times)
    if one is not None and one.counted is not None:
        yield "  their time by cpuacct's counters", "ms/s", lambda window: (window.counted or (0, 0))[0] * 1000 / window.ns
    if traced:
        yield "  their time during the start", "ms", lambda window: window.start.ran["own"].time_ns / 1e6 if window.start else 0.0
    yield "involuntary switches of the vCPUs", "1/s", lambda window: per_s(window, window.vcpus.preempted)
    if traced:
        for cause, runners in BY_CAUSE:
            yield (
                f"  for {cause}",
                "1/s",
                lambda window, runners=runners: per_s(window, sum(seen(window).preempted[one] for one in runners)),
            )
    yield "run delay of the vCPUs", "ms/s", lambda window: window.vcpus.waited_ns * 1000 / window.ns
    if traced:
        for cause, runners in (*BY_CAUSE, ("nobody (the CPU wakes up) or a vCPU", ("idle", "vcpu"))):
            yield (
                f"  behind {cause}",
                "ms/s",
                lambda window, runners=runners: sum(seen(window).waited_ns[one] for one in runners) * 1000 / window.ns,
            )
    yield FOREIGN, "%", lambda window: window.foreign_percent
    yield "the guest's disk requests", "1/s", lambda window: per_s(window, window.disk_requests)
    yield "the guest's console output", "bytes/s", lambda window: per_s(window, window.console_bytes)


def seen(window: Window) -> Attribution:
    """The trace of a window that has one."""
    assert window.traced is not None
    return window.traced


def per_s(window: Window, count: int) -> float:
    """A count as a rate."""
    return count * 1e9 / window.ns


def figure(value: float) -> str:
    """Three digits that count; 0 is exactly 0."""
    return "0" if value == 0 else f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def source(one: Window | None) -> str:
    """What counted."""
    if one is None:
        return "nothing"
    if one.traced is not None:
        return "a trace of every switch (tracefs)" + (", and cpuacct's counters per CPU beside it" if one.counted is not None else "")
    return "cpuacct's counters per CPU (no tracefs here: causes are not known)"


def capacity(found: Mapping[str, Sequence[Window]], bench: Bench, vcpus: int, cases: list[_bench.Case]) -> list[tuple[str, ...]]:
    """What a VM pays, and how many fit; libvirt itself keeps no books and refuses none."""
    rows = []
    for count in sorted({vcpus, *FIT_VCPUS}):
        fits = {strategy: bench.fitting(strategy, count) for strategy in found if strategy not in LIBVIRT}
        for name, index in (("CPUs owned by a VM", 1), ("such VMs on 128 CPUs", 0)):
            rows.append((f"{name}, {count} vCPUs", *(str(fits[one][index]) if one in fits else "no books" for one in found)))
            cases += [
                _bench.Case(case=one, metric=f"{name}, {count} vCPUs", unit="", ours=fit[index], spread=0) for one, fit in fits.items()
            ]
    return rows


def in_lab(kernel: str, arguments: Sequence[str]) -> int:
    """The same inside a lab machine."""
    _bench.OUTPUT.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "benchmarks/isolation.py", *arguments])
    argv = [sys.executable, "-m", "lab", "--kernel", kernel, "--out", str(_bench.OUTPUT), "--", command]
    return subprocess.run(argv, cwd=PROJECT, env={**os.environ, "PYTHONPATH": "scripts"}, check=False).returncode


def with_tracefs() -> None:
    """Go on in a mount namespace that has tracefs, where the kernel knows it: the host's mounts stay as they are."""
    place = "/sys/kernel/tracing"
    if "tracefs" in Path("/proc/filesystems").read_text().split() and Path(place).is_dir():
        script = f'mount -t tracefs tracefs {place}; exec "$@"'
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", sys.executable, *sys.argv])


def hypervisor(folder: Path) -> AbstractContextManager[str]:
    """A libvirtd of our own; its address."""
    if INSIDE:
        return inside_libvirtd()
    return private_libvirtd(folder)


@contextmanager
def inside_libvirtd() -> Iterator[str]:
    """The lab's own."""
    from lab.hypervisor import libvirtd  # noqa: PLC0415

    with libvirtd():
        yield "qemu:///system"


@contextmanager
def private_libvirtd(folder: Path) -> Iterator[str]:
    """The tests' private one."""
    from tests.libvirt import daemon  # noqa: PLC0415

    with daemon.private_libvirtd(folder / "libvirt") as one:
        yield one.uri


class Bench:
    """One libvirt, quietcore with a state directory of its own, and the demo guest."""

    def __init__(self, folder: Path, uri: str, trace: tracing.Tracer | None, vcpus: int) -> None:
        self._folder = folder
        self._tracer = trace
        self._vcpus = vcpus
        config = [f'[paths]\nstate = "{folder}/state"', f'[hypervisor]\nuri = "{uri}"\nacceleration = "tcg"\nqemu_user = "root"\n']
        (folder / "config.toml").write_text("\n".join(config))
        os.environ["QUIETCORE_CONFIG"] = str(folder / "config.toml")
        self._app = App(config=read_config(os.environ["QUIETCORE_CONFIG"], None), quiet=True)
        self._connection = libvirt.open(uri)
        guest = subprocess.run(["/usr/bin/python3", PROJECT / "scripts/demo_guest.py"], check=True, capture_output=True, text=True).stdout
        quietcore("image", "import", IMAGE, guest.strip())

    @property
    def world(self) -> World:
        """This host."""
        return self._app.world

    def close(self) -> None:
        """End what runs."""
        self.end()
        self._connection.close()

    def measure(self, strategies: Sequence[str], starts: int, windows: int, seconds: float) -> dict[str, list[Window]]:
        """Windows of each strategy; the strategies take turns, and a void window is tried once more. One that does not fit has none."""
        found: dict[str, list[Window]] = {strategy: [] for strategy in strategies}
        for _ in range(2):
            for turn in range(starts):
                for strategy in (*strategies[turn % len(strategies) :], *strategies[: turn % len(strategies)]):
                    wanted = starts * windows - sum(not one.void for one in found[strategy])
                    if wanted > 0 and self.plan(strategy):
                        found[strategy] += self._start_and_watch(strategy, min(wanted, windows), seconds)
        return found

    def plan(self, strategy: str) -> CpuSet:
        """The CPUs that the vCPUs will have; none where the VM does not fit this host."""
        answer = json.loads(quietcore("plan", "-f", str(self.manifest(strategy)), "-o", "json", accept=(0, 3)))["items"][0]
        return CpuSet.from_iterable(one["pcpu"] for one in answer.get("vcpus", []) if answer["outcome"] == "plan")

    def manifest(self, strategy: str) -> Path:
        """The VM; libvirt's own pinning takes the CPUs of `dedicated`."""
        path = self._folder / f"{strategy.replace(' ', '-')}.json"
        path.write_text(vm_manifest(strategy if strategy in {"whole", "housekeeping"} else "dedicated", self._vcpus))
        return path

    def _start_and_watch(self, strategy: str, windows: int, seconds: float) -> list[Window]:
        cpus = self.plan(strategy)
        template = self._template if strategy in LIBVIRT else ""
        with ExitStack() as stack:
            stack.callback(self.end)
            start = None
            if self._tracer is not None:
                self._tracer.record(cpus, frozenset())
            began_ns = time.monotonic_ns()
            domain = self._start(strategy, template)
            ended_ns = time.monotonic_ns()
            seen = observe(self.world, VmName(name=NAME), domain=domain)
            if self._tracer is not None:
                start, _ = self._attributed(self._tracer, cpus, seen, began_ns, ended_ns)
            console = stack.enter_context(Console(self._connection.lookupByName(domain).XMLDesc()))
            os.sched_setaffinity(0, os.sched_getaffinity(0) - set(cpus))  # the measuring runs beside, not there
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0) | set(cpus))
            console.wait_for(PROMPT)
            console.send(LOAD.format(vcpus=self._vcpus))
            time.sleep(max(2.0, seconds / 5))
            counted = stack.enter_context(cpuacct_groups(self.world.fs, observe(self.world, VmName(name=NAME), domain=domain)))
            return [replace(self._window(domain, cpus, seconds, console, counted), start=start) for _ in range(windows)]

    def _window(
        self, domain: str, cpus: CpuSet, seconds: float, console: Console, counted: Callable[[CpuSet], tuple[int, int] | None]
    ) -> Window:
        seen = observe(self.world, VmName(name=NAME), domain=domain)
        disk, printed = self._disk_requests(domain), console.received
        if self._tracer is not None:
            self._tracer.record(cpus, frozenset(thread.tid for thread in seen.census.vcpus))
        before, counted_before = self._counters(seen), counted(cpus)
        start_ns = time.monotonic_ns()
        time.sleep(seconds)
        end_ns = time.monotonic_ns()
        after, counted_after = self._counters(seen), counted(cpus)
        traced, lost = self._attributed(self._tracer, cpus, seen, start_ns, end_ns) if self._tracer is not None else (None, 0)
        window = Window(
            ns=end_ns - start_ns,
            cpus=cpus,
            vcpus=accounting.ThreadTimes(
                ran_ns=after.ran_ns - before.ran_ns,
                waited_ns=after.waited_ns - before.waited_ns,
                preempted=after.preempted - before.preempted,
            ),
            disk_requests=self._disk_requests(domain) - disk,
            console_bytes=console.received - printed,
            counted=(counted_after[0] - counted_before[0], counted_after[1] - counted_before[1])
            if counted_before and counted_after
            else None,
            traced=traced,
            lost=lost,
            start=None,
        )
        if not window.disk_requests or not window.console_bytes:
            raise SystemExit("isolation: the guest did no I/O: nothing was measured")
        verdict = ("void" if window.void else "counts") + (f", {lost} events of the trace lost" if lost else "")
        counters = f" ({window.counted[0]} ns by cpuacct)" if window.counted else ""
        print(
            f"{domain} on {cpus}: own {window.own_ns} ns{counters}, foreign {window.foreign_percent:.1f} %: {verdict}",
            file=sys.stderr,
            flush=True,
        )
        return window

    def _attributed(self, trace: tracing.Tracer, cpus: CpuSet, seen: Observation, start_ns: int, end_ns: int) -> tuple[Attribution, int]:
        """What the trace says, and how many events it has lost."""
        trace.stop()
        vcpus = frozenset(thread.tid for thread in seen.census.vcpus)
        own = frozenset(thread.tid for thread in seen.census.others)
        tasks = Tasks(vcpus=vcpus, own=own, kernel=kernel_tasks(self.world.fs) - own)
        return attribute(parse_trace(trace.text()), cpus, tasks, start_ns, end_ns), trace.lost()

    def _counters(self, seen: Observation) -> accounting.ThreadTimes:
        """The vCPUs' counters together."""
        pid = seen.census.pid
        each = [accounting.thread_times(self.world.fs, pid, thread.tid) for thread in seen.census.vcpus]
        return accounting.ThreadTimes(
            ran_ns=sum(one.ran_ns for one in each),
            waited_ns=sum(one.waited_ns for one in each),
            preempted=sum(one.preempted for one in each),
        )

    def _disk_requests(self, domain: str) -> int:
        reads, _, writes, *_ = self._connection.lookupByName(domain).blockStats("vda")
        return int(reads + writes)

    def _start(self, strategy: str, template: str) -> str:
        """Start the VM; its domain's name."""
        if not template:
            quietcore("run", "-f", str(self.manifest(strategy)))
            return VmName(name=NAME).domain
        root = etree.fromstring(template)
        if strategy == "vcpupin":
            for place in (*root.iterfind("cputune/emulatorpin"), *root.iterfind("cputune/iothreadpin")):
                place.getparent().remove(place)
            root.find("vcpu").attrib.pop("cpuset", None)
        self._connection.createXML(etree.tostring(root, encoding="unicode"))
        return PLAIN

    @cached_property
    def _template(self) -> str:
        """The very XML of `dedicated`, under another name and with copies of its files."""
        quietcore("run", "-f", str(self.manifest("dedicated")))
        name = VmName(name=NAME).domain
        xml = self._connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        files = self._folder / "state/vms" / name
        shutil.copytree(files, self._folder / PLAIN)
        self.end()
        root = etree.fromstring(xml.replace(str(files), str(self._folder / PLAIN)))
        root.find("name").text = PLAIN
        for place in (root.find("uuid"), root.find("metadata")):
            root.remove(place)
        return etree.tostring(root, encoding="unicode")

    def end(self) -> None:
        """End the VM, whoever started it."""
        with suppress(libvirt.libvirtError):
            self._connection.lookupByName(PLAIN).destroy()
        quietcore("delete", NAME, "--now", "--ignore-not-found")

    def fitting(self, strategy: str, vcpus: int) -> tuple[int, int]:
        """How many such VMs the managers admit on a machine of 128 CPUs before the first refusal, and how many CPUs each of them owns."""
        machine, books = parse_spec(FIT_MACHINE), Ledger()
        (document,) = manifest.load([manifest.SourceText(file="vm.json", text=vm_manifest(strategy, vcpus))]).documents
        while True:
            spec = replace(document.spec, vm=VmName(name=f"vm{len(books.entries):03}"))
            answer = self._app.engine.plan(spec, machine, books).answer
            if isinstance(answer, Refusal):
                return len(books.entries), len(books.owned) // len(books.entries)
            books = books.with_entry(Entry(spec=spec, digest="", manifest="", phase="running", plan=answer))


class Console:
    """The guest's serial console, read all the time so that it never stands still."""

    def __init__(self, xml: str) -> None:
        self._path = etree.fromstring(xml).find("devices/console").get("tty")
        self._heard = b""
        self._stop = threading.Event()
        self.received = 0

    def __enter__(self) -> Self:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._reader.join()
        os.close(self._descriptor)

    def send(self, text: str) -> None:
        """Type something."""
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: bytes, within_s: float = 900.0) -> None:
        """Press Enter until the guest says this."""
        deadline = time.monotonic() + within_s
        while text not in self._heard:
            if time.monotonic() > deadline:
                raise SystemExit(f"isolation: the guest did not answer on its console; it said {self._heard!r}")
            self.send("\n")
            time.sleep(1.0)

    def _read(self) -> None:
        while not self._stop.is_set():
            try:
                chunk = os.read(self._descriptor, 65536)
            except BlockingIOError:
                chunk = b""
            except OSError:
                return  # the guest has ended
            self.received += len(chunk)
            self._heard = (self._heard + chunk)[-2000:]
            if not chunk:
                time.sleep(0.05)


@contextmanager
def scheduler_trace(fs: HostFs) -> Iterator[tracing.Tracer | None]:
    """An armed tracer; None where there is no tracefs. What a killed run left is removed first."""
    mount = tracing.tracefs(fs)
    if not mount:
        yield None
        return
    with suppress(FileNotFoundError):
        fs.rmdir(f"{mount}/instances/{INSTANCE}")
    with tracing.tracer(fs, mount, INSTANCE) as trace:
        yield trace


@contextmanager
def cpuacct_groups(fs: HostFs, seen: Observation) -> Iterator[Callable[[CpuSet], tuple[int, int] | None]]:
    """Put the VM's threads into two groups of cgroup v1's cpuacct hierarchy, which decides nothing and only counts.

    Gives a function that says what, on some CPUs, the threads that are no vCPUs (and those that they make later) and all others of the
    host have used since then. libvirt makes no groups there where cpuacct is mounted apart from cpu. None where there is no such hierarchy.
    """
    mount, groups = v1_mount(fs, "cpuacct"), (f"/{INSTANCE}-own", f"/{INSTANCE}-vcpus")
    if not mount:
        yield lambda _cpus: None
        return
    before = {thread.tid: cgroup_of(fs.read_or(f"/proc/{thread.tid}/cgroup", ""), 1, "cpuacct") for thread in seen.census.threads}
    with ExitStack() as undo:
        for group, threads in zip(groups, (seen.census.others, seen.census.vcpus), strict=True):
            fs.mkdir(f"{mount}{group}")
            undo.callback(_remove_group, fs, mount, group, before)
            for thread in threads:
                with suppress(ProcessLookupError):  # a worker that ended
                    fs.write(f"{mount}{group}/tasks", str(thread.tid))

        def used(cpus: CpuSet) -> tuple[int, int] | None:
            every, own, vcpus = (accounting.usage_ns(fs, group) for group in ("/", *groups))
            if every is None or own is None or vcpus is None:
                return None
            return sum(own[cpu] for cpu in cpus), sum(every[cpu] - own[cpu] - vcpus[cpu] for cpu in cpus)

        yield used


def _remove_group(fs: HostFs, mount: str, group: str, before: Mapping[int, str]) -> None:
    """Put the threads back where they were, those that were born here to the root; until none is born meanwhile."""
    for _ in range(100):
        for tid in fs.read(f"{mount}{group}/tasks").split():
            with suppress(ProcessLookupError):
                fs.write(f"{mount}{before.get(int(tid), '/').rstrip('/')}/tasks", tid)
        with suppress(OSError):
            fs.rmdir(f"{mount}{group}")
            return
    raise SystemExit(f"isolation: {mount}{group} stays busy; move its tasks away and remove it")


def quietcore(*words: str, accept: Sequence[int] = (0,)) -> str:
    """One command in this process; what it printed."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_cli(["--quiet", *words])
    if code not in accept:
        raise SystemExit(f"isolation: quietcore {' '.join(words)}: exit {int(code)}\n{out.getvalue()}{err.getvalue()}")
    return out.getvalue()


def vm_manifest(strategy: str, vcpus: int) -> str:
    """The demo guest with dedicated CPUs, a disk with an I/O thread and a serial console."""
    cpu: dict[str, Any] = {"cores": vcpus, "dedicatedCpuPlacement": True} | (
        {"isolateEmulatorThread": True} if strategy == "housekeeping" else {}
    )
    boot = {
        "kernelArgs": "console=ttyS0 tsc=reliable quiet panic=-1",
        "container": {"image": IMAGE, "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"},
    }
    devices = {
        "autoattachGraphicsDevice": False,
        "autoattachSerialConsole": True,
        "interfaces": [],
        "disks": [{"name": "scratch", "disk": {"bus": "virtio"}, "dedicatedIOThread": True}],
    }
    memory = {"requests": {"memory": "256Mi"}, "limits": {"memory": "256Mi"}}
    return json.dumps(
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {"name": NAME, "annotations": {"quietcore.io/strategy": strategy}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "domain": {
                    "cpu": cpu,
                    "ioThreadsPolicy": "shared",
                    "memory": {"guest": "256Mi"},
                    "resources": memory,
                    "devices": devices,
                    "firmware": {"kernelBoot": boot},
                },
                "volumes": [{"name": "scratch", "emptyDisk": {"capacity": "64Mi"}}],
            },
        }
    )


if __name__ == "__main__":
    sys.exit(main())
