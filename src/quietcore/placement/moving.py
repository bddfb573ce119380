"""Another place for a VM that runs: the managers' answer for it with its own CPUs free, moving as few vCPUs as that allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from quietcore.model import Assignment, CpuSet, LauncherPod, Ledger, Machine, Options, Plan, Reason, Refusal, VcpuPlacement
from quietcore.placement.admission import decide
from quietcore.placement.explain import with_reasons
from quietcore.placement.host_books import HostBooks
from quietcore.placement.plugging import plugged, with_vcpu, without_vcpu
from quietcore.placement.static_policy import counts
from quietcore.placement.vcpu_order import order_in_cells


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Fit:
    """How well a VM sits; smaller is better. Compared in the order of the fields.

    `nodes` and `l3_groups` are those that its vCPUs are spread over, `split_cores` guest cores whose threads are not on one host
    core, `shared_cores` host cores of its vCPUs on which another VM owns a thread.
    """

    nodes: int
    l3_groups: int
    split_cores: int
    shared_cores: int


def fit_of(plan: Plan, machine: Machine, ledger: Ledger, threads: int) -> Fit:
    """Judge a placement; `threads` is the guest's threads per core, an entry of the same VM counts as absent."""
    cores, others = machine.cores(), ledger.without(plan.vm).owned
    by_cpu = {cpu.cpu: cpu for cpu in machine.cpus}
    used = [by_cpu[cpu] for cpu in plan.dedicated if cpu in by_cpu]
    guest: dict[int, set[int | None]] = {}
    for vcpu in plan.vcpus:
        guest.setdefault(vcpu.vcpu // threads, set()).add(by_cpu[vcpu.pcpu].core if vcpu.pcpu in by_cpu else None)
    return Fit(
        nodes=len({cpu.node for cpu in used}),
        l3_groups=len({(cpu.socket, cpu.l3) for cpu in used}),
        split_cores=sum(len(found) > 1 for found in guest.values()),
        shared_cores=sum(not cores[core].isdisjoint(others) for core in {cpu.core for cpu in used}),
    )


def move(
    pod: LauncherPod,
    machine: Machine,
    ledger: Ledger,
    options: Options,
    current: Plan,
    *,
    cpus: CpuSet | None = None,
    memory: bool = False,
    fewest: bool = False,
) -> Plan | Refusal:
    """Place a running VM anew: on exactly `cpus`, or where the managers would put it today.

    vCPUs stay where they are as long as the guest's cores sit no worse for it. With `fewest`, for moves that the VM did not ask for, as
    many stay as can, and a place on more NUMA nodes or with more split guest cores than now is refused. vCPUs that were plugged in
    while it ran always stay; `cpus` may name their CPUs or not. The guest's NUMA cells cannot change while it runs, so a vCPU of a
    cell stays on its node. Without `memory` the plan keeps the memory that the VM has.
    A refusal names everything that is wrong with `cpus`.
    """
    books = HostBooks.of(machine, ledger, options, pod.vm)
    extra = plugged(pod, current)
    for one in extra:
        current = without_vcpu(current, one)
    held = CpuSet.from_iterable(one.pcpu for one in extra if one.pcpu is not None)
    books = books.withholding(held)
    if cpus is not None:
        cpus -= held
        reasons = (*unusable(books, cpus), *_wrong_count(pod, books, cpus))
        if reasons:
            return Refusal(message=reasons[0].message, vm=pod.vm, reasons=reasons)
        books = books.offering(cpus)
    answer = decide(pod, books)
    if isinstance(answer, Refusal):
        return replace(with_reasons(answer, pod, books), vm=pod.vm)
    chosen = _gentlest(answer, current, pod, books) if fewest else _best(answer, current, pod, books)
    if chosen is None:
        return _refused(pod, "sits-worse", f"{pod.vm} would sit worse there: on more NUMA nodes, or with more of its guest cores split")
    plan = chosen
    strangers = _cells_broken(plan, current)
    if strangers:
        message = f"the guest sees its NUMA nodes, and vCPUs {', '.join(map(str, strangers))} would leave theirs"
        return _refused(pod, "guest-cells", message)
    plan = replace(plan, cells=current.cells) if memory else _with_memory_of(plan, current)
    for one in extra:
        plan = with_vcpu(plan, one)
    return plan


def unusable(books: HostBooks, cpus: CpuSet) -> Iterator[Reason]:
    """The CPUs of a list that one VM cannot own, by what is wrong with them."""
    offline, taken = cpus - books.machine.online, cpus & books.ledger.owned
    owners = sorted({str(plan.vm) for cpu in taken if (plan := books.ledger.owner(cpu)) is not None})
    checks = (
        ("cpu-online", offline, "not online"),
        ("cpu-usable", cpus - books.usable - offline, "not for this system to use"),
        ("cpu-reserved", cpus & books.policy.reserved, "reserved for the host"),
        ("cpu-free", taken, f"owned by {', '.join(owners)}"),
    )
    for constraint, wrong, words in checks:
        if wrong:
            verb = "is" if len(wrong) == 1 else "are"
            yield Reason(constraint=constraint, message=f"CPU {wrong} {verb} {words}", wanted=str(cpus), free=str(cpus - wrong))


def _wrong_count(pod: LauncherPod, books: HostBooks, cpus: CpuSet) -> Iterator[Reason]:
    wanted = counts(books.policy, pod, pod.containers)
    enough = {wanted}
    if pod.guest.thread_policy == "isolate" and books.topology.mask_of_whole_cores(cpus.mask) == cpus.mask:
        enough = {len(cpus)} if wanted <= len(cpus) <= wanted * books.topology.cpus_per_core else enough
    if len(cpus) not in enough:
        message = f"{len(cpus)} CPUs are listed, and {pod.vm} needs {wanted}"
        yield Reason(constraint="cpu-count", message=message, wanted=str(wanted), free=str(len(cpus)))


def _best(answer: Plan, current: Plan, pod: LauncherPod, books: HostBooks) -> Plan:
    """What the managers say, or the same CPUs handed out with as many guest cores in place as there can be, if that sits no worse."""
    kept = _keeping(answer, current, pod, books, together=True)
    return answer if kept is None else min((kept, answer), key=lambda one: _fit(one, pod, books))


def _gentlest(answer: Plan, current: Plan, pod: LauncherPod, books: HostBooks) -> Plan | None:
    """The same CPUs handed out with the fewest moves that leave the VM no worse; None where every way does."""
    before = _fit(current, pod, books)
    for one in (_keeping(answer, current, pod, books, together=False), _keeping(answer, current, pod, books, together=True), answer):
        after = _fit(one, pod, books) if one is not None else before
        if one is not None and after.nodes <= before.nodes and after.split_cores <= before.split_cores:
            return one
    return None


def _fit(plan: Plan, pod: LauncherPod, books: HostBooks) -> Fit:
    return fit_of(plan, books.machine, books.whole_ledger, pod.guest.topology.threads)


def _keeping(answer: Plan, current: Plan, pod: LauncherPod, books: HostBooks, *, together: bool) -> Plan | None:
    """The same CPUs, handed out again: vCPUs whose CPU is among them stay, and the others follow KubeVirt's order.

    With `together` the vCPUs of a guest core stay only when all of them can.
    """
    guest = pod.guest
    offered = answer.exclusive - answer.unpinned
    threads = guest.topology.threads
    cores: dict[int, list[VcpuPlacement]] = {}
    for vcpu in current.vcpus:
        if vcpu.pcpu is not None:
            cores.setdefault(vcpu.vcpu // threads, []).append(vcpu)
    staying = {
        vcpu.vcpu: vcpu
        for core in cores.values()
        for vcpu in core
        if vcpu.pcpu in offered and (not together or all(one.pcpu in offered for one in core))
    }
    rest = offered - CpuSet.from_iterable(vcpu.pcpu for vcpu in staying.values() if vcpu.pcpu is not None)
    order = order_in_cells(
        books.hardware.cells_around(rest) if rest else (),
        rest,
        guest.topology,
        strict=guest.numa_passthrough,
        io_cpus=guest.io_cpus,
        emulator_cpus=guest.emulator_cpus if guest.strategy == "housekeeping" else 0,
        dedicated=guest.dedicated_vcpus - frozenset(staying),
    )
    if isinstance(order, Refusal):
        return None
    rules: Mapping[int | None, str] = {vcpu.pcpu: vcpu.rule.partition(";")[0] for vcpu in answer.vcpus}
    vcpus = tuple(
        replace(staying[one.vcpu], realtime=one.vcpu in guest.realtime_vcpus)
        if one.vcpu in staying
        else replace(one, realtime=one.vcpu in guest.realtime_vcpus, rule="; ".join(filter(None, (rules.get(one.pcpu, ""), one.rule))))
        for one in order.vcpus
    )
    used = CpuSet.from_iterable(vcpu.pcpu for vcpu in vcpus if vcpu.pcpu is not None)
    io = {thread: CpuSet.of(cpu) for thread, cpu in enumerate(order.io, 1)}
    emulator = order.emulator if guest.strategy == "housekeeping" and guest.dedicated_vcpus else answer.emulator
    helpers = CpuSet.from_iterable(order.io) | order.emulator
    return replace(answer, vcpus=vcpus, io=io, emulator=emulator, unpinned=answer.exclusive - used - helpers)


def _cells_broken(plan: Plan, current: Plan) -> list[int]:
    """vCPUs of guest cells that would leave their node."""
    home = {vcpu: cell.node for cell in current.cells for vcpu in cell.vcpus}
    return [vcpu.vcpu for vcpu in plan.vcpus if vcpu.vcpu in home and vcpu.node != home[vcpu.vcpu]]


def _with_memory_of(plan: Plan, current: Plan) -> Plan:
    held = {one.container: one.memory for one in current.assignments}
    assignments = tuple(
        Assignment(container=one.container, cpus=one.cpus, memory=held.get(one.container, one.memory)) for one in plan.assignments
    )
    return replace(plan, memory=current.memory, cells=current.cells, assignments=assignments)


def _refused(pod: LauncherPod, constraint: str, message: str) -> Refusal:
    return Refusal(message=message, vm=pod.vm, reasons=(Reason(constraint=constraint, message=message),))
