"""What a VM's CPUs must be like, whatever else the managers ask: a count that is quickly taken. It bounds searches and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Final

from quietcore.model import LauncherPod
from quietcore.placement.explain import wanted_cpus
from quietcore.placement.hints import fewest_nodes
from quietcore.placement.host_books import HostBooks
from quietcore.placement.static_policy import counts

_MOST_REGIONS: Final = 1000
"""More sets of nodes than that are not looked at one by one: the whole machine counts as one region."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """So many CPUs inside one of some regions (masks of CPUs), in whole cores where `cores` (their masks) is not empty."""

    wanted: int
    regions: tuple[int, ...]
    cores: tuple[int, ...] = ()

    @classmethod
    def of(cls, pod: LauncherPod, books: HostBooks) -> Need:
        """A necessary condition of the managers' "yes"."""
        guest, wanted = pod.guest, wanted_cpus(pod, books)
        whole = guest.thread_policy in ("require", "isolate") and bool(guest.dedicated_vcpus)
        cores = tuple(core.mask for core in books.topology.cores) if whole else ()
        return cls(wanted=wanted, regions=_regions(pod, books, wanted), cores=cores)

    def missing(self, free: int, gettable: int) -> int | None:
        """How many CPUs of `gettable` must become free at least; None where not even all of them would do."""
        found = [gap for region in self.regions if (gap := self._gap(region, free, gettable)) is not None]
        return min(found, default=None)

    def _gap(self, region: int, free: int, gettable: int) -> int | None:
        if not self.cores:
            gap = self.wanted - (free & region).bit_count()
            return max(gap, 0) if gap <= (gettable & ~free & region).bit_count() else None
        inside = [core for core in self.cores if not core & ~region and not core & ~(free | gettable)]
        if not inside:
            return None if self.wanted else 0
        count = -(-self.wanted // max(core.bit_count() for core in inside))
        gaps = sorted((core & ~free).bit_count() for core in inside)
        return sum(gaps[:count]) if count <= len(gaps) else None


def _regions(pod: LauncherPod, books: HostBooks, wanted: int) -> tuple[int, ...]:
    topology, everywhere = books.topology, (books.topology.all_mask,)
    if pod.guest.single_l3 and pod.guest.dedicated_vcpus:
        return tuple(common for node in topology.nodes for _, common in topology.uncores_of_node[node.id])
    aligned = books.options.topology_policy in ("restricted", "single-numa-node")
    asked_at_once = books.options.topology_scope == "pod" or any(counts(books.policy, pod, (one,)) == wanted for one in pod.containers)
    if not aligned or not asked_at_once or books.policy.is_pod_level(pod) or books.options.cpu.align_by_socket:
        return everywhere
    sizes = {node.id: node.mask.bit_count() for node in topology.nodes}
    count = 1 if books.options.topology_policy == "single-numa-node" else fewest_nodes(sizes, wanted) or len(sizes)
    if comb(len(sizes), count) > _MOST_REGIONS:
        return everywhere
    masks = {node.id: node.mask for node in topology.nodes}
    return tuple(sum(masks[one] for one in some) for some in combinations(sorted(masks), count))
