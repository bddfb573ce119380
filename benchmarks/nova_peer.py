"""One fit by OpenStack Nova, for benchmarks/placement.py; runs in the environment that has Nova, never in ours.

Reads a case as JSON on standard input: `free` CPUs of each host cell, `per_cell` CPUs in each, the vCPUs of each `guest` cell. Writes the
times of some runs and what Nova answered. How the host is built follows Nova's objects; the judgement of the answer is ours.
"""

import contextlib
import io
import json
import sys
import time
import warnings
from typing import Any

MEMORY_MB = 1 << 20

with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from nova.objects import instance_numa, numa
    from nova.virt import hardware


def host_of(case: dict[str, Any]) -> object:
    """Cells whose first CPUs are in use; threads of a core are neighbours here."""
    cells, first = [], 0
    for number, free in enumerate(case["free"]):
        cpus = set(range(first, first + case["per_cell"]))
        first += case["per_cell"]
        cells.append(
            numa.NUMACell(
                id=number,
                cpuset=set(),
                pcpuset=cpus,
                memory=MEMORY_MB,
                cpu_usage=0,
                memory_usage=0,
                pinned_cpus=set(sorted(cpus)[: len(cpus) - free]),
                siblings=[{cpu, cpu + 1} for cpu in sorted(cpus)[::2]],
                mempages=[numa.NUMAPagesTopology(size_kb=4, total=MEMORY_MB * 256, used=0)],
                socket=0,
            )
        )
    return numa.NUMATopology(cells=cells)


def guest_of(case: dict[str, Any]) -> object:
    """Dedicated vCPUs, numbered through."""
    cells, first = [], 0
    for number, vcpus in enumerate(case["guest"]):
        cells.append(
            instance_numa.InstanceNUMACell(
                id=number,
                cpuset=set(),
                pcpuset=set(range(first, first + vcpus)),
                memory=256,
                pagesize=None,
                cpu_policy="dedicated",
                cpu_thread_policy=None,
            )
        )
        first += vcpus
    return instance_numa.InstanceNUMATopology(cells=cells)


def judge(case: dict[str, Any], answer: Any) -> str:  # noqa: ANN401 - an object of Nova, which has no types
    """Nova's answer against the truth: with sizes alone, sorting both sides decides whether a one-to-one fit exists."""
    room = sorted(case["free"], reverse=True)
    fits = all(want <= have for want, have in zip(sorted(case["guest"], reverse=True), room, strict=False)) and len(case["guest"]) <= len(
        room
    )
    if answer is None:
        return "right" if not fits else "false no"
    pins = [cell.cpu_pinning or {} for cell in answer.cells]
    sound = all(len(pin) == want for pin, want in zip(pins, case["guest"], strict=True))
    per_cell = case["per_cell"]
    homes = [{cpu // per_cell for cpu in pin.values()} for pin in pins]
    sound = sound and all(len(home) == 1 for home in homes) and len(set().union(*homes)) == len(homes)
    if not fits:
        return "false yes"
    return "right" if sound else "broken pins"


def main() -> None:
    """Time the fit; each run gets fresh objects, because the fit changes its arguments."""
    case = json.load(sys.stdin)
    times, answer = [], None
    for _ in range(case["runs"]):
        host, guest = host_of(case), guest_of(case)
        start = time.perf_counter()
        answer = hardware.numa_fit_instance_to_host(host, guest, None)
        times.append((time.perf_counter() - start) * 1000)
    json.dump({"times_ms": times, "answer": "no" if answer is None else "yes", "verdict": judge(case, answer)}, sys.stdout)


if __name__ == "__main__":
    main()
