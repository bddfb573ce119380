"""The Topology Manager's options and the faults with which a kubelet would not start, in its own words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, get_args

from quietcore.errors import InputError, Problem
from quietcore.model import Machine, TopologyPolicy, TopologyScope

KUBELET_NODE_LIMIT: Final = 8
"""Above this many NUMA nodes the kubelet refuses to start by default, because its own merge is exponential."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """The Topology Manager's own options."""

    prefer_closest_numa_nodes: bool = False
    max_allowable_numa_nodes: int = KUBELET_NODE_LIMIT


_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_options(written: Mapping[str, str]) -> PolicyOptions:
    """Read the options as the kubelet's configuration writes them. Raises InputError with all faults, in the kubelet's words."""
    options = PolicyOptions()
    problems: list[tuple[str, str, str]] = []
    for name, value in written.items():
        match name:
            case "prefer-closest-numa-nodes" if value in _TRUE | _FALSE:
                options = replace(options, prefer_closest_numa_nodes=value in _TRUE)
            case "prefer-closest-numa-nodes":
                problems.append((name, f'bad value for option "{name}": {value!r} is no boolean', "write true or false"))
            case "max-allowable-numa-nodes" if not value.removeprefix("-").isdecimal():
                problems.append((name, f'unable to convert policy option to integer "{name}": {value!r}', "write a number"))
            case "max-allowable-numa-nodes" if int(value) < KUBELET_NODE_LIMIT:
                least = f'the minimum value of "{name}" should not be less than {KUBELET_NODE_LIMIT}'
                problems.append((name, least, f"write {KUBELET_NODE_LIMIT} or more"))
            case "max-allowable-numa-nodes":
                options = replace(options, max_allowable_numa_nodes=int(value))
            case _:
                known = "prefer-closest-numa-nodes or max-allowable-numa-nodes"
                problems.append((name, f'unknown Topology Manager Policy option: "{name}"', f"use {known}"))
    if problems:
        raise InputError.of(tuple(Problem(field=name, message=message, hint=hint) for name, message, hint in problems))
    return options


def check_start(policy: str, scope: str, machine: Machine, options: PolicyOptions | None = None) -> None:
    """Raise InputError where a kubelet would not start: unknown names or, when `options` are given, too many NUMA nodes.

    We have no limit on nodes ourselves; without `options` it is not checked.
    """
    problems = []
    if policy not in get_args(TopologyPolicy):
        known = ", ".join(get_args(TopologyPolicy))
        problems.append(Problem(field="topology_policy", message=f'unknown policy: "{policy}"', hint=f"use one of {known}"))
    if scope not in get_args(TopologyScope):
        problems.append(Problem(field="topology_scope", message=f'unknown scope: "{scope}"', hint="use container or pod"))
    if options is not None and policy != "none" and len(machine.nodes) > options.max_allowable_numa_nodes:
        limit = options.max_allowable_numa_nodes
        message = f"unsupported on machines with more than {limit} NUMA Nodes"
        hint = f"set max-allowable-numa-nodes to {len(machine.nodes)}"
        problems.append(Problem(field="max-allowable-numa-nodes", message=message, hint=hint))
    if problems:
        raise InputError.of(tuple(problems))
