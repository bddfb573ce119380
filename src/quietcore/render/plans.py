"""Placements in words: what fits and where, or why it does not fit and what would."""

from __future__ import annotations

from collections.abc import Sequence

from quietcore.model import Assignment, CpuSet, Machine, MemoryBlock, Plan, Reason, Refusal, VcpuPlacement
from quietcore.render.tables import cpu_words, memory, printable, size, table

_SHARED = "shared"


def plan_text(answer: Plan | Refusal, *, explain: bool = False) -> str:
    """One answer of `plan`; `explain` adds the rule that took each CPU and what each container was given."""
    return _refusal_text(answer, explain=explain) if isinstance(answer, Refusal) else _fit_text(answer, explain=explain)


def plans_text(answers: Sequence[Plan | Refusal], *, explain: bool = False) -> str:
    """Several answers with a blank line between them; more than one end with how many fit."""
    texts = [plan_text(answer, explain=explain) for answer in answers]
    if len(answers) > 1:
        texts.append(f"{sum(isinstance(answer, Plan) for answer in answers)} of {len(answers)} fit\n")
    return "\n".join(texts)


def placement_map(plan: Plan, machine: Machine) -> str:
    """A few lines on where each vCPU runs, who has the other threads of its core, and where QEMU's other threads are."""
    text = f"{plan.vm} on {printable(machine.name)}: {_count(len(plan.vcpus), 'vCPU')}, strategy {plan.strategy}\n"
    rows = [_map_row(vcpu, plan, machine) for vcpu in plan.vcpus]
    rows += [(f"I/O thread {thread}", cpu_words(cpus), "", "", _pool(plan, cpus)) for thread, cpus in sorted(plan.io.items())]
    rows.append(("other threads", cpu_words(plan.emulator) if plan.emulator else "nowhere", "", "", _pool(plan, plan.emulator)))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        who, *places = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        text += f"  {who} ─▶ {'   '.join(places).rstrip()}\n"
    return text


def _map_row(vcpu: VcpuPlacement, plan: Plan, machine: Machine) -> tuple[str, str, str, str, str]:
    who = f"vCPU {vcpu.vcpu}{' (realtime)' if vcpu.realtime else ''}"
    if vcpu.pcpu is None:
        return who, cpu_words(plan.shared), "", "", "shared pool"
    siblings = machine.siblings(vcpu.pcpu) - CpuSet.of(vcpu.pcpu) if vcpu.pcpu in machine.online else CpuSet()
    return who, f"CPU {vcpu.pcpu}", f"core {vcpu.core}", f"node {vcpu.node}", _company(siblings, plan)


def _company(siblings: CpuSet, plan: Plan) -> str:
    """Who else runs on the core."""
    if not siblings:
        return "a core of its own"
    own = {vcpu.pcpu: vcpu.vcpu for vcpu in plan.vcpus if vcpu.pcpu is not None}
    vcpus = CpuSet.from_iterable(own[cpu] for cpu in siblings if cpu in own)
    groups = (
        (f"v{cpu_words(vcpus)}", siblings & plan.dedicated),
        ("this VM's other threads", siblings & (plan.exclusive - plan.dedicated)),
        ("the shared pool", siblings & plan.shared),
        ("others", siblings - plan.exclusive - plan.shared),
    )
    return "shares its core with " + " and ".join(f"{who} ({cpu_words(cpus)})" for who, cpus in groups if cpus)


def _fit_text(plan: Plan, *, explain: bool) -> str:
    owned = plan.exclusive
    paid = f"{_count(len(owned), 'CPU')} of its own ({owned})" if owned else "no CPU of its own"
    text = f"{plan.vm}: fits, strategy {plan.strategy}, {paid}\n"
    headers = ("VCPU", "CPU", "NODE", "CORE", "POLICY", *(("RULE",) if explain else ()))
    text += table(headers, [_vcpu_row(vcpu, explain=explain) for vcpu in plan.vcpus], indent="  ")
    facts = [("other threads", _where(plan, plan.emulator))]
    facts += [(f"I/O thread {thread}", _where(plan, cpus)) for thread, cpus in sorted(plan.io.items())]
    if plan.memory:
        facts.append(("guest memory", memory(plan.memory)))
    for cell in plan.cells:
        vcpus = CpuSet.from_iterable(cell.vcpus)
        facts.append((f"guest cell {cell.cell}", f"v{cpu_words(vcpus)}, {size(cell.memory_bytes)}, on node {cell.node}"))
    if plan.unpinned:
        facts.append(("left over", f"{cpu_words(plan.unpinned)}: owned, but no thread runs there"))
    if explain:
        facts += [(f"container {one.container}", _given(one)) for one in plan.assignments]
        facts.append(("shared pool", f"{cpu_words(plan.shared)} while this VM runs" if plan.shared else "empty while this VM runs"))
    facts += [("note", note) for note in plan.notes]
    width = max(len(label) for label, _ in facts) + 2
    return text + "".join(f"  {label + ':':{width}} {value}\n" for label, value in facts)


def _refusal_text(refusal: Refusal, *, explain: bool) -> str:
    who = f"{refusal.vm}: " if refusal.vm else ""
    why = f" ({refusal.reason})" if explain and refusal.reason else ""
    text = f"{who}does not fit: {refusal.message}{why}\n"
    if refusal.reasons:
        headers = ("CONSTRAINT", "NODE", "WANTED", "FREE", "WHY")
        text += table(headers, [_reason_row(reason) for reason in refusal.reasons], indent="  ")
    if refusal.nearest:
        mover = f" (moving {refusal.nearest.vm})" if refusal.nearest.vm else ""
        text += f"  nearest fit: {refusal.nearest.change}{mover}\n"
    return text


def _reason_row(reason: Reason) -> tuple[str, ...]:
    return (reason.constraint, "" if reason.node is None else str(reason.node), reason.wanted, reason.free, reason.message)


def _vcpu_row(vcpu: VcpuPlacement, *, explain: bool) -> tuple[str, ...]:
    place = (_SHARED if value is None else str(value) for value in (vcpu.pcpu, vcpu.node, vcpu.core))
    return (str(vcpu.vcpu), *place, "realtime" if vcpu.realtime else "", *((vcpu.rule,) if explain else ()))


def _where(plan: Plan, cpus: CpuSet) -> str:
    return f"{cpu_words(cpus)} ({_pool(plan, cpus)})" if cpus else _pool(plan, cpus)


def _pool(plan: Plan, cpus: CpuSet) -> str:
    if not cpus:
        return "no CPU is left for them"
    if cpus.isdisjoint(plan.exclusive):
        return "shared pool"
    return "on the vCPUs' own CPUs" if cpus <= plan.dedicated else "the VM's own, beside the vCPUs"


def _given(assignment: Assignment) -> str:
    cpus = cpu_words(assignment.cpus) if assignment.cpus else "shared pool"
    return ", ".join((cpus, *(_block(block) for block in assignment.memory)))


def _block(block: MemoryBlock) -> str:
    nodes = CpuSet.from_iterable(block.nodes)
    return f"{size(block.size_bytes)} of {block.type} on node{'s' if len(nodes) > 1 else ''} {nodes}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
