"""The kubelet's `cpu_manager_state` as text: read in versions 1 to 3 with its checksum, written in version 3 (or 2).

Rules: Kubernetes v1.36.2, pkg/kubelet/cm/cpumanager/state. The checksum covers a dump of the Go values, type names included,
not the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from quietcore.errors import InputError, Problem
from quietcore.model import CpuSet
from quietcore.placement.cpu_state import CpuState

Version = Literal[1, 2, 3]
_CORRUPT: Final = "checkpoint is corrupted"
_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFile:
    """The content of a state file, and the version in which it was read."""

    policy: str
    state: CpuState
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raw:
    """The file as written: CPU lists are texts. `entries` is pod uid -> container -> list, in version 1 container id -> list."""

    policy: str
    default: str
    entries: Mapping[str, object]
    pods: Mapping[str, str]
    checksum: int


class _FaultError(Exception):
    """One attempt to read the text in one version failed; the kubelet shows the last attempt's fault."""


def read_state(
    text: str, *, policy: str = "static", pod_level: bool = True, containers: Mapping[str, tuple[str, str]] | None = None
) -> StateFile:
    """Read a state file as a kubelet with this policy would restore it.

    `pod_level` is the gate PodLevelResourceManagers: only with it version 3 is understood. `containers` maps container
    ids to (pod uid, container name), which version 1 needs. Raises InputError with the kubelet's text: damage, another policy,
    lists that are none.
    """
    attempts: tuple[Version, ...] = (3, 2, 1) if pod_level else (2, 1)
    fault = _CORRUPT
    for version in attempts:
        try:
            raw = _parse(text, version)
            _check(raw, version)
            return StateFile(policy=raw.policy, state=_state(raw, version, policy, containers or {}), version=version)
        except _FaultError as error:
            fault = str(error)
    raise _restore_error(fault)


def write_state(state: CpuState, *, policy: str = "static", version: Literal[2, 3] = 3) -> str:
    """Write a state as the kubelet does: one line of JSON. Version 2 is what kubelets without PodLevelResourceManagers read.

    Raises InputError for a state with pod-level CPUs in version 2, which cannot hold them.
    """
    if version == 2 and state.pod_assignments:
        message = "version 2 of the state file cannot hold the CPUs of a pod as a whole"
        raise InputError.of((Problem(field="version", message=message, hint="write version 3"),))
    entries = {uid: {name: str(cpus) for name, cpus in sorted(pod.items())} for uid, pod in sorted(state.assignments.items())}
    pods = {uid: str(cpus) for uid, cpus in sorted(state.pod_assignments.items())}
    raw = _Raw(policy=policy, default=str(state.default), entries=entries, pods=pods, checksum=0)
    document: dict[str, object] = {"policyName": policy, "defaultCpuSet": raw.default}
    if entries:
        document["entries"] = entries
    if pods:
        document["podEntries"] = {uid: {"cpuSet": cpus} for uid, cpus in pods.items()}
    document["checksum"] = _checksum(raw, version)
    return json.dumps(document, separators=(",", ":"))


def _parse(text: str, version: Version) -> _Raw:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _FaultError(str(error)) from error
    if not isinstance(document, dict):
        raise _FaultError("json: cannot unmarshal the file into an object")
    fields = {str(key).lower(): value for key, value in document.items()}
    entries = fields.get("entries") or {}
    if not isinstance(entries, dict):
        raise _FaultError("json: cannot unmarshal entries into an object")
    for value in entries.values():
        if isinstance(value, str) != (version == 1) or (version != 1 and not _is_texts(value)):
            kind = "string" if isinstance(value, str) else "object"
            wanted = "string" if version == 1 else "map[string]string"
            raise _FaultError(f"json: cannot unmarshal {kind} into Go struct field CPUManagerCheckpoint.entries of type {wanted}")
    pods = {str(uid): str(one.get("cpuSet", "")) for uid, one in (fields.get("podentries") or {}).items()} if version == 3 else {}
    checksum = fields.get("checksum", 0)
    if not isinstance(checksum, int):
        raise _FaultError("json: cannot unmarshal checksum into a number")
    policy, default = str(fields.get("policyname", "")), str(fields.get("defaultcpuset", ""))
    return _Raw(policy=policy, default=default, entries=entries, pods=pods, checksum=checksum)


