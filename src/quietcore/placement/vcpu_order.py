"""Which exclusive CPU each vCPU gets: KubeVirt's thread pool, guest siblings on host siblings.

The rules are those of virt-launcher's `converter/vcpu/vcpu.go`. Three of its defects are not reproduced: a plan never has fewer
pins than vCPUs, sibling lists written as ranges are understood, and the number of emulator CPUs is an input that was decided
once, for the pod and for the pins alike. Where one of them would have changed the answer, the result says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from quietcore.model import CpuSet, GuestTopology, Machine, Reason, Refusal, VcpuPlacement, union

FULL: Final = "KubeVirt pass 1: the next threads of a host core with enough free threads"
FRAGMENT: Final = "KubeVirt pass 2: left-over threads of one NUMA node"
ACROSS: Final = "KubeVirt pass 3 (relaxed): left-over threads of any NUMA node"
SHARED: Final = "not dedicated: runs on the shared pool"
_NO_THREAD: Final = "no remaining unassigned threads"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCore:
    """One host core: its id and its threads in the order in which the host reports them."""

    core: int
    threads: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCell:
    """One NUMA node with its cores, ordered by the first reported CPU of each."""

    node: int
    cores: tuple[HostCore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuOrder:
    """Who runs where inside one exclusive set.

    `vcpus` has one placement per vCPU, ascending. `io` is the CPU of supplemental I/O thread 1, 2, ...; `leftover` are exclusive
    CPUs that no thread was given. `notes` tells where KubeVirt itself would have answered otherwise.
    """

    vcpus: tuple[VcpuPlacement, ...]
    io: tuple[int, ...] = ()
    emulator: CpuSet = CpuSet()
    leftover: CpuSet = CpuSet()
    notes: tuple[str, ...] = ()


def order_vcpus(
    machine: Machine,
    cpus: CpuSet,
    topology: GuestTopology,
    *,
    strict: bool,
    io_cpus: int = 0,
    emulator_cpus: int = 0,
    dedicated: frozenset[int] | None = None,
    realtime: frozenset[int] = frozenset(),
) -> VcpuOrder | Refusal:
    """Hand out the exclusive `cpus`: first to the vCPUs, then to supplemental I/O threads, then to the emulator.

    `strict` (guestMappingPassthrough) keeps each guest core inside one NUMA node. `dedicated` None means all vCPUs; otherwise
    the others get no pCPU, and guest cores that are dedicated only in part are placed thread by thread. A refusal carries
    KubeVirt's message. Raises ValueError for a dedicated vCPU that the guest does not have.
    """
    order = order_in_cells(
        machine_cells(machine, cpus), cpus, topology, strict=strict, io_cpus=io_cpus, emulator_cpus=emulator_cpus, dedicated=dedicated
    )
    if isinstance(order, Refusal) or not realtime:
        return order
    vcpus = tuple(replace(vcpu, realtime=True) if vcpu.vcpu in realtime else vcpu for vcpu in order.vcpus)
    return replace(order, vcpus=vcpus)


def order_in_cells(
    cells: Sequence[HostCell],
    cpus: CpuSet,
    topology: GuestTopology,
    *,
    strict: bool,
    io_cpus: int = 0,
    emulator_cpus: int = 0,
    dedicated: frozenset[int] | None = None,
) -> VcpuOrder | Refusal:
    """Do what `order_vcpus` does on cells in any order, which is the order in which they are filled."""
    width, wanted = _guest_cores(topology, dedicated)
    order = _order(cells, cpus, wanted, width, strict=strict, io_cpus=io_cpus, emulator_cpus=emulator_cpus)
    if isinstance(order, Refusal):
        return order
    as_kubevirt_reads = _misread_ranges(cells)
    if as_kubevirt_reads != tuple(cells):
        theirs = _order(as_kubevirt_reads, cpus, wanted, width, strict=strict, io_cpus=io_cpus, emulator_cpus=emulator_cpus)
        order = replace(order, notes=_difference(order, theirs))
    pinned = frozenset(wanted)
    shared = tuple(VcpuPlacement(vcpu=vcpu, rule=SHARED) for vcpu in range(topology.vcpus) if vcpu not in pinned)
    return replace(order, vcpus=tuple(sorted((*order.vcpus, *shared), key=lambda one: one.vcpu)))


def machine_cells(machine: Machine, cpus: CpuSet | None = None) -> tuple[HostCell, ...]:
    """The machine as libvirt reports it: nodes ascending, CPUs ascending; a core belongs to the node where it is first met.

    With `cpus`, only the cores that have one of these; all of their threads.
    """
    mask = machine.online.mask if cpus is None else cpus.mask
    wanted = {cpu.core for cpu in machine.cpus if mask >> cpu.cpu & 1}
    nodes: dict[int, dict[int, list[int]]] = {}
    home: dict[int, int] = {}
    for cpu in sorted((cpu for cpu in machine.cpus if cpu.core in wanted), key=lambda one: (one.node, one.cpu)):
        node = home.setdefault(cpu.core, cpu.node)
        nodes.setdefault(node, {}).setdefault(cpu.core, []).append(cpu.cpu)
    return tuple(
        HostCell(node=node, cores=tuple(HostCore(core=core, threads=tuple(threads)) for core, threads in cores.items()))
        for node, cores in nodes.items()
    )


def reported_cells(report: Iterable[tuple[int, Iterable[tuple[int, Sequence[int]]]]]) -> tuple[HostCell, ...]:
    """Cells from (node, [(cpu, siblings)]) as libvirt's capabilities list them; a CPU without siblings is its own core."""
    seen: set[int] = set()
    cells = []
    for node, cpus in report:
        cores = []
        for cpu, siblings in cpus:
            if cpu in seen:
                continue
            threads = tuple(siblings) or (cpu,)
            seen.update(threads)
            cores.append(HostCore(core=min(threads), threads=threads))
        cells.append(HostCell(node=node, cores=tuple(cores)))
    return tuple(cells)


