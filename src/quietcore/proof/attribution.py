"""Who ran on a VM's CPUs, and for whom its vCPUs waited: the walk through a trace of switches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from quietcore.model import CpuSet
from quietcore.proof.trace import Fork, Switch, TraceEvent, Wakeup

Runner: TypeAlias = Literal["vcpu", "own", "kernel", "other", "idle"]
"""A vCPU of the VM; another thread that works for it; a thread of the kernel; anybody else; nobody."""
RUNNERS: Final[tuple[Runner, ...]] = ("vcpu", "own", "kernel", "other", "idle")
_IDLE: Final = 0
_KTHREADD: Final = 2  # the parent of every thread of the kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Which thread is whose: the VM's vCPUs, its other threads, and the threads of the kernel that do not work for it."""

    vcpus: frozenset[int]
    own: frozenset[int]
    kernel: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Time on the CPUs, and how often it came on: a stay shorter than the clock's step has no time, but it is counted."""

    time_ns: int = 0
    times: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """What happened on some CPUs in a window; every runner is in every mapping.

    `ran` and `unseen_ns` (a CPU on which nobody was switched tells nothing about who was there) add up to the window times the CPUs.
    `waited_ns` is the vCPUs' run delay by who ran meanwhile (`idle`: the CPU was still waking up); `preempted` counts their
    involuntary switches by who came. `names` is the time of each task by its name, the longest first, without vCPUs and idle.
    """

    window_ns: int
    cpus: CpuSet
    ran: Mapping[Runner, Tally]
    waited_ns: Mapping[Runner, int]
    preempted: Mapping[Runner, int]
    names: Mapping[tuple[Runner, str], int] = field(default_factory=lambda: MappingProxyType({}))
    unseen_ns: int = 0

    @property
    def foreign_ns(self) -> int:
        """The time of everything on these CPUs that does not belong to the VM."""
        return self.ran["kernel"].time_ns + self.ran["other"].time_ns

    @property
    def foreign_percent(self) -> float:
        """The same as a part of the CPUs' whole time."""
        return 100 * self.foreign_ns / (self.window_ns * len(self.cpus))


def attribute(events: Iterable[TraceEvent], cpus: CpuSet, tasks: Tasks, start_ns: int, end_ns: int) -> Attribution:
    """Walk through the events from `start_ns` to `end_ns`, ascending by time.

    Needs every switch on `cpus`, every wake-up of a vCPU, and the forks: threads that were born and gone within the trace belong to
    whom their parents belong to. Raises ValueError for an empty window or no CPUs.
    """
    if end_ns <= start_ns or not cpus:
        raise ValueError("a window needs a length and CPUs")
    listed = tuple(events)
    walk = _Walk(cpus, _with_children(tasks, listed), start_ns)
    for event in listed:
        if event.time_ns > end_ns:
            break
        walk.step(event)
    return walk.finish(end_ns)


def _with_children(tasks: Tasks, events: tuple[TraceEvent, ...]) -> Tasks:
    own, kernel = set(tasks.own), set(tasks.kernel)
    for event in events:
        if isinstance(event, Fork):
            if event.parent in own or event.parent in tasks.vcpus:
                own.add(event.child)
            elif event.parent == _KTHREADD:
                kernel.add(event.child)
    return Tasks(vcpus=tasks.vcpus, own=frozenset(own - tasks.vcpus), kernel=frozenset(kernel - own))


class _Walk:
    """Who is on each CPU, since when, and which vCPUs wait there."""

    def __init__(self, cpus: CpuSet, tasks: Tasks, start_ns: int) -> None:
        self._cpus = cpus
        self._tasks = tasks
        self._start_ns = start_ns
        self._since: dict[int, int] = dict.fromkeys(cpus, start_ns)
        self._runner: dict[int, tuple[int, str]] = {}  # CPU -> thread and its name, known from the first switch on
        self._begun: set[int] = set()
        self._waiting: dict[int, tuple[int, int]] = {}  # vCPU thread -> where, and from when its wait counts
        self._time: Counter[Runner] = Counter()
        self._times: Counter[Runner] = Counter()
        self._waited: Counter[Runner] = Counter()
        self._preempted: Counter[Runner] = Counter()
        self._names: Counter[tuple[Runner, str]] = Counter()

    def step(self, event: TraceEvent) -> None:
        inside = event.time_ns >= self._start_ns
        match event:
            case Switch() if event.cpu in self._cpus:
                self._switch(event, inside=inside)
            case Wakeup() if event.tid in self._tasks.vcpus and all(event.tid != tid for tid, _ in self._runner.values()):
                self._waiting.setdefault(event.tid, (event.cpu, max(event.time_ns, self._start_ns)))
            case _:
                pass

    def finish(self, end_ns: int) -> Attribution:
        unseen_ns = 0
        for cpu in self._cpus:
            if cpu in self._runner:
                self._first(cpu, self._runner[cpu][0])
                self._stay(cpu, *self._runner[cpu], end_ns)
            else:
                unseen_ns += end_ns - self._start_ns
        return Attribution(
            window_ns=end_ns - self._start_ns,
            cpus=self._cpus,
            ran={runner: Tally(time_ns=self._time[runner], times=self._times[runner]) for runner in RUNNERS},
            waited_ns={runner: self._waited[runner] for runner in RUNNERS},
            preempted={runner: self._preempted[runner] for runner in RUNNERS},
            names=dict(self._names.most_common()),
            unseen_ns=unseen_ns,
        )

    def _switch(self, event: Switch, *, inside: bool) -> None:
        if inside:
            self._first(event.cpu, event.left)
            self._stay(event.cpu, event.left, event.left_comm, event.time_ns)
            self._times[self._kind(event.came)] += 1
        if event.left in self._tasks.vcpus and event.runnable:
            self._waiting[event.left] = (event.cpu, max(event.time_ns, self._start_ns))
            if inside:
                self._preempted[self._kind(event.came)] += 1
        self._waiting.pop(event.came, None)
        self._runner[event.cpu] = (event.came, event.came_comm)

    def _first(self, cpu: int, tid: int) -> None:
        """Count whoever was there when the window began."""
        if cpu not in self._begun:
            self._begun.add(cpu)
            self._times[self._kind(tid)] += 1

    def _stay(self, cpu: int, tid: int, comm: str, until_ns: int) -> None:
        """Book the time of whoever was on the CPU until now, and the wait of the vCPUs behind it."""
        kind, since_ns = self._kind(tid), self._since[cpu]
        self._time[kind] += until_ns - since_ns
        if kind not in {"vcpu", "idle"}:
            self._names[kind, comm] += until_ns - since_ns
        for vcpu, (where, from_ns) in self._waiting.items():
            if where == cpu and vcpu != tid:
                self._waited[kind] += until_ns - max(since_ns, from_ns)
        self._since[cpu] = until_ns

    def _kind(self, tid: int) -> Runner:
        if tid == _IDLE:
            return "idle"
        if tid in self._tasks.vcpus:
            return "vcpu"
        if tid in self._tasks.own:
            return "own"
        return "kernel" if tid in self._tasks.kernel else "other"
