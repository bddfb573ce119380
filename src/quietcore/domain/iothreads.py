"""I/O threads: how many there are, which disk uses which, where they run (KubeVirt's converter/iothreads)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from quietcore.domain.draft import Draft, add
from quietcore.model import CpuSet, Plan, VmSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class IoLayout:
    """`of_disk` maps the names of virtio disks to their thread; `scsi` is the SCSI controller's; `pool` says that each disk may use all."""

    total: int = 0
    of_disk: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    scsi: int | None = None
    pool: bool = False


def io_layout(spec: VmSpec) -> IoLayout:
    """Count the threads and hand them out.

    Disks with dedicatedIOThread have one each after the automatic ones; the others take turns. The policy `auto` allows two
    threads for each CPU that the manifest *requests* (the topology does not count), and one where the emulator is isolated.
    """
    policy = spec.io_threads.policy
    virtio = [disk for disk in spec.disks if disk.bus == "virtio"]
    if policy == "supplementalPool":
        turns = {disk.name: turn % spec.io_threads.pool + 1 for turn, disk in enumerate(virtio)}
        return IoLayout(total=spec.io_threads.pool, of_disk=MappingProxyType(turns), pool=True)
    own = sum(disk.dedicated_iothread for disk in spec.disks)
    if policy is None and not own:
        return IoLayout()
    automatic, limit = len(spec.disks) - own, _limit(spec)
    if automatic + own > limit:
        automatic = max(limit - own, 1)
    of_disk: dict[str, int] = {}
    turn, next_own = 1, automatic + 1
    for disk in virtio:
        if disk.dedicated_iothread:
            of_disk[disk.name] = next_own
            next_own += 1
        else:
            of_disk[disk.name] = turn
            turn = turn % automatic + 1
    wants_scsi = any(disk.bus == "scsi" and disk.dedicated_iothread for disk in spec.disks)
    return IoLayout(total=automatic + own, of_disk=MappingProxyType(of_disk), scsi=turn if wants_scsi else None)


def _limit(spec: VmSpec) -> int:
    if spec.io_threads.policy != "auto":
        return 1
    if spec.cpu.dedicated and spec.cpu.isolate_emulator:
        return 1
    requested = spec.resources.cpu_request or spec.resources.cpu_limit
    return 2 * (requested.value if requested else 1)


def pins_on_vcpus(threads: int, vcpus: int, cpus: tuple[int, ...]) -> Mapping[int, CpuSet]:
    """KubeVirt's pins for I/O threads that share the vCPUs' CPUs (`cpus` in cpuset order): round robin, or contiguous slices."""
    if threads >= vcpus:
        return MappingProxyType({thread: CpuSet.of(cpus[thread % vcpus]) for thread in range(1, threads + 1)})
    size, longer = divmod(vcpus, threads)
    pins: dict[int, CpuSet] = {}
    first = 0
    for thread in range(1, threads + 1):
        last = first + size + (thread <= longer)
        pins[thread] = CpuSet.of(*cpus[first:last])
        first = last
    return MappingProxyType(pins)


def pins(plan: Plan, threads: int) -> Mapping[int, CpuSet]:
    """Where each I/O thread runs: where the plan says, else beside the emulator, and under `whole` on the vCPUs' CPUs.

    KubeVirt pins only the first thread beside an isolated emulator and moves the others there by its housekeeping cgroup;
    here all of them are pinned there at once.
    """
    chosen = {thread: cpus for thread, cpus in plan.io.items() if thread <= threads}
    if plan.strategy == "whole" and not chosen and threads and plan.dedicated:
        return pins_on_vcpus(threads, len(plan.dedicated), tuple(plan.exclusive))
    rest = {thread: plan.emulator for thread in range(1, threads + 1) if thread not in chosen and plan.emulator}
    return MappingProxyType(dict(sorted((chosen | rest).items())))


def contribute(draft: Draft) -> None:
    """Write <iothreads> and <iothreadpin>; the disks name their threads themselves."""
    layout = io_layout(draft.spec)
    if not layout.total:
        return
    add(draft.root, "iothreads", layout.total)
    for thread, cpus in pins(draft.plan, layout.total).items():
        add(draft.section("cputune"), "iothreadpin", iothread=thread, cpuset=str(cpus))