def _check(raw: _Raw, version: Version) -> None:
    unchecked = raw.checksum == 0 and version != 3
    if not unchecked and raw.checksum != _checksum(raw, version):
        raise _FaultError(_CORRUPT)


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _state(raw: _Raw, version: Version, policy: str, containers: Mapping[str, tuple[str, str]]) -> CpuState:
    entries = _migrated(raw.entries, containers) if version == 1 else raw.entries
    if raw.policy != policy:
        raise _restore_error(f'configured policy "{policy}" differs from state checkpoint policy "{raw.policy}"')
    default = _cpus(raw.default, f'could not parse default cpu set "{raw.default}"')
    assignments: dict[str, Mapping[str, CpuSet]] = {}
    for uid, pod in entries.items():
        assert isinstance(pod, dict)
        assignments[uid] = MappingProxyType(
            {name: _cpus(cpus, f'could not parse cpuset "{cpus}" for container "{name}" in pod "{uid}"') for name, cpus in pod.items()}
        )
    pods = {uid: _cpus(cpus, f'could not parse cpuset "{cpus}" for pod "{uid}"') for uid, cpus in raw.pods.items()}
    return CpuState(default=default, assignments=MappingProxyType(assignments), pod_assignments=MappingProxyType(pods))


def _migrated(entries: Mapping[str, object], containers: Mapping[str, tuple[str, str]]) -> dict[str, object]:
    """Version 1 names containers by their runtime id."""
    found: dict[str, dict[str, object]] = {}
    for container, cpus in entries.items():
        if container not in containers:
            raise _restore_error(f"containerID '{container}' not found in initial containers list")
        uid, name = containers[container]
        found.setdefault(uid, {})[name] = cpus
    return dict(found)


def _cpus(text: str, fault: str) -> CpuSet:
    try:
        return CpuSet.parse(text)
    except ValueError as error:
        raise _restore_error(f"{fault}: {error}") from error


def _restore_error(fault: str) -> InputError:
    message = f"could not restore state from checkpoint: {fault}"
    hint = "drain this node and delete the CPU manager checkpoint file before restarting Kubelet"
    return InputError.of((Problem(field="cpu_manager_state", message=message, hint=hint),))


def _checksum(raw: _Raw, version: Version) -> int:
    if version == 1:
        entries = f"(map[string]string){_go_map({key: str(value) for key, value in raw.entries.items()})}"
    else:
        pods = {uid: _go_map(dict(pod)) if isinstance(pod, dict) else "" for uid, pod in raw.entries.items()}
        entries = f"(map[string]map[string]string){_go_map(pods)}"
    dump = f"PolicyName:(string){raw.policy} DefaultCPUSet:(string){raw.default} Entries:{entries}"
    if version == 3:
        whole = {uid: _go_cpu_set(cpus) for uid, cpus in raw.pods.items()}
        dump += f" PodEntries:(state.PodCPUAssignments){_go_map(whole)}"
    return fnv1a(f"(*state.CPUManagerCheckpoint){{{dump} Checksum:(checksum.Checksum)0}}".encode())


def _go_map(entries: Mapping[str, str]) -> str:
    inside = " ".join(f"{key}:{entries[key]}" for key in sorted(entries, key=str.encode))
    return f"map[{inside}]"


def _go_cpu_set(text: str) -> str:
    try:
        cpus = CpuSet.parse(text)
    except ValueError as error:
        raise _FaultError(str(error)) from error
    elements = " ".join(f"{cpu}:{{}}" for cpu in cpus)
    return f"{{CPUSet:(cpuset.CPUSet){{elems:(map[int]struct {{}})map[{elements}]}}}}"


def fnv1a(data: bytes) -> int:
    """The 32-bit FNV-1a hash."""
    value = _FNV_OFFSET
    for byte in data:
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return value
