"""The kubelet's distributed CPU allocator: the fewest NUMA nodes that hold a request, and the same share of it from each.

Rules: Kubernetes v1.36.2, takeByTopologyNUMADistributed in pkg/kubelet/cm/cpumanager/cpu_assignment.go.
"""

from __future__ import annotations

from quietcore.errors import InputError, Problem
from quietcore.model import Compat, CpuSet, Reason, Refusal
from quietcore.placement.node_choice import Choice, choose
from quietcore.placement.packed import Step, Strategy, Taken, check_request, node_order, not_enough, pack
from quietcore.placement.topology import CpuTopology, Groups


def take_distributed(
    topology: CpuTopology,
    available: CpuSet,
    count: int,
    *,
    group_size: int = 1,
    strategy: Strategy = "packed",
    compat: Compat = "fixed",
) -> CpuSet | Refusal:
    """Choose `count` CPUs spread evenly over as few NUMA nodes as hold them; a Refusal carries the kubelet's text.

    CPUs are dealt in groups of `group_size` (the threads per core under full-pcpus-only). `compat="1.36"` gives the kubelet's
    answers including its overwritten sets; a request on which the kubelet hangs is answered as the algorithm means it.
    Raises InputError for a negative count, a group size below 1 or CPUs that the machine does not have.
    """
    taken = distribute(topology, available, count, group_size=group_size, strategy=strategy, compat=compat)
    return taken if isinstance(taken, Refusal) else taken.cpus


def distribute(
    topology: CpuTopology,
    available: CpuSet,
    count: int,
    *,
    group_size: int = 1,
    strategy: Strategy = "packed",
    compat: Compat = "fixed",
) -> Taken | Refusal:
    """`take_distributed` with the rule that took each CPU."""
    check_request(topology, available, count, strategy, compat)
    if group_size < 1:
        raise InputError.of((Problem(field="group_size", message=f"{group_size} is not positive", hint="use 1 or the threads per core"),))
    if count % group_size:
        return pack(topology, available, count, strategy=strategy, compat=compat)
    if count == 0:
        return Taken(cpus=CpuSet())
    if count > len(available):
        return not_enough(available, count)
    order = node_order(topology, available)
    free = [(node.mask & available.mask).bit_count() for node in order]
    choice = choose(free, count, group_size, _fewest_nodes(topology, count, group_size), compat)
    if choice is None:
        return pack(topology, available, count, strategy=strategy, compat=compat)
    deal = _Deal(topology, available, order, group_size=group_size, strategy=strategy, compat=compat)
    dealt = deal.run(choice, count)
    if dealt is None:  # a kubelet of 1.36 would go round in its overwritten remainder for ever
        return distribute(topology, available, count, group_size=group_size, strategy=strategy, compat="fixed")
    return dealt


def _fewest_nodes(topology: CpuTopology, count: int, group_size: int) -> int:
    groups = -(-topology.all_mask.bit_count() // group_size)
    per_node = -(-groups // len(topology.nodes))
    return -(-(count // group_size) // per_node)


class _Deal:
    """Takes the CPUs of a choice from its nodes: the equal shares first, then the remainder in turns."""

    __slots__ = ("compat", "free", "group_size", "order", "steps", "strategy", "topology")

    def __init__(
        self, topology: CpuTopology, available: CpuSet, order: Groups, *, group_size: int, strategy: Strategy, compat: Compat
    ) -> None:
        self.topology = topology
        self.free = available.mask
        self.order = order
        self.group_size = group_size
        self.strategy = strategy
        self.compat = compat
        self.steps: list[Step] = []

    def run(self, choice: Choice, count: int) -> Taken | Refusal | None:
        """None where the turns would never end."""
        names = ",".join(str(number) for number in sorted(self.order[at].id for at in choice.nodes))
        need = count
        for at in choice.nodes:
            need -= self._take(at, choice.share, f"distributed over NUMA nodes {names}, share of node {self.order[at].id}")
        rest = count - choice.share * len(choice.nodes)
        while rest > 0:
            turns = 0
            for at in choice.remainder:
                if rest and (self.order[at].mask & self.free).bit_count() >= self.group_size:
                    need -= self._take(at, self.group_size, f"distributed over NUMA nodes {names}, remainder on node {self.order[at].id}")
                    rest -= self.group_size
                    turns += 1
            if not turns:
                return None
        if need:
            return _accounting_error(need)
        mask = 0
        for step in self.steps:
            mask |= step.cpus.mask
        return Taken(cpus=CpuSet(mask), steps=tuple(self.steps))

    def _take(self, at: int, count: int, rule: str) -> int:
        """Take `count` CPUs of one node and return how many it gave; like the kubelet, a node that has too few gives none."""
        inside = CpuSet(self.order[at].mask & self.free)
        taken = pack(self.topology, inside, count, strategy=self.strategy, compat=self.compat)
        if isinstance(taken, Refusal):
            return 0
        self.free &= ~taken.cpus.mask
        self.steps += [Step(cpus=step.cpus, rule=f"{rule} ({step.rule})") for step in taken.steps]
        return len(taken.cpus)


def _accounting_error(need: int) -> Refusal:
    fault = "not enough" if need > 0 else "too many"
    message = f"accounting error, {fault} CPUs allocated, remaining: {need}"
    return Refusal(
        message=message,
        reasons=(Reason(constraint="distribution", message=message, wanted=str(need), free="0"),),
    )