def emulator_cpu_count(pinned: int, *, isolate: bool, even_parity: bool) -> int:
    """How many CPUs the emulator gets beside `pinned` (vCPUs and supplemental I/O threads): 0, 1, or 2 to make the sum even."""
    if not isolate:
        return 0
    return 2 if even_parity and pinned % 2 == 0 else 1


def shared_io_pins(threads: int, vcpus: int, cpus: Sequence[int]) -> tuple[CpuSet, ...]:
    """CPUs of I/O threads 1, 2, ... that have none of their own and share those of the vCPUs.

    `cpus` is the container's whole set in ascending order. As many threads as vCPUs or more: thread t gets CPU t mod vCPUs, so
    that the first one starts at the second CPU; fewer: consecutive runs, the first ones one CPU longer. KubeVirt's rule.
    Raises ValueError for fewer CPUs than vCPUs.
    """
    if len(cpus) < vcpus or vcpus < 1:
        raise ValueError(f"{len(cpus)} CPUs cannot be shared by the I/O threads of {vcpus} vCPUs")
    if threads >= vcpus:
        return tuple(CpuSet.of(cpus[thread % vcpus]) for thread in range(1, threads + 1))
    size, longer = divmod(vcpus, threads) if threads else (0, 0)
    starts = [thread * size + min(thread, longer) for thread in range(threads + 1)]
    return tuple(CpuSet.from_iterable(cpus[start:end]) for start, end in pairwise(starts))


@dataclass(slots=True)
class _Cell:
    """What is left of one cell: cores that can still hold a whole guest core, and single threads."""

    node: int
    full: deque[deque[int]] = field(default_factory=deque)
    fragments: deque[int] = field(default_factory=deque)

    def take_from_core(self, count: int, width: int) -> list[int]:
        """The first threads of the first full core; its rest stays full while it holds `width` threads."""
        core = self.full.popleft()
        taken = [core.popleft() for _ in range(count)]
        if len(core) >= width:
            self.full.appendleft(core)
        else:
            self.fragments.extend(core)
        return taken

    def take_fragments(self, count: int) -> list[int]:
        return [self.fragments.popleft() for _ in range(count)]


class _Pool:
    def __init__(self, cells: Sequence[HostCell], cpus: CpuSet, width: int) -> None:
        self.width = width
        self.cells: list[_Cell] = []
        self.place: dict[int, tuple[int, int]] = {}
        for cell in cells:
            ours = _Cell(cell.node)
            for core in cell.cores:
                threads = deque(thread for thread in core.threads if thread in cpus)
                self.place.update((thread, (cell.node, core.core)) for thread in threads)
                if len(threads) >= width:
                    ours.full.append(threads)
                else:
                    ours.fragments.extend(threads)
            self.cells.append(ours)

    def guest_threads(self, count: int, *, strict: bool) -> Iterator[tuple[int, str]]:
        """At most `count` host threads for guest cores of `width` threads each, with the pass that took them."""
        for cell in self.cells:
            while count and cell.full:
                yield from ((thread, FULL) for thread in cell.take_from_core(self.width, self.width))
                count -= self.width
        for cell in self.cells:
            while count and len(cell.fragments) >= self.width:
                yield from ((thread, FRAGMENT) for thread in cell.take_fragments(self.width))
                count -= self.width
        if strict:
            return
        for cell in self.cells:
            while count and cell.fragments:
                yield cell.fragments.popleft(), ACROSS
                count -= 1

    def single(self) -> int | None:
        """One thread for a helper: the first cell that has any, its fragments before its cores."""
        for cell in self.cells:
            if cell.fragments:
                return cell.fragments.popleft()
            if cell.full:
                return cell.take_from_core(1, self.width)[0]
        return None

    @property
    def rest(self) -> CpuSet:
        """What nobody took."""
        return union(CpuSet.from_iterable((*cell.fragments, *(t for core in cell.full for t in core))) for cell in self.cells)


