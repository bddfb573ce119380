"""What every benchmark shares: medians of paired runs, the table, and the file build/bench/<name>.json."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RUNS = 5
"""The least number of runs behind a median."""
OUTPUT = Path(__file__).parents[1] / "build" / "bench"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table; `ratio` is ours over the peer's, `spread` the difference between our slowest and fastest run."""

    case: str
    metric: str
    unit: str
    ours: float
    spread: float
    peer: float | None = None
    peer_name: str | None = None
    bound: float | None = None
    remark: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's; None without a peer."""
        return None if not self.peer else self.ours / self.peer


def run_times_ms(work: Callable[[], object], runs: int = RUNS) -> list[float]:
    """Wall times of some runs in milliseconds, after one that warms up."""
    work()
    times = []
    for _ in range(max(runs, RUNS)):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1000)
    return times


def timed(case: str, work: Callable[[], object], *, runs: int = RUNS, bound: float | None = None, remark: str = "") -> Case:
    """A case measured by itself: the median."""
    times = run_times_ms(work, runs)
    spread = max(times) - min(times)
    return Case(case=case, metric="median", unit="ms", ours=statistics.median(times), spread=spread, bound=bound, remark=remark)


def report(name: str, cases: Iterable[Case]) -> None:
    """Print the table and write build/bench/<name>.json. A bound that was missed is marked, not hidden."""
    listed = tuple(cases)
    store(name, listed)
    print(f"{name} on {host()}\n")
    print_table([("case", "metric", "ours", "spread", "bound", "peer", "ratio", "remark"), *map(_row, listed)])


def store(name: str, cases: Iterable[Case], folder: Path = OUTPUT) -> None:
    """Write build/bench/<name>.json."""
    document = {"name": name, "host": host(), "cases": [asdict(case) | {"ratio": case.ratio} for case in cases]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def host() -> str:
    """The machine and the Python that measured."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return f"{names[0] if names else model}, {len(names) or '?'} CPUs, {system}"


def _row(case: Case) -> tuple[str, ...]:
    missed = case.bound is not None and case.ours > case.bound
    return (
        case.case,
        case.metric,
        f"{case.ours:.3f} {case.unit}",
        f"{case.spread:.3f}",
        "" if case.bound is None else f"{case.bound:g}{' MISSED' if missed else ''}",
        "" if case.peer is None else f"{case.peer_name} {case.peer:.3f}",
        "" if case.ratio is None else f"{case.ratio:.3f}",
        case.remark,
    )


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of equal length in columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
