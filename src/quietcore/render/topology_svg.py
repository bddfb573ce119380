"""The same picture as `topology_text` as an SVG, in whole pixels and without fonts of its own: same machine, same bytes.

What a colour says is also said by a letter, and what a pattern says by a sign; every CPU has its story as a tooltip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Final, TypeAlias

from lxml import etree

from quietcore.model import LogicalCpu, Machine
from quietcore.render.palette import owner_fill, text_on
from quietcore.render.topology_text import NO_CPUS, fold, heading, l3_groups, legend, mark_of, node_title
from quietcore.render.values import CpuState, CpuUse, HostMap

_SVG: Final = "http://www.w3.org/2000/svg"
_COLUMN: Final = 580
"""The room for one NUMA node; two stand side by side, on machines of more than 256 CPUs four."""
_PAD, _GAP, _TITLE = 8, 8, 22
_CELL_HEIGHT: Final = 34
_CORE_PAD: Final = 3
_LINE: Final = 18
_CHARACTER: Final = 7
"""Pixels that a character takes at most on average at 12 pixels, by which titles are measured."""
_FILLS: Final[Mapping[CpuState, str]] = {
    "reserved": "#bdbdbd",
    "isolated": "#ffffff",
    "unavailable": "#e0e0e0",
    "shared": "#ffffff",
    "offline": "#ffffff",
}
_LETTERS: Final[Mapping[str, str | int]] = {"font_size": 12, "text_anchor": "middle"}
_BOXES: Final = {"package": "#eceff1", "node": "#f7f9fa", "l3": "#ffffff"}

Element: TypeAlias = etree._Element  # noqa: SLF001  # lxml has no public name for the type of its elements
Paint: TypeAlias = Callable[[Element, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Something of a known size that can be painted anywhere."""

    width: int
    height: int
    paint: Paint


def topology_svg(host: HostMap) -> str:
    """The picture as SVG text, with title, description and legend."""
    machine, uses = host.machine, host.uses()
    digits, columns = len(str(max(uses))), 2 if len(machine.cpus) <= 256 else 4
    room = columns * _COLUMN
    packages = [_package(machine, socket, uses, digits, columns) for socket in sorted({cpu.socket for cpu in machine.cpus})]
    far = [node for node in machine.nodes if not machine.cpus_of_node(node.node)]
    memory = [_box("node", f"{node_title(node)}, {NO_CPUS}", _flow([], room)) for node in far]
    body = _flow([*packages, *memory], room)
    notes = _legend(host, max(body.width, 480))
    width, top = max(body.width, notes.width, len(heading(machine)) * 11) + 2 * _PAD, 36
    height = top + body.height + _GAP + notes.height + _PAD
    root = etree.Element(f"{{{_SVG}}}svg", nsmap={None: _SVG})
    for name, value in (("width", width), ("height", height), ("viewBox", f"0 0 {width} {height}"), ("role", "img")):
        root.set(name, str(value))
    root.set("font-family", "DejaVu Sans, Verdana, Arial, sans-serif")
    _add(root, "title", heading(machine))
    _add(root, "desc", "Packages, NUMA nodes, L3 groups, cores and CPUs; each CPU is marked with who has it.")
    _patterns(root)
    _add(root, "rect", width=width, height=height, fill="#ffffff")
    _add(root, "text", heading(machine), x=_PAD, y=24, font_size=16, font_weight="bold")
    body.paint(root, _PAD, top)
    notes.paint(root, _PAD, top + body.height + _GAP)
    return etree.tostring(root, encoding="unicode", pretty_print=True)


def _add(parent: Element, tag: str, text: str | None = None, /, **attributes: str | int) -> Element:
    """Append an element; "_" in the name of an attribute stands for "-"."""
    element = etree.SubElement(parent, f"{{{_SVG}}}{tag}")
    for name, value in attributes.items():
        element.set(name.replace("_", "-"), str(value))
    element.text = text
    return element


def _patterns(root: Element) -> None:
    """Stripes over a VM's colour: its other threads. A grid over grey: not ours to use."""
    definitions = _add(root, "defs")
    for name, path in (("stripes", "M-2,2 L2,-2 M0,8 L8,0 M6,10 L10,6"), ("grid", "M0,0 L8,8 M8,0 L0,8")):
        pattern = _add(definitions, "pattern", id=name, width=8, height=8, patternUnits="userSpaceOnUse")
        _add(pattern, "path", d=path, stroke="#ffffff", stroke_width=2, stroke_opacity="0.75")


def _flow(blocks: Sequence[Block], width: int, gap: int = _GAP) -> Block:
    """Blocks from left to right in rows."""
    places: list[tuple[int, int, Block]] = []
    x = y = row = widest = 0
    for block in blocks:
        if x and x + block.width > width:
            x, y, row = 0, y + row + gap, 0
        places.append((x, y, block))
        widest, row = max(widest, x + block.width), max(row, block.height)
        x += block.width + gap

    def paint(parent: Element, left: int, top: int) -> None:
        for across, down, block in places:
            block.paint(parent, left + across, top + down)

    return Block(width=widest, height=y + row, paint=paint)


