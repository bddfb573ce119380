"""What the engine answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from quietcore.model import Entry, Plan, Refusal, VmName
from quietcore.virt.hypervisor import DomainView

Result: TypeAlias = Literal["created", "started", "unchanged", "repaired", "stored", "stopped", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `apply` did with one VM."""

    vm: VmName
    result: Result
    plan: Plan | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VmView:
    """One VM as a reader sees it: the books, the domain as it is now, and the plan with today's shared pool."""

    entry: Entry
    domain: DomainView | None
    plan: Plan | None

    @property
    def phase(self) -> str:
        """KubeVirt's word for where the VM is in its life."""
        if self.entry.phase == "creating":
            return "Scheduling"
        if self.entry.phase == "deleting":
            return "Terminating"
        if self.entry.phase == "stopped" or self.domain is None:
            return "Stopped"
        return {"running": "Running", "paused": "Paused"}.get(self.domain.state, "Unknown")
