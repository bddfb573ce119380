"""CPU shares (cgroup v1) and weight (cgroup v2) of containers, from what they ask for absolutely."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from quietcore.model import Container, LauncherPod, Quantity

MIN_SHARES: Final = 2
MAX_SHARES: Final = 262_144


def cpu_shares(milli: int) -> int:
    """cgroup v1 `cpu.shares` for a request in thousandths of a CPU (the kubelet's MilliCPUToShares): 1024 per CPU."""
    return min(max(milli * 1024 // 1000, MIN_SHARES), MAX_SHARES)


def cpu_weight_linear(shares: int) -> int:
    """cgroup v2 `cpu.weight` as the kubelet's own cgroups and older runtimes compute it: shares 2..262144 on 1..10000, linearly.

    One CPU (1024 shares) becomes 39, far below the kernel's default of 100 that every other group has.
    """
    return 1 + (shares - MIN_SHARES) * 9999 // (MAX_SHARES - MIN_SHARES)


def cpu_weight(shares: int) -> int:
    """cgroup v2 `cpu.weight` as newer runtimes compute it (runc 1.3.2, crun 1.23; Kubernetes issue 131216).

    A quadratic in the logarithm through (2, 1), (1024, 100) and (262144, 10000): one CPU weighs what any other group weighs.
    """
    if shares <= MIN_SHARES:
        return 1
    if shares >= MAX_SHARES:
        return 10_000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def shares_of(pod: LauncherPod) -> Mapping[str, int]:
    """Container name -> shares. A container that asks for nothing has its limit as its request, as the API server defaults it."""
    zero = Quantity.of(0)
    return MappingProxyType({one.name: cpu_shares(_request(one, zero).milli_value) for one in pod.containers})


def _request(container: Container, nothing: Quantity) -> Quantity:
    return container.requests.get("cpu", container.limits.get("cpu", nothing))
