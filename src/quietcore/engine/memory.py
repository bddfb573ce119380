"""A running VM's memory follows its vCPUs to another NUMA node: checked before, done as far as the kernel can, counted afterwards.

libvirt's own books go on naming the old node: it changes only a `restrictive` binding of a running domain (seen with libvirt 9.0), and
where memory is `strict`, as ours is, it looks at them again only when the domain starts or a vCPU is plugged in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from quietcore.domain import fixed_memory
from quietcore.engine.apply import Applier
from quietcore.engine.observe import Observation, observe
from quietcore.engine.world import Event, World
from quietcore.errors import OperationFailed
from quietcore.host import cgroups
from quietcore.host.memory import free_bytes, pages_by_node
from quietcore.model import CpuSet, Entry, Plan, Reason, Refusal, SetValue


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMove:
    """Memory on its way: the nodes where it is to be, and bytes of a page -> pages that are elsewhere before and afterwards."""

    nodes: CpuSet
    before: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    after: Mapping[int, int] | None = None


def memory_nodes(plan: Plan) -> CpuSet:
    """The nodes that are booked for the guest's memory."""
    return CpuSet.from_iterable(binding.node for binding in plan.memory)


def plan_memory(world: World, entry: Entry, there: Plan) -> MemoryMove | Refusal:
    """What of a VM's memory would have to move for this plan, or everything that speaks against it. Changes nothing."""
    booked, nodes = memory_nodes(there), CpuSet.from_iterable(vcpu.node for vcpu in there.vcpus if vcpu.node is not None)
    if not booked:
        return _refused(entry, [Reason(constraint="memory-policy", message="this host books no memory, so it is bound to no node")])
    aligned = booked <= nodes
    nodes = booked if aligned else nodes
    before = memory_elsewhere(world, entry, nodes)
    reasons = list(fixed_memory(world.hypervisor.xml(entry.domain)))
    if there.cells:
        reasons.append(Reason(constraint="guest-cells", message="the guest sees on which nodes its memory is, and it is bound there"))
    if entry.adopted is not None:
        reasons.append(Reason(constraint="adopted", message="the domain is somebody else's, and `release` could not put its memory back"))
    if not aligned:
        message = f"the Memory Manager has no room for it on node {nodes}, where its vCPUs are, and would book it on node {booked}"
        reasons.append(Reason(constraint="memory-on-node", message=message, node=nodes.lowest if len(nodes) == 1 else None))
    for page_bytes, pages in before.items():
        free = sum(free_bytes(world.fs, node, page_bytes) for node in nodes)
        if pages * page_bytes > free:
            wanted = pages * page_bytes
            message = f"{wanted} bytes in pages of {page_bytes} would move to node {nodes}, which has {free} bytes of them free"
            node = nodes.lowest if len(nodes) == 1 else None
            reasons.append(Reason(constraint="pages-on-node", message=message, node=node, wanted=str(wanted), free=str(free)))
    return _refused(entry, reasons) if reasons else MemoryMove(nodes=nodes, before=before)


def memory_elsewhere(world: World, entry: Entry, nodes: CpuSet) -> Mapping[int, int]:
    """Bytes of a page -> pages of a running VM that are not on these nodes now."""
    return _Memory.of(world, observe(world, entry.vm, domain=entry.domain).census.pid, nodes).elsewhere


def bring_memory(world: World, entry: Entry, here: Plan, there: Plan) -> None:
    """Bind a VM's memory to the nodes of another plan and move its pages there. Safe to repeat.

    Raises OperationFailed when most of it stays: the books would then say what is not so.
    """
    nodes, seen = memory_nodes(there), observe(world, entry.vm, domain=entry.domain)
    applier = Applier(world.fs, world.control, cgroups.hierarchy(world.fs))
    for step in _binding(world, seen, memory_nodes(here), nodes):
        applier.apply(step)
    pid, began = seen.census.pid, world.clock()
    before = _bytes(_Memory.of(world, pid, nodes).elsewhere)
    if not before:
        return
    try:
        world.control.migrate_pages(pid, _online(world) - nodes, nodes)
    except OSError as err:
        raise OperationFailed(f"{entry.vm}: the kernel moves no memory to node {nodes}: {err.strerror or err}") from err
    memory = _Memory.of(world, pid, nodes)
    stayed = _bytes(memory.elsewhere)
    if 2 * stayed > memory.size_bytes:
        raise OperationFailed(f"{entry.vm}: of {memory.size_bytes} bytes of memory {stayed} could not be moved to node {nodes}")
    detail = f"{max(before - stayed, 0)} bytes to node {nodes}, {stayed} stayed elsewhere"
    world.report(Event(vm=entry.vm, step="memory moved", detail=detail, seconds=world.clock() - began))


def _binding(world: World, seen: Observation, here: CpuSet, there: CpuSet) -> list[SetValue]:
    """The cpusets that keep the VM to some nodes; those that allow every node stay. The kernel then moves what its policies bind."""
    facts = seen.facts
    steps = []
    for group in (facts.emulator_group, *facts.vcpu_groups.values(), *facts.io_groups.values()):
        path = facts.file(group, "cpuset.mems")
        mems = CpuSet.parse(world.fs.read_or(path, "")) if group else CpuSet()
        if mems and mems <= here | there and mems != _online(world):
            steps.append(SetValue(path=path, value=str(there), readback="cpus"))
    return steps


@dataclass(frozen=True, slots=True, kw_only=True)
class _Memory:
    """A process's own memory: all of it, and bytes of a page -> pages that are not on the nodes that were asked about."""

    size_bytes: int
    elsewhere: Mapping[int, int]

    @classmethod
    def of(cls, world: World, pid: int, nodes: CpuSet) -> _Memory:
        """Ask the kernel."""
        try:
            pages = pages_by_node(world.fs, pid)
        except OSError as err:
            raise OperationFailed(f"the kernel does not say where the memory of process {pid} is: {err.strerror or err}") from err
        sizes = sorted({size for _, size in pages})
        away = {size: sum(count for (node, one), count in pages.items() if one == size and node not in nodes) for size in sizes}
        return cls(
            size_bytes=sum(size * count for (_, size), count in pages.items()),
            elsewhere=MappingProxyType({size: count for size, count in away.items() if count}),
        )


def _refused(entry: Entry, reasons: Sequence[Reason]) -> Refusal:
    return Refusal(message=f"the memory of {entry.vm} cannot move: {reasons[0].message}", vm=entry.vm, reasons=tuple(reasons))


def _online(world: World) -> CpuSet:
    return CpuSet.parse(world.fs.read_or("/sys/devices/system/node/online", "0"))


def _bytes(pages: Mapping[int, int]) -> int:
    return sum(size * count for size, count in pages.items())
