"""One request of the static policy: which of its two allocators runs, and the options that do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from quietcore.errors import InputError, Problem
from quietcore.model import Compat, CpuPolicyOptions, CpuSet, Refusal, TopologyPolicy
from quietcore.placement.distributed import distribute
from quietcore.placement.packed import Strategy, Taken, pack
from quietcore.placement.topology import CpuTopology

CONFLICTS: Final = (
    ("full_pcpus_only", "distribute_cpus_across_cores"),
    ("distribute_cpus_across_numa", "distribute_cpus_across_cores"),
    ("prefer_align_cpus_by_uncorecache", "distribute_cpus_across_cores"),
    ("prefer_align_cpus_by_uncorecache", "distribute_cpus_across_numa"),
)
"""Pairs that the kubelet refuses, in the order in which it checks them."""


def allocate(topology: CpuTopology, available: CpuSet, count: int, options: CpuPolicyOptions, compat: Compat) -> Taken | Refusal:
    """Take `count` of the available CPUs with the allocator that the options ask for."""
    strategy: Strategy = "spread" if options.distribute_cpus_across_cores else "packed"
    if options.distribute_cpus_across_numa:
        group = max(topology.cpus_per_core, 1) if options.full_pcpus_only else 1
        return distribute(topology, available, count, group_size=group, strategy=strategy, compat=compat)
    uncore = options.prefer_align_cpus_by_uncorecache
    return pack(topology, available, count, strategy=strategy, prefer_uncore=uncore, compat=compat)


def check_options(options: CpuPolicyOptions, topology_policy: TopologyPolicy, topology: CpuTopology) -> None:
    """Raise InputError, with every fault, for options with which the kubelet does not start on this machine."""
    problems = tuple(_conflicts(options, topology_policy, topology))
    if problems:
        raise InputError.of(problems)


def _conflicts(options: CpuPolicyOptions, topology_policy: TopologyPolicy, topology: CpuTopology) -> Iterator[Problem]:
    for first, second in CONFLICTS:
        if getattr(options, first) and getattr(options, second):
            names = " and ".join(name.replace("_", "-") for name in (first, second))
            message = f"static policy options {names} can not be used at the same time"
            yield Problem(field=f"cpu.{first}", message=message, hint="switch one of them off")
    if not options.align_by_socket:
        return
    if topology_policy == "single-numa-node":
        message = "align-by-socket cannot be used with the Topology Manager policy single-numa-node"
        yield Problem(field="cpu.align_by_socket", message=message, hint="use the policy restricted, or switch align-by-socket off")
    if topology.num_sockets > topology.num_nodes:
        message = f"align-by-socket needs at least as many NUMA nodes ({topology.num_nodes}) as sockets ({topology.num_sockets})"
        yield Problem(field="cpu.align_by_socket", message=message, hint="switch align-by-socket off on this machine")
