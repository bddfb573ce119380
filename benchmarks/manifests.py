"""Speed of manifests: read, default, validate, lower; the pod and the XML; a thousand documents; the worst files; the import.

Processor time, which on an idle machine is the wall time of this one-threaded work, and on a shared one still says what it costs.
Run as `python benchmarks/manifests.py`. There is no peer: KubeVirt's webhooks are a Go program inside of a cluster.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from _bench import Case, report

from quietcore import domain, manifest, placement, pod
from quietcore.model import Ledger, LogicalCpu, Machine, NumaNode, Options, Plan

REAL = Path(__file__).parents[1] / "tests" / "data" / "manifests" / "kubevirt-ug-realtime-corrected.yaml"
RUNS = 50
DOCUMENTS = 1000
UID = "11111111-2222-3333-4444-555555555555"


def machine() -> Machine:
    """16 CPUs with two threads per core and enough 1Gi pages for the real-time VM."""
    cpus = tuple(LogicalCpu(cpu=cpu, core=cpu % 8, socket=0, node=0, l3=0) for cpu in range(16))
    node = NumaNode(node=0, memory_bytes=64 << 30, hugepages={1 << 30: 16})
    return Machine(name="bench", cpus=cpus, nodes=(node,))


def to_xml(text: str, host: Machine) -> str:
    """The whole way of one VM."""
    spec = manifest.load([manifest.SourceText(file="vm.yaml", text=text)]).documents[0].spec
    plan = placement.admit(pod.launcher_pod(spec, strategy=spec.strategy or "dedicated", uid=UID), host, Ledger(), Options())
    assert isinstance(plan, Plan), plan
    files = {disk.name: domain.DiskFile(path=f"/vm/{disk.name}.img") for disk in spec.disks}
    return domain.compose(spec, plan, domain.Build(uuid=UID, disks=files)).xml


def worst_files() -> dict[str, str]:
    """Files that fill the reader's limits: those that took longest of some forty kinds of nonsense."""

    def fat(number: int) -> str:
        disks = ",".join(f"{{name: d{disk}}}" for disk in range(10))
        volumes = ",".join(f"{{name: d{disk},emptyDisk: {{capacity: 1Gi}}}}" for disk in range(10))
        spec = f"domain: {{memory: {{guest: 1Gi}},devices: {{disks: [{disks}]}}}},volumes: [{volumes}]"
        return f"{{apiVersion: kubevirt.io/v1,kind: VirtualMachineInstance,metadata: {{name: a{number}}},spec: {{{spec}}}}}\n"

    return {
        "1023 VMs of ten disks": "---\n".join(fat(number) for number in range(1023)),
        "2 MiB of numbers, refused": "[" + "1.5," * ((1 << 19) - 1) + "1]",
        "2 MiB of anchors, refused": "[" + ",".join(f"&a{number} b" for number in range(150_000)) + "]",
    }


def peak_case(case: str, text: str) -> Case:
    """How much a process grows while it reads one file."""
    # VmHWM and not ru_maxrss: that one begins with the peak of the process that forked this one.
    script = (
        "import sys; from quietcore import manifest; text = sys.stdin.read(); "
        "peak = lambda: next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "before = peak(); manifest.validate([manifest.SourceText(file='f', text=text)]); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], input=text, text=True, capture_output=True, check=True)
    return Case(case=case, metric="growth", unit="MB", ours=int(done.stdout) * 1024 / 1e6, spread=0.0, bound=200)


def costs(case: str, work: Callable[[], object], *, runs: int = 5, bound: float | None = None, remark: str = "") -> Case:
    """The median of the processor time of some runs, after one that warms up."""
    work()
    used = []
    for _ in range(runs):
        start = time.process_time()
        work()
        used.append((time.process_time() - start) * 1000)
    spread = max(used) - min(used)
    return Case(case=case, metric="median", unit="ms", ours=statistics.median(used), spread=spread, bound=bound, remark=remark)


def import_case(module: str, bound: float | None) -> Case:
    """The processor time of importing a module in a new process, less the start of that process."""
    times = []
    for _ in range(9):
        used = []
        for statement in ("pass", f"import {module}"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", statement], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
        times.append(used[1] - used[0])
    spread = max(times) - min(times)
    return Case(case=f"import {module}", metric="median", unit="ms", ours=statistics.median(times), spread=spread, bound=bound)


def main() -> None:
    """Measure and report."""
    text, host = REAL.read_text(encoding="utf-8"), machine()
    body = text.split("---\n", 1)[1]
    many = "---\n".join(body.replace("name: fedora-realtime\n", f"name: vm{number}\n") for number in range(DOCUMENTS))
    broken = many.replace("cores", "coers").replace("  realtime: {}", "  realtim: {}")

    def load(written: str) -> object:
        return manifest.problems_and_warnings([manifest.SourceText(file="vm.yaml", text=written)])

    report(
        "manifests",
        (
            costs("read, default, validate, lower one VM", lambda: load(text), runs=RUNS),
            costs("the same, then its pod, plan and XML", lambda: to_xml(text, host), runs=RUNS, bound=5),
            costs(f"validate {DOCUMENTS} documents", lambda: load(many), bound=5000, remark=f"{len(many) >> 10} KiB"),
            costs("the same, each with faults", lambda: load(broken), bound=5000, remark="stops after 200 faults"),
            *(costs(name, lambda text=worst: load(text), bound=1000) for name, worst in worst_files().items()),
            peak_case("1023 VMs of ten disks", worst_files()["1023 VMs of ten disks"]),
            peak_case(f"{DOCUMENTS} documents", many),
            import_case("quietcore.manifest", 150),
            import_case("quietcore.manifest, quietcore.pod, quietcore.placement, quietcore.domain", None),
        ),
    )


if __name__ == "__main__":
    main()
