"""What `quietcore run` makes of every manifest of tests/data/manifests: one table for the tests that do it and for the page that tells it.

What the reader refuses is told by the reader itself; every manifest that it takes has a line here, which a test carries out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from quietcore import manifest
from quietcore.model import VmSpec

FOLDER: Final = Path(__file__).parent / "data" / "manifests"
Place = Literal["plain host", "lab"]
PLAIN_HOST, LAB = "plain host", "lab"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What becomes of one manifest that the reader takes: where it is tried, the exit code of `run`, a part of its answer.

    `why` says what is not obvious. `machine` is the lab machine, `pages` are pages of 2 MiB that its node 0 gets first; `changes`
    are what is replaced in the text before it is run: afterwards, for one that is taken as it stands.
    """

    place: Place
    result: Literal["runs", "kept, not started", "does not fit"] = "runs"
    code: int = 0
    answer: str = ""
    why: str = ""
    pages: int = 0
    machine: str = "2s4n16c"
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def tried_in(self) -> str:
        """The place in words."""
        return "a private libvirt" if self.place == PLAIN_HOST else f"lab machine {self.machine}"


OUTCOMES: Final = {
    "kubevirt-e2e-realtime-mask": Outcome(
        place=LAB,
        machine="1s1n4c",
        pages=256,
        why="vCPU 0 is SCHED_FIFO, vCPU 1 is not; needs 256 pages of 2Mi and 451 MiB beside them on one node",
    ),
    "kubevirt-example-vm-cirros": Outcome(
        place=PLAIN_HOST,
        result="kept, not started",
        answer="vm/vm-cirros stored\n",
        why="`runStrategy: Halted` says so; with `Always` it runs",
        changes=(("runStrategy: Halted", "runStrategy: Always"),),
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
        why="there is no page of 1Gi; a machine that has them takes it",
    ),
}
_CLAIM: Final = "persistentVolumeClaim:\n      claimName: {}"
_EMPTY: Final = "emptyDisk:\n      capacity: 1Gi"


def _named(name: str, kind: str = "VirtualMachineInstance") -> tuple[str, str]:
    return f"kind: {kind}\n", f"kind: {kind}\nmetadata:\n  name: {name}\n"


def _whole(name: str, *, volumes: str = "") -> tuple[str, str]:
    head = f"apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata:\n  name: {name}\nspec:{volumes}\n"
    return "spec:\n", head


_DEVICES: Final = ("    cpu:\n", "    devices: {}\n    cpu:\n")
_ONE_DISK: Final = "\n  volumes: [{name: mydisk, emptyDisk: {capacity: 1Gi}}]"
COMPLETED: Final = {
    "kubevirt-ug-blockmultiqueue-1666": Outcome(
        place=PLAIN_HOST,
        why="kind, name, memory and volume added",
        changes=(_whole("multiqueue", volumes=_ONE_DISK), ("    devices:\n", "    memory: {guest: 64Mi}\n    devices:\n")),
    ),
    "kubevirt-ug-cpu-hotplug-73": Outcome(
        place=PLAIN_HOST,
        why="name, run strategy, memory and devices added; 1 of at most 8 sockets",
        changes=(
            _named("hotplug", "VirtualMachine"),
            ("spec:\n  template:", "spec:\n  runStrategy: Always\n  template:"),
            ("        cpu:\n", "        memory: {guest: 64Mi}\n        devices: {}\n        cpu:\n"),
        ),
    ),
    "kubevirt-ug-dedicated-1.fragment": Outcome(place=LAB, why="name and devices added", changes=(_named("first"), _DEVICES)),
    "kubevirt-ug-dedicated-2.fragment": Outcome(
        place=LAB, why="name and devices added; two vCPUs follow from limits.cpu", changes=(_named("second"), _DEVICES)
    ),
    "kubevirt-ug-dedicated-3.fragment": Outcome(
        place=LAB, why="name and devices added; a third CPU is for QEMU's other threads", changes=(_named("third"), _DEVICES)
    ),
    "kubevirt-ug-iothreads-auto": Outcome(
        place=PLAIN_HOST,
        why="an emptyDisk stands for the claim",
        changes=((_CLAIM.format("mypvc"), _EMPTY), ("vmi-shared\nspec", "auto\nspec")),
    ),
    "kubevirt-ug-iothreads-shared": Outcome(
        place=PLAIN_HOST,
        why="an emptyDisk stands for the claim, and disk names have dashes",
        changes=((_CLAIM.format("vmi-shared_pvc"), _EMPTY), ("vmi-shared_disk", "vmi-shared-disk")),
    ),
    "kubevirt-ug-iothreads-supplemental.fragment": Outcome(
        place=PLAIN_HOST,
        why="kind, name, memory, disk and volume added",
        changes=(
            _whole("pool", volumes=_ONE_DISK),
            ("  domain:\n", "  domain:\n    memory: {guest: 64Mi}\n    devices: {disks: [{name: mydisk}]}\n"),
        ),
    ),
}
"""Manifests that the reader refuses for what their source leaves out, or for a disk of the cluster: run with that filled in."""

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


def tried(place: Place, table: dict[str, Outcome]) -> dict[str, Outcome]:
    """The manifests of a table that are run in one place."""
    return {name: outcome for name, outcome in table.items() if outcome.place == place}


def changed(name: str, outcome: Outcome) -> str:
    """A manifest with its changes."""
    written = (FOLDER / f"{name}.yaml").read_text()
    for before, after in outcome.changes:
        assert before in written, f"{name} does not hold {before!r}"
        written = written.replace(before, after)
    return written


def spec_of(text: str) -> VmSpec:
    """The one VM of a text."""
    (document,) = manifest.load([manifest.SourceText(file="vm.yaml", text=text)]).documents
    return document.spec


def as_it_stands(name: str) -> VmSpec:
    """The one VM of a manifest."""
    return spec_of((FOLDER / f"{name}.yaml").read_text())