def _box(kind: str, title: str, inside: Block) -> Block:
    """A frame with a title around something."""
    width = max(inside.width, len(title) * _CHARACTER) + 2 * _PAD
    height = _TITLE + inside.height + (_PAD if inside.height else 0)

    def paint(parent: Element, left: int, top: int) -> None:
        group = _add(parent, "g")
        _add(group, "rect", x=left, y=top, width=width, height=height, rx=4, fill=_BOXES[kind], stroke="#78909c")
        _add(group, "text", title, x=left + _PAD, y=top + 15, font_size=12)
        inside.paint(group, left + _PAD, top + _TITLE)

    return Block(width=width, height=height, paint=paint)


def _package(machine: Machine, socket: int, uses: Mapping[int, CpuUse], digits: int, columns: int) -> Block:
    members = [cpu for cpu in machine.cpus if cpu.socket == socket]
    numbers = sorted({cpu.node for cpu in members})
    room = columns * _COLUMN - 2 * _PAD
    share = room if len(numbers) == 1 else (room - (columns - 1) * _GAP) // columns
    nodes = [
        _box("node", node_title(machine.node(number)), _flow(list(_l3s(members, number, uses, digits, share - 2 * _PAD)), share - 2 * _PAD))
        for number in numbers
    ]
    return _box("package", f"package {socket}", _flow(nodes, room))


def _l3s(members: Sequence[LogicalCpu], node: int, uses: Mapping[int, CpuUse], digits: int, room: int) -> Iterator[Block]:
    for (_, _, label), cores in l3_groups([cpu for cpu in members if cpu.node == node]).items():
        blocks = [_core([uses[cpu] for cpu in threads], digits) for threads in cores]
        columns = min(len(blocks), max(4, isqrt(2 * len(blocks))))
        wanted = columns * (blocks[0].width + 4)
        yield _box("l3", label, _flow(blocks, min(wanted, room - 2 * _PAD), gap=4))


def _core(threads: Sequence[CpuUse], digits: int) -> Block:
    width = 14 + 8 * max(digits, 2)
    cells = _flow([_cell(use, width) for use in threads], _COLUMN, gap=2)
    whole = Block(width=cells.width + 2 * _CORE_PAD, height=cells.height + 2 * _CORE_PAD, paint=cells.paint)

    def paint(parent: Element, left: int, top: int) -> None:
        _add(parent, "rect", x=left, y=top, width=whole.width, height=whole.height, rx=3, fill="none", stroke="#546e7a")
        cells.paint(parent, left + _CORE_PAD, top + _CORE_PAD)

    return Block(width=whole.width, height=whole.height, paint=paint)


def _cell(use: CpuUse, width: int) -> Block:
    """One CPU: its number above, its mark below."""

    def paint(parent: Element, left: int, top: int) -> None:
        group = _add(parent, "g")
        _add(group, "title", f"CPU {use.cpu}: {use.sentence}")
        ink = _swatch(group, use, x=left, y=top, width=width, height=_CELL_HEIGHT)
        for text, down, weight in ((str(use.cpu), 14, "normal"), (mark_of(use), 28, "bold")):
            _add(group, "text", text, x=left + width // 2, y=top + down, font_weight=weight, **_LETTERS, **ink)

    return Block(width=width, height=_CELL_HEIGHT, paint=paint)


def _swatch(parent: Element, use: CpuUse, **frame: int) -> Mapping[str, str | int]:
    """Paint the background of a CPU and answer with how letters can be read on it: with a halo over patterns."""
    fill = _FILLS.get(use.state) or owner_fill(use.owner or 0)
    rect = _add(parent, "rect", **frame, fill=fill, stroke="#37474f")
    if use.state in {"isolated", "offline"}:
        rect.set("stroke-dasharray", "4 2")
    over = {"other": "stripes", "unavailable": "grid"}.get(use.state)
    if over:
        _add(parent, "rect", **frame, fill=f"url(#{over})")
        return {"fill": "#000000", "stroke": "#ffffff", "stroke_width": 3, "paint_order": "stroke"}
    return {"fill": text_on(fill)}


def _legend(host: HostMap, width: int) -> Block:
    rows = [(mark, use, fold(text, (width - 40) // _CHARACTER)) for mark, use, text in legend(host)]
    heights = [max(_LINE + 4, len(lines) * _LINE) for _, _, lines in rows]

    def paint(parent: Element, left: int, top: int) -> None:
        group = _add(parent, "g")
        for (mark, use, lines), height in zip(rows, heights, strict=True):
            if use is not None:
                ink = _swatch(group, use, x=left, y=top, width=24, height=_LINE)
                _add(group, "text", mark, x=left + 12, y=top + 13, font_weight="bold", **_LETTERS, **ink)
            for index, line in enumerate(lines):
                _add(group, "text", line, x=left + 32, y=top + 13 + index * _LINE, font_size=12)
            top += height

    longest = max((len(line) for _, _, lines in rows for line in lines), default=0)
    return Block(width=32 + longest * _CHARACTER, height=sum(heights), paint=paint)
