"""What a foreign domain had before it was adopted, and the steps that give it back: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from quietcore.isolation.targets import partition_cpus
from quietcore.model import (
    Adoption,
    CgroupFacts,
    CpuSet,
    MakeGroup,
    MoveProcess,
    MoveThread,
    Plan,
    SetAffinity,
    SetScheduler,
    SetValue,
    Step,
    ThreadCensus,
    union,
)

_CLAIM = "cpuset.cpus.exclusive"
_PARTITION = "cpuset.cpus.partition"


def touched(steps: tuple[Step, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files whose text must be known before these steps (each once), and the groups that they make.

    Controllers that were enabled stay so, because others may use them by then.
    """
    files = dict.fromkeys(step.path for step in steps if isinstance(step, SetValue) and step.readback != "words")
    return tuple(files), tuple(dict.fromkeys(step.path for step in steps if isinstance(step, MakeGroup)))


def partition_back(adopted: Adoption, facts: CgroupFacts, plans: tuple[Plan, ...], owned: CpuSet) -> Iterator[Step]:
    """First the partitions end, the innermost first; the levels above keep what others claim there (`owned` is others')."""
    levels = {facts.file(level, _CLAIM) for level in facts.levels}
    for group in reversed(adopted.made):
        yield SetValue(path=f"{group}/{_PARTITION}", value="member")
    for path, text in _innermost_first(adopted.files):
        if path.endswith(f"/{_PARTITION}"):
            yield SetValue(path=path, value=text.partition(" ")[0])
    for path, text in _innermost_first(adopted.files):
        if path.endswith(f"/{_CLAIM}") and path not in levels:
            yield SetValue(path=path, value=text, readback="cpus")
    gone = union(partition_cpus(plan) for plan in plans) - owned
    for level in reversed(facts.levels):
        claim = facts.exclusive.get(level)
        if claim is not None and not claim.isdisjoint(gone):
            yield SetValue(path=facts.file(level, _CLAIM), value=str(claim - gone), readback="cpus")


def files_back(adopted: Adoption, offline: CpuSet) -> Iterator[SetValue]:
    """Then what else was written, the outermost first: a child's CPUs must be among its parent's on cgroup v1, and online."""
    for path, text in sorted(adopted.files.items()):
        name = path.rpartition("/")[2]
        if name == "cpuset.cpus":
            yield SetValue(path=path, value=str(CpuSet.parse(text) - offline), readback="cpus")
        elif name not in {_PARTITION, _CLAIM}:
            yield SetValue(path=path, value=text, readback="cpus" if name == "cpuset.mems" else "exact")


def threads_back(adopted: Adoption, census: ThreadCensus, facts: CgroupFacts, room: Mapping[str, CpuSet]) -> Iterator[Step]:
    """Then every thread goes to its group and gets its CPUs; one that was born later gets what QEMU's main thread had.

    `room` is what the kernel leaves to the tasks of each of these groups now. A thread of whose CPUs none is there gets all of it,
    which is what the kernel itself does: they went offline, into somebody's partition, or they were lent to it for want of its own.
    """
    before = {thread.tid: thread for thread in adopted.threads}
    main = before[adopted.pid]
    homes = [(thread, before.get(thread.tid, main)) for thread in census.threads]
    whole = facts.version == 2 and bool(adopted.made)  # cgroup v2 keeps a process in one subtree: it had left its group as a whole
    if whole:
        yield MoveProcess(path=facts.file(main.cgroup, "cgroup.procs"), group=main.cgroup, pid=census.pid)
    for thread, then in homes:
        if thread.cgroup == then.cgroup or (whole and not thread.kernel):
            continue
        if thread.kernel and facts.version == 2:
            yield MoveProcess(path=facts.file(then.cgroup, "cgroup.procs"), group=then.cgroup, pid=thread.tid)
        else:
            name = "cgroup.threads" if facts.version == 2 else "tasks"
            yield MoveThread(path=facts.file(then.cgroup, name), group=then.cgroup, tid=thread.tid)
    for thread, then in homes:
        yield SetAffinity(tid=thread.tid, cpus=then.allowed & room[then.cgroup] or room[then.cgroup])


def cpu_groups_back(adopted: Adoption, now: Mapping[int, str], mount: str) -> Iterator[MoveThread]:
    """On cgroup v1 every thread, no longer real-time, returns to its group of the cpu hierarchy, which is mounted at `mount`."""
    for tid, group in sorted(now.items()):
        then = adopted.cpu_groups.get(tid, adopted.cpu_groups.get(adopted.pid, group))
        if group != then:
            yield MoveThread(path=f"{mount}{then.rstrip('/')}/tasks", group=then, tid=tid, controller="cpu")


def policies_back(adopted: Adoption, census: ThreadCensus) -> Iterator[SetScheduler]:
    """Before all of it: no thread keeps a real-time policy on CPUs that others use again."""
    before = {thread.tid: thread for thread in adopted.threads}
    for thread in census.threads:
        then = before.get(thread.tid)
        if then is not None and (thread.policy, thread.priority) != (then.policy, then.priority):
            yield SetScheduler(tid=thread.tid, policy=then.policy, priority=then.priority)


def _innermost_first(files: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(MappingProxyType(files).items(), key=lambda one: (-one[0].count("/"), one[0]))
