"""Values as JSON objects in the shapes that the project keeps stable; more fields may be added, none taken away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias, assert_never

from quietcore.errors import Problem, QuietcoreError
from quietcore.model import (
    CpuSet,
    Finding,
    HostThread,
    LogicalCpu,
    MemoryBinding,
    NumaNode,
    Plan,
    Reason,
    Refusal,
    VcpuPlacement,
    VmName,
    union,
)
from quietcore.render.values import (
    Care,
    CpuUse,
    Description,
    DescriptionList,
    HostMap,
    PlanList,
    Printable,
    Sandbox,
    Verification,
    VerificationList,
)

API_VERSION: Final = "quietcore.io/v1alpha1"
Json: TypeAlias = bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"] | None
Fields: TypeAlias = dict[str, Json]


def to_json(value: Printable) -> Fields:
    """The value as one JSON object with its apiVersion and kind."""
    match value:
        case PlanList():
            return _object("PlanList", {"items": [_answer(item) for item in value.items]})
        case Description():
            return _object("VirtualMachine", _description(value))
        case DescriptionList():
            return _object("VirtualMachineList", {"items": [to_json(item) for item in value.items]})
        case Sandbox():
            return _object("Sandbox", _sandbox(value))
        case Verification():
            findings: Json = [_finding(finding) for finding in value.findings]
            return _object("Verification", {"vm": _vm(value.vm), "ok": value.ok, "findings": findings})
        case VerificationList():
            ok = all(item.ok for item in value.items)
            return _object("VerificationList", {"ok": ok, "items": [to_json(item) for item in value.items]})
        case HostMap():
            return _object("Topology", _host_map(value))
        case QuietcoreError():
            return _object("Error", {"code": int(value.exit_code), "errors": [_problem(problem) for problem in value.problems]})
        case _ as never:
            assert_never(never)


def listed(kind: str, items: Iterable[Printable]) -> Fields:
    """Several values as one object."""
    return _object(kind, {"items": [to_json(item) for item in items]})


def vm_fields(vm: VmName | None) -> Json:
    """A VM's name as every object carries it."""
    return _vm(vm)


def dumps(value: Printable) -> str:
    """The value as JSON text with a newline at its end; the same value gives the same bytes."""
    return json.dumps(to_json(value), indent=2, ensure_ascii=False) + "\n"


def line(value: Printable) -> str:
    """The same object on one line, which ends it: who finds no newline reads too early."""
    return json.dumps(to_json(value), ensure_ascii=False) + "\n"


def dumps_yaml(value: Printable) -> str:
    """The same object as YAML."""
    import yaml  # noqa: PLC0415  # most commands print none

    return yaml.safe_dump(json.loads(dumps(value)), sort_keys=False, allow_unicode=True, width=140)


def refusal(answer: Refusal) -> Fields:
    """Why something that runs cannot be moved."""
    reasons: Json = [
        {"constraint": one.constraint, "wanted": one.wanted, "free": one.free, "message": one.message} for one in answer.reasons
    ]
    return {"outcome": "refusal", "message": answer.message, "reasons": reasons}


def cpu_set(cpus: CpuSet) -> Fields:
    """A CPU set, for people and for programs."""
    return {"list": str(cpus), "cpus": list(cpus)}


def _object(kind: str, fields: Fields) -> Fields:
    return {"apiVersion": API_VERSION, "kind": kind, **fields}


def _vm(vm: VmName | None) -> Json:
    return None if vm is None else {"namespace": vm.namespace, "name": vm.name}


def _answer(answer: Plan | Refusal) -> Fields:
    match answer:
        case Plan():
            return {
                "vm": _vm(answer.vm),
                "outcome": "plan",
                "strategy": answer.strategy,
                "vcpus": [_vcpu(vcpu) for vcpu in answer.vcpus],
                "housekeeping": cpu_set(answer.emulator),
                "io": [{"iothread": thread, **cpu_set(cpus)} for thread, cpus in sorted(answer.io.items())],
                "unpinned": cpu_set(answer.unpinned),
                "shared": cpu_set(answer.shared),
                "memory": [_memory(binding) for binding in answer.memory],
                "cells": [
                    {"cell": cell.cell, "node": cell.node, "vcpus": list(cell.vcpus), "bytes": cell.memory_bytes} for cell in answer.cells
                ],
                "reasons": [],
                "nearest": None,
                "notes": list(answer.notes),
            }
        case Refusal():
            nearest = answer.nearest
            return {
                "vm": _vm(answer.vm),
                "outcome": "refusal",
                "strategy": None,
                "vcpus": [],
                "housekeeping": cpu_set(CpuSet()),
                "memory": [],
                "message": answer.message,
                "reason": answer.reason,
                "reasons": [_reason(reason) for reason in answer.reasons],
                "nearest": None if nearest is None else {"change": nearest.change, "vm": _vm(nearest.vm)},
            }
        case _ as never:
            assert_never(never)


def _vcpu(vcpu: VcpuPlacement) -> Fields:
    return {
        "vcpu": vcpu.vcpu,
        "pcpu": vcpu.pcpu,
        "node": vcpu.node,
        "core": vcpu.core,
        "realtime": vcpu.realtime,
        "rule": vcpu.rule,
    }


