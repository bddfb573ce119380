"""Speed of placement: the allocators, the hint merge and whole admissions, and Nova's fit where it can be installed.

Run as `python benchmarks/placement.py`. Every machine and fill comes from a seeded generator, so two runs do the same work.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from _bench import Case, report, run_times_ms, timed
from _nova import Shape, ask, environment, shapes

from quietcore.model import (
    Assignment,
    Container,
    CpuPolicyOptions,
    CpuSet,
    Entry,
    GuestShape,
    GuestTopology,
    LauncherPod,
    Ledger,
    LogicalCpu,
    Machine,
    NumaNode,
    Options,
    Plan,
    Quantity,
    Refusal,
    VcpuPlacement,
    VmName,
)
from quietcore.model.spec import CpuSpec, MemorySpec, VmSpec
from quietcore.placement import CpuTopology, admit
from quietcore.placement.cpu_assignment import take_distributed, take_packed
from quietcore.placement.hardware import Hardware
from quietcore.placement.hints import Demand, HintFamily, NumaInfo
from quietcore.placement.topology_manager import merge
from quietcore.placement.vcpu_order import order_in_cells

GIB = 1 << 30
PAGE = 1 << 30


def machine(*, sockets: int, nodes: int, cpus: int, threads: int = 2, memory: int = 64 * GIB, pages: int = 32) -> Machine:
    """An even machine, threads numbered as on x86; `nodes` and `cpus` are totals."""
    cores = cpus // threads
    per_node = cores // nodes
    distances = {node: {other: 10 if node == other else 20 for other in range(nodes)} for node in range(nodes)}
    return Machine(
        name=f"{sockets} sockets, {nodes} nodes, {cpus} CPUs",
        cpus=tuple(
            LogicalCpu(
                cpu=core + thread * cores,
                core=core,
                socket=core // per_node * sockets // nodes,
                node=core // per_node,
                l3=core // per_node,
            )
            for thread in range(threads)
            for core in range(cores)
        ),
        nodes=tuple(NumaNode(node=node, memory_bytes=memory, hugepages={PAGE: pages}, distances=distances[node]) for node in range(nodes)),
    )


def topology(*, sockets: int, nodes: int, cpus: int) -> CpuTopology:
    """The same machine as the CPU Manager sees it."""
    return CpuTopology.from_machine(machine(sockets=sockets, nodes=nodes, cpus=cpus))


def random_free(rng: random.Random, cpus: int) -> CpuSet:
    """A fill as it comes about: any threads, or whole cores."""
    if rng.random() < 0.5:
        return CpuSet.from_iterable(rng.sample(range(cpus), rng.randint(cpus // 8, cpus)))
    cores = rng.sample(range(cpus // 2), rng.randint(cpus // 16, cpus // 2))
    return CpuSet.from_iterable(cpu for core in cores for cpu in (core, core + cpus // 2))


def packed() -> Iterator[Case]:
    """512 CPUs, 8 nodes, half used."""
    where, rng = topology(sockets=2, nodes=8, cpus=512), random.Random(1)
    free = CpuSet.from_iterable(rng.sample(range(512), 256))
    for count in (1, 16, 200):
        yield timed(
            f"packed, 512 CPUs, 8 NUMA nodes, half used, {count} wanted",
            lambda count=count: take_packed(where, free, count),
            runs=31,
            bound=1,
        )


def distributed(*, nodes: int, cpus: int, fills: int, bound: float) -> Iterator[Case]:
    """The worst of many random fills, group sizes and requests; both kinds of machine, few sockets and one per node."""
    for sockets in (2, nodes):
        where, rng = topology(sockets=sockets, nodes=nodes, cpus=cpus), random.Random(2)
        slowest: list[float] = [0.0]
        remark = ""
        for _ in range(fills):
            free, group = random_free(rng, cpus), rng.choice((1, 2))
            count = rng.randint(1, len(free) // group) * group
            times = run_times_ms(
                lambda where=where, free=free, count=count, group=group: take_distributed(where, free, count, group_size=group)
            )
            if statistics.median(times) > statistics.median(slowest):
                slowest, remark = times, f"{count} of {len(free)} free, group {group}"
        yield Case(
            case=f"distributed, {nodes} NUMA nodes on {sockets} sockets, {cpus} CPUs",
            metric=f"worst median of {fills} fills",
            unit="ms",
            ours=statistics.median(slowest),
            spread=max(slowest) - min(slowest),
            bound=bound,
            remark=remark,
        )


def merges() -> Iterator[Case]:
    """CPU, memory and hugepages on a machine where each of them could only be preferred on other nodes."""
    for nodes, bound in ((8, 1.0), (64, 20.0)):
        numa = NumaInfo.of(machine(sockets=2, nodes=nodes, cpus=nodes * 16))
        within = (1 << nodes) - 1
        amounts = {node: 3 + node % 4 for node in range(nodes)}
        providers = [
            {"cpu": HintFamily(within=within, demands=(Demand(amounts=amounts, wanted=nodes * 2),), preferred_size=1)},
            {
                "memory": HintFamily(within=within, demands=(Demand(amounts=amounts, wanted=nodes * 3),), preferred_size=1),
                "hugepages-1Gi": HintFamily(within=within, demands=(Demand(amounts=amounts, wanted=nodes * 3),), preferred_size=1),
            },
        ]
        yield timed(
            f"hint merge, {nodes} nodes, CPU + memory + hugepages, nothing preferred",
            lambda numa=numa, providers=providers: merge("best-effort", numa, providers),
            runs=15,
            bound=bound,
        )


def pod(vcpus: int, name: str = "vm", *, hugepages: bool = True) -> LauncherPod:
    """A dedicated VM with hugepages and its guest's NUMA cells passed through."""
    cpu, memory = Quantity.of(vcpus), Quantity.parse("1Gi")
    pages = Quantity.of(PAGE * 8)
    compute = {"cpu": Quantity.milli(500), "memory": memory} | ({"hugepages-1Gi": pages} if hugepages else {})
    owned = {"cpu": cpu, "memory": Quantity.parse("64Mi")}
    guest = GuestShape(
        topology=GuestTopology(cores=vcpus // 2, threads=2),
        dedicated_vcpus=frozenset(range(vcpus)),
        numa_passthrough=hugepages,
        memory_bytes=PAGE * 8,
        hugepage_bytes=PAGE if hugepages else None,
    )
    return LauncherPod(
        vm=VmName(name=name),
        uid=name,
        containers=(Container(name="compute", requests=compute, limits=compute), Container(name="dedicated", requests=owned, limits=owned)),
        guest=guest,
        qos="Guaranteed",
    )


def filled(on: Machine, options: Options, vms: int) -> Ledger:
    """Some VMs that are there already."""
    ledger = Ledger()
    for number in range(vms):
        answer = admit(pod(6 + number % 4 * 2, f"old{number}"), on, ledger, options)
        if isinstance(answer, Plan):
            spec = VmSpec(vm=answer.vm, cpu=CpuSpec(), memory=MemorySpec(guest_bytes=PAGE * 8))
            ledger = ledger.with_entry(Entry(spec=spec, digest="", manifest="", phase="running", plan=answer))
    return ledger


def admissions() -> Iterator[Case]:
    """A whole pod on 256 CPUs and 8 nodes beside ten VMs."""
    on, options = machine(sockets=2, nodes=8, cpus=256), Options()
    ledger = filled(on, options, 10)
    for vcpus in (8, 40):
        answer = admit(pod(vcpus), on, ledger, options)
        yield timed(
            f"whole admission of a pod, 256 CPUs, 8 nodes, {vcpus} vCPUs",
            lambda vcpus=vcpus: admit(pod(vcpus), on, ledger, options),
            runs=31,
            bound=2,
            remark=type(answer).__name__,
        )


SHAPES = {
    "packed": (Options(), {}),
    "restricted": (Options(topology_policy="restricted"), {}),
    "single-numa-node": (Options(topology_policy="single-numa-node"), {}),
    "distributed": (Options(cpu=CpuPolicyOptions(full_pcpus_only=True, distribute_cpus_across_numa=True)), {}),
    "whole cores": (Options(), {"thread_policy": "require"}),
    "one L3 group": (Options(), {"single_l3": True}),
}


def refusals() -> Iterator[Case]:
    """A "no" beside the "yes" of the same shape on 16 nodes: one request, a full machine and the same less two of its VMs."""
    on = machine(sockets=2, nodes=16, cpus=512)
    for name, (options, modes) in SHAPES.items():
        shaped = pod(16)
        shaped = replace(shaped, guest=replace(shaped.guest, **modes))
        full = _full(on, options)
        roomy = full.without(full.entries[0].vm).without(full.entries[1].vm)
        yes, no = admit(shaped, on, roomy, options), admit(shaped, on, full, options)
        assert isinstance(yes, Plan), (name, yes)
        assert isinstance(no, Refusal), name
        times = [(_once(shaped, on, full, options), _once(shaped, on, roomy, options)) for _ in range(15)]
        ours, base = (statistics.median(column) for column in zip(*times, strict=True))
        yield Case(
            case=f'"no", 16 nodes, {name}',
            metric='times the "yes"',
            unit="x",
            ours=ours / base,
            spread=max(one / other for one, other in times) - min(one / other for one, other in times),
            bound=3,
            remark=f"no {ours:.2f} ms, yes {base:.2f} ms; nearest: {no.nearest.change if no.nearest else 'none'}",
        )


def _full(on: Machine, options: Options) -> Ledger:
    """VMs of 12 CPUs until none fits any more: what is left is in pieces."""
    ledger = Ledger()
    for number in range(100):
        answer = admit(pod(12, f"old{number:02}", hugepages=False), on, ledger, options)
        if isinstance(answer, Refusal):
            break
        spec = VmSpec(vm=answer.vm, cpu=CpuSpec(), memory=MemorySpec(guest_bytes=PAGE * 8))
        ledger = ledger.with_entry(Entry(spec=spec, digest="", manifest="", phase="running", plan=answer))
    return ledger


def _once(shaped: LauncherPod, on: Machine, ledger: Ledger, options: Options) -> float:
    start = time.perf_counter()
    admit(shaped, on, ledger, options)
    return (time.perf_counter() - start) * 1000


def against_nova() -> Iterator[Case]:
    """The same machine and number of vCPUs, one run after the other.

    Nova's fit is compared with our choice of CPUs and vCPU order, and with our whole admission, which also merges the hints of
    both managers, books memory and pages and explains itself.
    """
    try:
        python = environment()
    except (OSError, subprocess.CalledProcessError) as fault:
        print(f"Nova cannot be installed, its cases are left out: {fault}", file=sys.stderr)
        return
    for shape in shapes():
        on, ledger = _as_ours(shape)
        wanted = _plain_pod(sum(shape.guest))
        answer = admit(wanted, on, ledger, UNRESERVED)
        theirs = ask(python, shape, runs=31)
        hardware, free, count = Hardware.of(on), on.usable - ledger.owned, sum(shape.guest)
        works: dict[str, Callable[[], object]] = {
            "choice of CPUs and vCPU order": lambda hardware=hardware, free=free, count=count: _fit(hardware, free, count),
            "whole admission": lambda wanted=wanted, on=on, ledger=ledger: admit(wanted, on, ledger, UNRESERVED),
        }
        for metric, work in works.items():
            ours = run_times_ms(work, runs=31)
            yield Case(
                case=f"{len(shape.free)} cells of {shape.per_cell}: {shape.name}, {'+'.join(map(str, shape.guest))} vCPUs",
                metric=metric,
                unit="ms",
                ours=statistics.median(ours),
                spread=max(ours) - min(ours),
                peer=statistics.median(theirs.times_ms) if theirs.times_ms else None,
                peer_name="nova",
                remark=f"ours {'yes' if isinstance(answer, Plan) else 'no'}; Nova {theirs.answer}, {theirs.verdict}",
            )


def _fit(hardware: Hardware, free: CpuSet, count: int) -> object:
    """What Nova's function does: CPUs from as few cells as hold them, and one for each vCPU."""
    cpus = take_distributed(hardware.topology, free, count)
    if isinstance(cpus, Refusal):
        return cpus
    return order_in_cells(hardware.cells_around(cpus), cpus, GuestTopology(sockets=count), strict=False)


UNRESERVED = Options(reserved_cpus=CpuSet(), cpu=CpuPolicyOptions(distribute_cpus_across_numa=True))


def _as_ours(shape: Shape) -> tuple[Machine, Ledger]:
    """The host of the shape, with one VM that owns what is in use."""
    cores, per_core = len(shape.free) * shape.per_cell // 2, shape.per_cell // 2
    on = machine(sockets=2 if len(shape.free) % 2 == 0 else 1, nodes=len(shape.free), cpus=2 * cores)
    used = CpuSet()
    for cell, free in enumerate(shape.free):
        inside = [cpu for core in range(cell * per_core, (cell + 1) * per_core) for cpu in (core, core + cores)]
        used |= CpuSet.from_iterable(inside[: len(inside) - free])
    plan = Plan(
        vm=VmName(name="old"),
        uid="old",
        strategy="whole",
        vcpus=tuple(VcpuPlacement(vcpu=vcpu, pcpu=cpu) for vcpu, cpu in enumerate(used)),
        shared=on.usable - used,
        emulator=used,
        assignments=(Assignment(container="compute", cpus=used),),
    )
    spec = VmSpec(vm=plan.vm, cpu=CpuSpec(), memory=MemorySpec(guest_bytes=GIB))
    return on, Ledger(entries=(Entry(spec=spec, digest="", manifest="", phase="running", plan=plan),))


def _plain_pod(vcpus: int) -> LauncherPod:
    """Dedicated vCPUs without hugepages, all threads on the VM's own CPUs."""
    owned = {"cpu": Quantity.of(vcpus), "memory": Quantity.parse("256Mi")}
    guest = GuestShape(
        topology=GuestTopology(sockets=vcpus), strategy="whole", vcpu_container="compute", dedicated_vcpus=frozenset(range(vcpus))
    )
    compute = Container(name="compute", requests=owned, limits=owned)
    return LauncherPod(vm=VmName(name="vm"), uid="vm", containers=(compute,), guest=guest, qos="Guaranteed")


def main() -> None:
    """Measure everything and write the report."""
    cases = [
        *packed(),
        *distributed(nodes=16, cpus=512, fills=100, bound=50),
        *distributed(nodes=64, cpus=1024, fills=25, bound=1000),
        *merges(),
        *admissions(),
        *refusals(),
        *against_nova(),
    ]
    report("placement", cases)


if __name__ == "__main__":
    main()
