"""Tables as kubectl prints them: upper-case headers, left aligned, no borders, three blanks between columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final

from quietcore.model import CpuSet, Finding, HostThread, Layout, MemoryBinding, Quantity, VmName
from quietcore.render.values import Care, Description, DescriptionList, Verification

_GAP: Final = "   "
NOTHING: Final = "-"
"""What stands where there is no value: an empty cell could not be told from a missing column."""
_VMS: Final = ("NAME", "PHASE", "STRATEGY", "VCPUS", "CPUS")
_VMS_WIDE: Final = ("OTHER THREADS", "NODES", "MEMORY", "MECHANISM", "DOMAIN")
_TEXT_WIDTH: Final = 104
_SEVERITIES: Final = ("error", "warning", "info")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, indent: str = "") -> str:
    """Lay out rows of cells under their headers, with a newline at the end; an empty cell becomes a dash."""
    lines = [tuple(headers), *(tuple(printable(cell) or NOTHING for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "".join(
        indent + _GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def printable(text: str) -> str:
    """The text without control characters: thread names and recorded machines come from others and end on a terminal."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def size(size_bytes: int) -> str:
    """Bytes as people write them: "4Gi", "1536Mi", and rounded to whole Mi where that says enough."""
    exact = str(Quantity(Fraction(size_bytes), "binary"))
    return exact if not exact.isdecimal() and not exact.endswith("Ki") else f"{size_bytes / (1 << 20):.0f}Mi"


def cpu_words(cpus: CpuSet) -> str:
    """A CPU set in a sentence: "CPU 3", "CPUs 2-5"."""
    return f"CPU{'' if len(cpus) == 1 else 's'} {cpus}"


def memory(bindings: Iterable[MemoryBinding]) -> str:
    """Memory per node: "4Gi on node 0"; the type is named where it is no ordinary memory."""
    parts = (
        f"{size(one.size_bytes)}{'' if one.type == 'memory' else f' of {one.type}'} on node {one.node}"
        for one in sorted(bindings, key=lambda one: (one.node, one.type))
    )
    return ", ".join(parts)


def vms_table(vms: DescriptionList, *, wide: bool = False, all_namespaces: bool = False) -> str:
    """`get vms`: one row for each VM. CPUS are the dedicated ones, in the order of the numbers."""
    headers = (*(("NAMESPACE",) if all_namespaces else ()), *_VMS, *(_VMS_WIDE if wide else ()))
    return table(headers, [_vm_row(vm, wide=wide, all_namespaces=all_namespaces) for vm in vms.items])


def names(kind: str, vms: Iterable[VmName]) -> str:
    """`-o name`: one "kind/name" per line."""
    return "".join(f"{kind}/{vm.name}\n" for vm in vms)


def findings_text(verification: Verification) -> str:
    """The findings, the worst first, a few lines each, and the verdict in the last line."""
    ordered = sorted(verification.findings, key=lambda one: (_SEVERITIES.index(one.severity), one.code, one.kind, one.id))
    text = "".join(_finding(finding) for finding in ordered)
    counts = [(severity, sum(one.severity == severity for one in ordered)) for severity in _SEVERITIES]
    told = ", ".join(f"{number} {severity}" for severity, number in counts if number) or "no findings"
    return f"{text}{verification.vm}: {'PASS' if verification.ok else 'FAIL'} ({told})\n"


_GROUPS: Final[Mapping[Layout, str]] = {
    "libvirt": "in libvirt's own cgroups",
    "bare": "in cgroups that quietcore made",
    "none": "no cgroup of it can be written",
}