def _memory(binding: MemoryBinding) -> Fields:
    return {"node": binding.node, "type": binding.type, "bytes": binding.size_bytes}


def _reason(reason: Reason) -> Fields:
    return {
        "constraint": reason.constraint,
        "node": reason.node,
        "wanted": reason.wanted,
        "free": reason.free,
        "message": reason.message,
    }


def _description(description: Description) -> Fields:
    entry, census, plan = description.entry, description.census, description.entry.plan
    running = {thread.vcpu: thread for thread in census.vcpus} if census else {}
    placed = plan.vcpus if plan else ()
    return {
        "vm": _vm(entry.vm),
        "phase": description.phase,
        "strategy": plan.strategy if plan else entry.spec.strategy,
        "mechanism": entry.mechanism if plan else None,
        "layout": entry.layout if plan else None,
        "limits": list(entry.limits) if plan else [],
        "domain": entry.domain,
        "pid": census.pid if census else None,
        "dedicated": cpu_set(plan.dedicated if plan else CpuSet()),
        "housekeeping": cpu_set(plan.emulator if plan else CpuSet()),
        "memory": [_memory(binding) for binding in plan.memory] if plan else [],
        "vcpus": [_running_vcpu(vcpu, running.get(vcpu.vcpu)) for vcpu in placed],
        "threads": [_thread(thread) for thread in census.threads] if census else [],
        "agent": None if description.care is None else _care(description.care),
    }


def _sandbox(sandbox: Sandbox) -> Fields:
    containers: list[Json] = [
        {"id": name, "cpus": cpu_set(cpus), "vcpus": cpu_set(sandbox.backing(cpus))} for name, cpus in sorted(sandbox.containers.items())
    ]
    return {
        "vm": _vm(sandbox.vm),
        "domain": sandbox.domain,
        "cpus": cpu_set(union(sandbox.containers.values())),
        "map": [{"pcpu": one.pcpu, "vcpu": one.vcpu} for one in sorted(sandbox.backed, key=lambda one: one.pcpu or 0)],
        "unbacked": cpu_set(sandbox.unbacked),
        "containers": containers,
    }


def _care(care: Care) -> Fields:
    return {
        "repairs": care.repairs,
        "lastReactionSeconds": care.last_reaction_s,
        "maxReactionSeconds": care.max_reaction_s,
        "findings": [_finding(finding) for finding in care.findings],
    }


def _running_vcpu(vcpu: VcpuPlacement, thread: HostThread | None) -> Fields:
    return {
        "vcpu": vcpu.vcpu,
        "tid": thread.tid if thread else None,
        "pcpu": vcpu.pcpu,
        "policy": thread.policy if thread else None,
        "priority": thread.priority if thread else None,
    }


def _thread(thread: HostThread) -> Fields:
    return {
        "tid": thread.tid,
        "comm": thread.comm,
        "role": thread.role,
        "vcpu": thread.vcpu,
        "iothread": thread.iothread,
        "allowed": cpu_set(thread.allowed),
        "cgroup": thread.cgroup,
        "policy": thread.policy,
        "priority": thread.priority,
    }


def _finding(finding: Finding) -> Fields:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "subject": {"kind": finding.kind, "id": finding.id},
        "expected": finding.expected,
        "actual": finding.actual,
        "hint": finding.hint,
    }


def _problem(problem: Problem) -> Fields:
    return {
        "file": problem.file,
        "line": problem.line,
        "column": problem.column,
        "field": problem.field,
        "message": problem.message,
        "hint": problem.hint,
        "code": problem.code,
        "ours": problem.ours,
    }


def _host_map(host: HostMap) -> Fields:
    machine, uses = host.machine, host.uses()
    return {
        "name": machine.name,
        "architecture": machine.architecture,
        "cpuModel": machine.cpu_model,
        "nodes": [_node(node, machine.cpus_of_node(node.node)) for node in machine.nodes],
        "cpus": [_cpu(cpu, uses[cpu.cpu]) for cpu in machine.cpus],
        "offline": cpu_set(machine.offline),
        "isolated": cpu_set(machine.isolated),
        "usable": cpu_set(machine.usable),
        "reserved": cpu_set(host.reserved),
        "owners": [{"vm": _vm(plan.vm), **cpu_set(plan.exclusive)} for plan in host.plans if plan.exclusive],
    }


def _node(node: NumaNode, cpus: CpuSet) -> Fields:
    free = node.free_hugepages
    return {
        "node": node.node,
        "cpus": cpu_set(cpus),
        "memoryBytes": node.memory_bytes,
        "hugepages": [
            {"bytes": size, "count": pages, "free": None if free is None else free.get(size, 0)}
            for size, pages in sorted(node.hugepages.items())
        ],
        "distances": [{"node": other, "distance": distance} for other, distance in sorted(node.distances.items())],
    }


def _cpu(cpu: LogicalCpu, use: CpuUse) -> Fields:
    return {
        "cpu": cpu.cpu,
        "core": cpu.core,
        "socket": cpu.socket,
        "node": cpu.node,
        "l3": cpu.l3,
        "coreKind": cpu.kind,
        "state": use.state,
        "vm": _vm(use.vm),
        "vcpu": use.vcpu,
    }
