"""A machine as text, in the manner of lstopo: package > NUMA node > L3 > core > threads, each thread with its owner's mark.

Nothing is left out or summed up: a picture of 1,024 CPUs is long rather than vague. Colour only repeats what the marks say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quietcore.model import CpuSet, LogicalCpu, Machine, NumaNode
from quietcore.render.palette import RESET, ansi_fill
from quietcore.render.tables import printable, size
from quietcore.render.values import CpuState, CpuUse, HostMap

MARKS: Final[Mapping[CpuState, str]] = {"reserved": "#", "isolated": "~", "unavailable": "x", "shared": "·", "offline": "-"}
"""The marks of CPUs that no VM owns; owners have letters."""
NO_CPUS: Final = "memory only, no CPUs"
_NARROWEST: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line inside a box: `text` has no colour and gives the width, `shown` is what is printed."""

    text: str
    shown: str

    @classmethod
    def plain(cls, text: str) -> Line:
        """A line without colour."""
        return cls(text=text, shown=text)


def topology_text(host: HostMap, *, width: int = 80, colour: bool = False) -> str:
    """The picture, at most `width` columns wide (at least 40), followed by its legend.

    A thread is written as its number and a mark: a VM's letter (upper case for a vCPU, lower case for its other threads),
    or the sign of who else has it.
    """
    machine, uses = host.machine, host.uses()
    inner = max(width, _NARROWEST)
    margin = max(len(l3_label(cpu)) for cpu in machine.cpus) + 1
    cells = _Cells(uses=uses, digits=len(str(max(uses))), mark=max(map(len, host.marks.values()), default=1), margin=margin, colour=colour)
    lines = [heading(machine)]
    for socket in sorted({cpu.socket for cpu in machine.cpus}):
        lines += [line.shown for line in _box(f"package {socket}", list(_package(machine, socket, cells, inner - 4)), inner)]
    for node in machine.nodes:
        if not machine.cpus_of_node(node.node):
            lines += [line.shown for line in _box(node_title(node), [Line.plain(NO_CPUS)], inner)]
    for mark, use, text in legend(host):
        first, *rest = fold(text, inner - 2 - cells.mark)
        lines.append(f"{_painted(mark, use, on=colour)}{' ' * (cells.mark - len(mark))}  {first}")
        lines += [f"{' ' * cells.mark}  {part}" for part in rest]
    return "\n".join(lines) + "\n"


def heading(machine: Machine) -> str:
    """One line on the machine."""
    threads, cores = len(machine.cpus), len(machine.cores())
    counts = [(threads, "CPU"), (cores, "core"), (len({cpu.socket for cpu in machine.cpus}), "package"), (len(machine.nodes), "NUMA node")]
    told = ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts)
    return printable(f"{machine.name}: {told}{f' ({machine.cpu_model})' if machine.cpu_model else ''}")


def node_title(node: NumaNode) -> str:
    """The node's number, memory and hugepages."""
    parts = [size(node.memory_bytes)]
    for page, pages in sorted(node.hugepages.items()):
        free = "" if node.free_hugepages is None else f" ({node.free_hugepages.get(page, 0)} free)"
        parts += [f"{pages} x {size(page)} pages{free}"] if pages else []
    return f"node {node.node}: {', '.join(parts)}"


def legend(host: HostMap) -> Iterator[tuple[str, CpuUse | None, str]]:
    """Every mark that occurs with a sample (for its colour) and its meaning; the last line may be about no mark at all."""
    uses = host.uses().values()
    for owner, plan in enumerate(plan for plan in host.plans if plan.exclusive):
        mark = host.marks[plan.vm]
        sample = CpuUse(cpu=plan.exclusive.lowest, state="vcpu", vm=plan.vm, owner=owner, mark=mark)
        told = [f"vCPUs on {plan.dedicated}"] if plan.dedicated else []
        others = plan.exclusive - plan.dedicated
        told += [f"{mark.lower()}: its other threads on {others}"] if others else []
        yield mark, sample, f"{plan.vm}, {'; '.join(told)}"
    for state, mark in MARKS.items():
        same = [use for use in uses if use.state == state]
        if same:
            yield mark, same[0], f"{same[0].sentence}: {CpuSet.from_iterable(use.cpu for use in same)}"
    owned = CpuSet.from_iterable(use.cpu for use in uses if use.vm is not None) & host.machine.isolated
    if owned:
        yield " ", None, f"isolated by the kernel and owned: {owned}"


