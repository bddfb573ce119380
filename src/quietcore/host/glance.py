"""A cheap look at a running VM: enough to see that nothing changed since it was checked, and nothing more.

A full observation asks QEMU and reads all of /proc; a glance costs some hundred microseconds, so that an agent can repeat it for
every VM of a host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from quietcore.host.fs import HostFs
from quietcore.host.threads import ThreadControl, cgroup_of
from quietcore.model import CgroupFacts, CpuSet, Policy, ThreadCensus


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadLook:
    """Where one thread is and how it runs."""

    cgroup: str
    allowed: CpuSet
    policy: Policy
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What was seen: the threads by id, and the texts of some files ("" for one that is not there)."""

    threads: Mapping[int, ThreadLook]
    files: Mapping[str, str]


def look(fs: HostFs, control: ThreadControl, pid: int, *, helpers: Iterable[int], files: Iterable[str], version: int) -> Look:
    """Look at every thread of process `pid`, at the kernel threads `helpers` that work for it, and at `files`.

    Raises ProcessLookupError when the process is gone; a thread that ends meanwhile is left out.
    """
    try:
        names = fs.listdir(f"/proc/{pid}/task")
    except FileNotFoundError as err:
        raise ProcessLookupError(f"process {pid} is gone") from err
    paths = {int(name): f"/proc/{pid}/task/{name}/cgroup" for name in names} | {tid: f"/proc/{tid}/cgroup" for tid in helpers}
    threads = {}
    for tid, path in sorted(paths.items()):
        try:
            policy, priority = control.scheduler(tid)
            cgroup = cgroup_of(fs.read(path), version)
            threads[tid] = ThreadLook(cgroup=cgroup, allowed=control.affinity(tid), policy=policy, priority=priority)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return Look(threads=threads, files={path: fs.read_or(path, "") for path in files})


def files_of(facts: CgroupFacts, census: ThreadCensus) -> tuple[str, ...]:
    """The files whose content decides where a VM's threads may run."""
    if facts.layout == "none":
        return ()
    groups = own_groups(facts, census)
    names = ["cpuset.cpus", *(["cpuset.cpus.exclusive", "cpuset.cpus.partition"] if facts.partition_states else [])]
    files = [facts.file(group, name) for group in groups for name in names]
    if facts.quota_mount:
        files += [facts.quota_file(group) for group in facts.quota_groups]
    return tuple(files)


def own_groups(facts: CgroupFacts, census: ThreadCensus) -> tuple[str, ...]:
    """The groups of one VM, its home first: those that libvirt made and those in which its threads stand."""
    if facts.layout == "none":
        return ()
    standing = sorted({thread.cgroup for thread in census.threads if thread.cgroup.startswith(f"{facts.home}/")})
    emulator = (facts.emulator_group,) if facts.emulator_group else ()
    return tuple(dict.fromkeys((facts.home, *emulator, *facts.vcpu_groups.values(), *facts.io_groups.values(), *standing)))
