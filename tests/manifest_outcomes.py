"""What `quietcore run` makes of every manifest of tests/data/manifests: one table for the tests that do it and for the page that tells it.

What the reader refuses is told by the reader itself; every manifest that it takes has a line here, which a test carries out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from quietcore import manifest

FOLDER: Final = Path(__file__).parent / "data" / "manifests"
Place = Literal["plain host", "lab"]
PLAIN_HOST, LAB = "plain host", "lab"
IN_WORDS: Final = {PLAIN_HOST: "this host's libvirt", LAB: "lab machine 2s4n16c"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of one manifest that the reader takes: where it is tried, the exit code of `run`, a part of its answer.

    `why` says what is not obvious. `pages` are pages of 2 MiB that one node of the lab machine gets first; `instead` is a
    change of the text with which it is run as well.
    """

    place: Place
    result: Literal["runs", "kept, not started", "does not fit"] = "runs"
    code: int = 0
    answer: str = ""
    why: str = ""
    pages: int = 0
    instead: tuple[str, str] | None = None


OUTCOMES: Final = {
    "kubevirt-e2e-realtime-mask": Outcome(
        place=LAB, pages=288, why="vCPU 0 is SCHED_FIFO, vCPU 1 is not; needs 256 pages of 2Mi on the node of its CPUs"
    ),
    "kubevirt-example-vm-cirros": Outcome(
        place=PLAIN_HOST,
        result="kept, not started",
        answer="vm/vm-cirros stored\n",
        why="`runStrategy: Halted` says so; with `Always` it runs",
        instead=("runStrategy: Halted", "runStrategy: Always"),
    ),
    "kubevirt-example-vmi-alpine-efi": Outcome(place=PLAIN_HOST, why="by the firmware of the package ovmf"),
    "kubevirt-example-vmi-arm": Outcome(place=PLAIN_HOST, why="it names no architecture, so it is a guest for amd64 here"),
    "kubevirt-example-vmi-fedora": Outcome(place=PLAIN_HOST),
    "kubevirt-example-vmi-fedora-isolated": Outcome(place=LAB, why="two CPUs: one for the vCPU, one for QEMU's other threads"),
    "kubevirt-example-vmi-host-disk": Outcome(place=LAB, why="its file and the folder of it are made"),
    "kubevirt-example-vmi-migratable": Outcome(place=PLAIN_HOST),
    "kubevirt-ug-numa": Outcome(place=LAB, why="pages of 2Mi on the node of its CPUs"),
    "kubevirt-ug-realtime-corrected": Outcome(
        place=LAB,
        result="does not fit",
        code=3,
        answer="hugepages-1Gi are wanted and 0 are free",
        why="no page of 1Gi there; on a machine that has them it is placed (tests/golden/manifest)",
    ),
}
TOGETHER: Final = {
    "instancetype-that-conflicts": ("kubevirt-example-vm-cirros-clarge", "kubevirt-example-clarge"),
    "cluster-instancetype-that-conflicts": ("kubevirt-example-vm-cirros-cluster-csmall", "kubevirt-example-cluster-csmall"),
    "instancetype-and-preference": ("kubevirt-example-vm-windows-clarge-windows", "kubevirt-example-clarge", "kubevirt-example-windows"),
    "two-preferences-of-one-name": ("kubevirt-ug-instancetypes-152", "kubevirt-ug-instancetypes-176"),
}
INPUTS: Final = {file.stem: (file.stem,) for file in sorted(FOLDER.glob("*.yaml"))} | TOGETHER
"""Every manifest by itself, and those that belong together."""


def sources(names: tuple[str, ...]) -> list[manifest.SourceText]:
    """The texts of some manifests, under names that are the same everywhere."""
    return [manifest.SourceText(file=f"{name}.yaml", text=(FOLDER / f"{name}.yaml").read_text()) for name in names]


def examined(name: str) -> manifest.Examined:
    """What the reader says to one input."""
    return manifest.examine(sources(INPUTS[name]))


def refused() -> dict[str, manifest.Examined]:
    """The inputs that the reader refuses."""
    return {name: found for name in INPUTS if (found := examined(name)).problems}


def tried(place: Place) -> dict[str, Outcome]:
    """The manifests that are run in one place."""
    return {name: outcome for name, outcome in OUTCOMES.items() if outcome.place == place}


def text(name: str, *, instead: bool = False) -> str:
    """A manifest as it stands, or with its change."""
    written = (FOLDER / f"{name}.yaml").read_text()
    change = OUTCOMES[name].instead
    return written.replace(*change) if instead and change else written