def _order(
    cells: Sequence[HostCell],
    cpus: CpuSet,
    vcpus: Sequence[int],
    width: int,
    *,
    strict: bool,
    io_cpus: int,
    emulator_cpus: int,
) -> VcpuOrder | Refusal:
    pool = _Pool(cells, cpus, width)
    taken = tuple(pool.guest_threads(len(vcpus), strict=strict))
    if len(taken) < len(vcpus):
        return _no_fit(len(vcpus), len(taken), width, cpus, strict=strict)
    placements = tuple(
        VcpuPlacement(vcpu=vcpu, pcpu=thread, node=pool.place[thread][0], core=pool.place[thread][1], rule=rule)
        for vcpu, (thread, rule) in zip(vcpus, taken, strict=True)
    )
    helpers: list[int] = []
    for number in range(io_cpus + emulator_cpus):
        thread = pool.single()
        if thread is None:
            return _no_helper(number, io_cpus, emulator_cpus, len(vcpus), len(cpus))
        helpers.append(thread)
    return VcpuOrder(vcpus=placements, io=tuple(helpers[:io_cpus]), emulator=CpuSet.from_iterable(helpers[io_cpus:]), leftover=pool.rest)


def _guest_cores(topology: GuestTopology, dedicated: frozenset[int] | None) -> tuple[int, tuple[int, ...]]:
    """How many threads are placed together, and the dedicated vCPUs in order."""
    everyone = range(topology.vcpus)
    if dedicated is None:
        return topology.threads, tuple(everyone)
    unknown = sorted(dedicated - frozenset(everyone))
    if unknown:
        raise ValueError(f"the guest has vCPUs 0-{topology.vcpus - 1}; {unknown} cannot be dedicated")
    threads = topology.threads
    whole = all(len({vcpu in dedicated for vcpu in everyone[first : first + threads]}) == 1 for first in everyone[::threads])
    return threads if whole else 1, tuple(sorted(dedicated))


def _no_fit(wanted: int, got: int, width: int, cpus: CpuSet, *, strict: bool) -> Refusal:
    # Upstream counts missing cores as missing threads / width, rounded down, and takes 0 for success.
    missing = max((wanted - got) // width, 1)
    if strict and len(cpus) >= wanted:
        message = f"could not fit {missing} core(s) without crossing numa cell boundaries for individual cores"
        constraint = "guest-core-within-node"
    else:
        message = f"not enough exclusive threads provided, could not fit {missing} core(s)"
        constraint = "exclusive-threads"
    reason = Reason(constraint=constraint, message=message, wanted=f"{wanted} threads", free=f"{got} threads")
    return Refusal(message=message, reasons=(reason,))


def _no_helper(number: int, io_cpus: int, emulator_cpus: int, vcpus: int, cpus: int) -> Refusal:
    if number < io_cpus:
        who, constraint = "no CPU allocated for the iothread", "io-thread-cpu"
    elif number == io_cpus:
        who, constraint = "no CPU allocated for the emulation thread", "emulator-cpu"
    else:
        who, constraint = "no second CPU allocated for the emulation thread", "emulator-cpu"
    message = f"{who}: {_NO_THREAD}"
    wanted = f"{vcpus + io_cpus + emulator_cpus} threads"
    return Refusal(message=message, reasons=(Reason(constraint=constraint, message=message, wanted=wanted, free=f"{cpus} threads"),))


def _misread_ranges(cells: Sequence[HostCell]) -> tuple[HostCell, ...]:
    """The cells as KubeVirt reads them: siblings that libvirt prints as ranges ("0-1") are no siblings to it."""
    return tuple(
        replace(cell, cores=tuple(seen for core in cell.cores for seen in _as_seen(core))) if any(map(_is_range, cell.cores)) else cell
        for cell in cells
    )


def _is_range(core: HostCore) -> bool:
    return len(core.threads) > 1 and all("-" in part for part in str(CpuSet.from_iterable(core.threads)).split(","))


def _as_seen(core: HostCore) -> tuple[HostCore, ...]:
    return tuple(HostCore(core=core.core, threads=(thread,)) for thread in core.threads) if _is_range(core) else (core,)


def _difference(ours: VcpuOrder, theirs: VcpuOrder | Refusal) -> tuple[str, ...]:
    why = "KubeVirt reads the sibling ranges of this host as single-thread cores"
    if isinstance(theirs, Refusal):
        return (f"{why} and would have refused: {theirs.message}",)
    pins, other = ([vcpu.pcpu for vcpu in order.vcpus] for order in (ours, theirs))
    if pins != other:
        return (f"{why} and would have pinned the vCPUs to {', '.join(map(str, other))}",)
    if (ours.io, ours.emulator) != (theirs.io, theirs.emulator):
        return (f"{why} and would have given its helper threads {', '.join(map(str, (*theirs.io, *theirs.emulator)))}",)
    return ()