def describe_text(description: Description) -> str:
    """`describe`: what the VM is, where its vCPUs run, and every thread that it has."""
    entry, census, plan = description.entry, description.census, description.entry.plan
    strategy = plan.strategy if plan else entry.spec.strategy or ""
    facts = [
        ("Name", entry.vm.name),
        ("Namespace", entry.vm.namespace),
        ("Phase", description.phase),
        ("Strategy", strategy),
        ("Mechanism", f"{entry.mechanism}, {_GROUPS[entry.layout]}" if plan else ""),
        ("Limits", "; ".join(entry.limits) if plan else ""),
        ("Domain", entry.domain),
        ("QEMU process", str(census.pid) if census else ""),
        ("Dedicated CPUs", str(plan.dedicated) if plan else ""),
        ("Other threads", str(plan.emulator) if plan else ""),
        ("Memory", memory(plan.memory) if plan else ""),
        *((("Agent", _care(description.care)),) if description.care else ()),
    ]
    text = "".join(f"{label + ':':16}{value or NOTHING}\n" for label, value in facts)
    if plan and plan.vcpus:
        running = {thread.vcpu: thread for thread in census.vcpus} if census else {}
        rows = [
            (str(vcpu.vcpu), _number(vcpu.pcpu), _number(vcpu.node), _number(vcpu.core), *_scheduling(running.get(vcpu.vcpu)))
            for vcpu in plan.vcpus
        ]
        text += "\nvCPUs:\n" + table(("VCPU", "CPU", "NODE", "CORE", "THREAD", "POLICY"), rows, indent="  ")
    if census:
        text += "\nThreads:\n" + threads_table(census.threads, indent="  ")
    return text


def _care(care: Care) -> str:
    """What the agent did: repairs, how quickly, and what it could not put right."""
    if care.last_reaction_s is None or care.max_reaction_s is None:
        speed = ""
    else:
        speed = f", reaction last {care.last_reaction_s * 1000:.1f} ms, longest {care.max_reaction_s * 1000:.1f} ms"
    wrong = "".join(f"; {one.code}: {one.kind} {one.id}: expected {one.expected}, is {one.actual}" for one in care.findings)
    return f"{care.repairs} repair{'' if care.repairs == 1 else 's'}{speed}{wrong}"


def threads_table(threads: Iterable[HostThread], *, indent: str = "") -> str:
    """Every thread with its role and where it may run."""
    rows = [(str(one.tid), one.comm, _role(one), str(one.allowed), _scheduling(one)[1], one.cgroup) for one in threads]
    return table(("THREAD", "COMMAND", "ROLE", "CPUS", "POLICY", "CGROUP"), rows, indent=indent)


def _vm_row(vm: Description, *, wide: bool, all_namespaces: bool) -> tuple[str, ...]:
    entry, plan = vm.entry, vm.entry.plan
    strategy = plan.strategy if plan else entry.spec.strategy or ""
    cells: tuple[str, ...] = (entry.vm.name, vm.phase, strategy, str(entry.spec.cpu.topology.vcpus), str(plan.dedicated) if plan else "")
    if all_namespaces:
        cells = (entry.vm.namespace, *cells)
    if not wide:
        return cells
    nodes = CpuSet.from_iterable(vcpu.node for vcpu in plan.vcpus if vcpu.node is not None) if plan else CpuSet()
    other = str(plan.emulator) if plan else ""
    return (*cells, other, str(nodes), size(entry.spec.memory.guest_bytes), entry.mechanism if plan else "", entry.domain)


def _finding(finding: Finding) -> str:
    lines = [f"{finding.severity:<7} {finding.code}: {finding.kind} {finding.id}".rstrip()]
    lines += [f"        expected {finding.expected}, found {finding.actual}"] if finding.expected or finding.actual else []
    lines += [f"        {line}" for line in textwrap.wrap(finding.hint, _TEXT_WIDTH)]
    return "".join(f"{printable(line)}\n" for line in lines)


def _role(thread: HostThread) -> str:
    number = thread.vcpu if thread.vcpu is not None else thread.iothread
    return thread.role if number is None else f"{thread.role} {number}"


def _scheduling(thread: HostThread | None) -> tuple[str, str]:
    """Thread id and policy ("fifo 1")."""
    if thread is None:
        return "", ""
    return str(thread.tid), f"{thread.policy} {thread.priority}" if thread.priority else thread.policy


def _number(value: int | None) -> str:
    return "shared" if value is None else str(value)
