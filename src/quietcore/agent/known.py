"""What the agent knows of one running VM: how it looked when it was last right, and how quickly it was put right so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from quietcore.engine.apply import describe
from quietcore.host.glance import Look
from quietcore.model import (
    Applied,
    CgroupFacts,
    Finding,
    HostThread,
    MakeGroup,
    MoveProcess,
    MoveThread,
    Plan,
    SetAffinity,
    SetScheduler,
    SetValue,
    ThreadCensus,
    VmName,
)
from quietcore.render.values import Care

By: TypeAlias = Literal["start", "file", "thread", "domain", "cpu", "ledger", "resync", "retry"]
_BURST: Final = 10
_BURST_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a VM is looked at: since when (clock seconds) and by what we know."""

    at_s: float
    by: By

    @property
    def is_event(self) -> bool:
        """Whether a reaction time can be told: something announced itself."""
        return self.by in {"file", "thread", "domain", "cpu"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """A VM as it looked when everything was in its place. `roles` names each thread, `files` are those that were looked at.

    `sure` says that the look is older than what was verified: a drift between the two would else be taken for right.
    """

    plan: Plan
    pid: int
    look: Look
    good_at_s: float
    roles: Mapping[int, str]
    vcpus: frozenset[int]
    iothreads: frozenset[int]
    helpers: frozenset[int]
    facts: CgroupFacts
    groups: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    sure: bool = False

    @property
    def others(self) -> tuple[int, ...]:
        """The threads that are neither vCPU nor I/O thread nor the kernel's."""
        return tuple(tid for tid in sorted(self.look.threads) if tid not in self.vcpus | self.iothreads | self.helpers)

    def at(self, now_s: float, look: Look | None = None) -> Right:
        """Still right at this moment, looking so."""
        return replace(self, good_at_s=now_s, look=look or self.look)


@dataclass(slots=True)
class Known:
    """One VM's memory in the agent; it lives as long as the VM runs."""

    vm: VmName
    right: Right | None = None
    care: Care = field(default_factory=Care)
    trouble: str = ""
    recent: list[float] = field(default_factory=list)
    left_alone_until_s: float = 0.0

    def contested(self, now_s: float) -> bool:
        """Whether repairs follow each other so quickly that somebody must be working against us."""
        self.recent = [at for at in self.recent if now_s - at < _BURST_S]
        return len(self.recent) >= _BURST

    def repaired(self, cause: Cause, now_s: float) -> float | None:
        """Count a repair; gives the seconds from its cause to now, where that is a reaction time."""
        self.recent.append(now_s)
        seconds = max(0.0, now_s - cause.at_s) if cause.is_event else None
        last, longest = self.care.last_reaction_s, self.care.max_reaction_s
        self.care = replace(
            self.care,
            repairs=self.care.repairs + 1,
            last_reaction_s=last if seconds is None else seconds,
            max_reaction_s=longest if seconds is None else max(seconds, longest or 0.0),
        )
        return seconds

    def found(self, findings: tuple[Finding, ...]) -> None:
        """Remember what is wrong now and cannot be put right."""
        self.care = replace(self.care, findings=findings)


def role_names(census: ThreadCensus) -> Mapping[int, str]:
    """A name for every thread: "vCPU 0", "I/O thread 1", "worker"."""
    return MappingProxyType({thread.tid: _role(thread) for thread in census.threads})


def _role(thread: HostThread) -> str:
    if thread.vcpu is not None:
        return f"vCPU {thread.vcpu}"
    return thread.role if thread.iothread is None else f"I/O thread {thread.iothread}"


def told(applied: Applied, roles: Mapping[int, str]) -> dict[str, str | int]:
    """One repair as fields of an event: whose thread or which file, what it should be and what it was."""
    step = applied.step
    match step:
        case MoveThread():
            return {"thread": roles.get(step.tid, "kernel thread"), "tid": step.tid, "expected": step.group, "actual": applied.before}
        case SetAffinity():
            return {"thread": roles.get(step.tid, "kernel thread"), "tid": step.tid, "expected": str(step.cpus), "actual": applied.before}
        case SetScheduler():
            policy = f"{step.policy} {step.priority}"
            return {"thread": roles.get(step.tid, "kernel thread"), "tid": step.tid, "expected": policy, "actual": applied.before}
        case SetValue():
            return {"thread": "", "file": step.path, "expected": step.value, "actual": applied.before}
        case MakeGroup() | MoveProcess():
            return {"thread": "", "expected": describe(step), "actual": applied.before}
