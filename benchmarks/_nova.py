"""OpenStack Nova 34 as the peer of benchmarks/placement.py: installed into an environment of its own, asked case by case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NOVA = "nova==34.0.0"
TIMEOUT_S = 30
"""After so long a fit counts as one that does not end."""
PEER = Path(__file__).with_name("nova_peer.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Free CPUs of each host cell, the CPUs in each, and the vCPUs of each guest cell."""

    name: str
    free: tuple[int, ...]
    per_cell: int
    guest: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Nova's times in milliseconds (none where it did not end), its answer and whether that is right."""

    times_ms: tuple[float, ...]
    answer: str
    verdict: str


def shapes() -> Iterator[Shape]:
    """Requests that fit, requests that do not, and guests of unequal cells."""
    for cells, per_cell in ((2, 32), (8, 32), (8, 64), (16, 32)):
        half = per_cell // 2
        yield Shape(name="small VM", free=(half,) * cells, per_cell=per_cell, guest=(2,))
        yield Shape(name="one cell", free=(half,) * cells, per_cell=per_cell, guest=(8,))
        yield Shape(name="two cells, half of the host free", free=(half,) * cells, per_cell=per_cell, guest=(half, half))
    for cells in (8, 16):
        yield Shape(name="four cells, half of the host free", free=(16,) * cells, per_cell=32, guest=(16,) * 4)
        yield Shape(name="no: every cell too small", free=(6,) * cells, per_cell=32, guest=(16,) * (cells // 2))
        short = (16,) * (cells // 2 - 1) + (1,) * (cells // 2 + 1)
        yield Shape(name="no: one cell too few", free=short, per_cell=32, guest=(16,) * (cells // 2))
    yield Shape(name="unequal guest cells that fit", free=(2, 4, 2), per_cell=8, guest=(1, 3))
    yield Shape(name="unequal guest cells that do not fit", free=(4, 4, 1), per_cell=8, guest=(1, 1, 8))
    yield Shape(name="unequal guest cells, the big one last", free=(4,) * 7 + (16,), per_cell=16, guest=(2, 2, 2, 12))


def environment() -> Path:
    """The Python that has Nova; installs it the first time. Raises CalledProcessError where that fails."""
    cache = Path(os.environ.get("QUIETCORE_CACHE", "/var/cache/quietcore"))
    python = cache / "bench" / "nova" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    if subprocess.run([str(python), "-c", "import nova"], check=False, capture_output=True).returncode:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", NOVA], check=True)
    return python


def ask(python: Path, shape: Shape, runs: int) -> Answer:
    """Let Nova fit one shape. One that does not end in time is stopped."""
    case = {"free": shape.free, "per_cell": shape.per_cell, "guest": shape.guest, "runs": runs}
    try:
        done = subprocess.run(
            [str(python), str(PEER)],
            input=json.dumps(case),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return Answer(times_ms=(), answer="none", verdict=f"did not end in {TIMEOUT_S} s")
    told = json.loads(done.stdout)
    return Answer(times_ms=tuple(told["times_ms"]), answer=told["answer"], verdict=told["verdict"])
