"""The host's CPUs against the plans: a CPU that goes offline, or SMT that is switched, shrinks a partition without a word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from quietcore.host.fs import HostFs
from quietcore.isolation import offline
from quietcore.machines.sysfs import CPU, EFFECTIVE_CPUS, ISOLATED
from quietcore.model import CpuSet, Finding, Ledger, VmName

ONLINE: Final = f"/{CPU}/online"
SMT_CONTROL: Final = f"/{CPU}/smt/control"
_SMT_ACTIVE: Final = f"/{CPU}/smt/active"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCpus:
    """What decides which CPUs there are: `key` changes whenever a machine that was read before is no longer true."""

    online: CpuSet
    smt: str
    key: tuple[str, ...]


def read(fs: HostFs) -> HostCpus:
    """Read the few files."""
    key = tuple(fs.read_or(f"/{path}", "") for path in (*ISOLATED, *EFFECTIVE_CPUS))
    online = fs.read_or(ONLINE, "")
    smt = fs.read_or(_SMT_ACTIVE, "").strip()
    return HostCpus(online=CpuSet.parse(online), smt=smt, key=(online, smt, *key))


def switches(fs: HostFs) -> tuple[str, ...]:
    """The files that a person or program writes to take CPUs away or bring them back."""
    names = [name for name in fs.listdir(f"/{CPU}") if name.startswith("cpu") and name[3:].isdigit()] if fs.is_dir(f"/{CPU}") else []
    files = (SMT_CONTROL, *(f"/{CPU}/{name}/online" for name in names))
    return tuple(path for path in files if fs.exists(path))


def findings(ledger: Ledger, cpus: HostCpus, smt_before: str) -> dict[VmName, tuple[Finding, ...]]:
    """For every VM that owns CPUs: those that are offline, and SMT that is not as it was when the agent started."""
    owners = [(entry.vm, entry.plan.exclusive) for entry in ledger.entries if entry.plan is not None and entry.plan.exclusive]
    return {vm: found for vm, owned in owners if (found := tuple(_of_vm(owned, cpus, smt_before)))}


def _of_vm(owned: CpuSet, cpus: HostCpus, smt_before: str) -> Iterator[Finding]:
    yield from offline(owned, cpus.online)
    if smt_before and cpus.smt != smt_before:
        words = {"0": "SMT off", "1": "SMT on"}
        yield Finding(
            code="smt-changed",
            severity="warning",
            kind="host",
            id="smt",
            expected=words.get(smt_before, smt_before),
            actual=words.get(cpus.smt, cpus.smt),
            hint="the placements were made for other siblings: delete and run the VM again to place it anew",
        )