def fold(text: str, width: int) -> list[str]:
    """Break a line after blanks and commas, because CPU lists have no blanks."""
    lines = [""]
    for word in re.findall(r"[^ ,]*[ ,]*", text):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def mark_of(use: CpuUse) -> str:
    """The mark of one CPU."""
    return MARKS.get(use.state, use.mark if use.state == "vcpu" else use.mark.lower())


def _painted(text: str, use: CpuUse | None, *, on: bool) -> str:
    return text if use is None or use.owner is None or not on else f"{ansi_fill(use.owner)}{text}{RESET}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cells:
    """How one core is written: "[ 1A  5A]"."""

    uses: Mapping[int, CpuUse]
    digits: int
    mark: int
    margin: int
    colour: bool

    def core(self, threads: CpuSet) -> Line:
        parts = [self._thread(self.uses[cpu]) for cpu in threads]
        return Line(text="[" + " ".join(part.text for part in parts) + "]", shown="[" + " ".join(part.shown for part in parts) + "]")

    def _thread(self, use: CpuUse) -> Line:
        text = f"{use.cpu:>{self.digits}}{mark_of(use):<{self.mark}}"
        return Line(text=text, shown=_painted(text, use, on=self.colour))


def _package(machine: Machine, socket: int, cells: _Cells, width: int) -> Iterator[Line]:
    members = [cpu for cpu in machine.cpus if cpu.socket == socket]
    for node in sorted({cpu.node for cpu in members}):
        inside = [cpu for cpu in members if cpu.node == node]
        yield from _box(node_title(machine.node(node)), list(_groups(inside, cells, width - 4)), width)


def _groups(members: Sequence[LogicalCpu], cells: _Cells, width: int) -> Iterator[Line]:
    """Rows of cores, one paragraph for each L3 and kind of core."""
    for (_, _, label), cores in l3_groups(members).items():
        shown = label
        for row in _wrapped([cells.core(threads) for threads in cores], width - cells.margin):
            yield Line(text=f"{shown:{cells.margin}}{row.text}", shown=f"{shown:{cells.margin}}{row.shown}")
            shown = ""


def l3_label(cpu: LogicalCpu) -> str:
    """The L3 group and, on hybrid machines, the kind of core."""
    return f"L3 {cpu.l3}{f' {cpu.kind}' if cpu.kind else ''}"


def l3_groups(members: Sequence[LogicalCpu]) -> Mapping[tuple[int, bool, str], tuple[CpuSet, ...]]:
    """(L3, whether efficiency cores, label) -> the threads of each core, in order."""
    groups: dict[tuple[int, bool, str], dict[int, CpuSet]] = {}
    for cpu in members:
        cores = groups.setdefault((cpu.l3, cpu.kind == "efficiency", l3_label(cpu)), {})
        cores[cpu.core] = cores.get(cpu.core, CpuSet()) | CpuSet.of(cpu.cpu)
    return {key: tuple(threads for _, threads in sorted(cores.items())) for key, cores in sorted(groups.items())}


def _wrapped(cells: Sequence[Line], width: int) -> Iterator[Line]:
    row: list[Line] = []
    for cell in cells:
        if row and sum(len(one.text) + 1 for one in row) + len(cell.text) > width:
            yield _joined(row)
            row = []
        row.append(cell)
    if row:
        yield _joined(row)


def _joined(row: Sequence[Line]) -> Line:
    return Line(text=" ".join(one.text for one in row), shown=" ".join(one.shown for one in row))


def _box(title: str, lines: Sequence[Line], width: int) -> Iterator[Line]:
    title = title if len(title) <= width - 6 else title[: width - 7] + "…"
    yield Line.plain(f"┌─ {title} {'─' * (width - len(title) - 5)}┐")
    for line in lines:
        pad = " " * (width - 4 - len(line.text))
        yield Line(text=f"│ {line.text}{pad} │", shown=f"│ {line.shown}{pad} │")
    yield Line.plain(f"└{'─' * (width - 2)}┘")
