"""Manifests -> VM specifications: the one door of this package."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Literal

from quietcore.errors import InputError, Problem
from quietcore.manifest.causes import Cause
from quietcore.manifest.cluster_config import cluster_config
from quietcore.manifest.instancetypes import instancetype_faults
from quietcore.manifest.objects import Object, split
from quietcore.manifest.preferences import preference_faults
from quietcore.manifest.reader import Reading
from quietcore.manifest.tree import Tree
from quietcore.manifest.vm import Vm
from quietcore.model.cluster import KUBEVIRT_DEFAULTS, ClusterConfig
from quietcore.model.spec import VmName, VmSpec

_VMS: Final = ("VirtualMachine", "VirtualMachineInstance")
_CATALOG: Final = (
    "VirtualMachineInstancetype",
    "VirtualMachineClusterInstancetype",
    "VirtualMachinePreference",
    "VirtualMachineClusterPreference",
)
_MOST_PROBLEMS: Final = 200
_MOST_VCPUS: Final = 1 << 17
_LONGEST_MESSAGE: Final = 2000
_PARTIAL: Final = frozenset({"unknown-field", "unsupported", "required"})
"""Faults that leave enough of a document to examine the rest of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceText:
    """One text and the name under which problems refer to it."""

    file: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One VM of the input: its specification, its own text, and where that begins."""

    spec: VmSpec
    text: str
    file: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The VMs of the input in their order, and what deserves attention but refuses nothing.

    `cluster` is the configuration that was in force: that of a KubeVirt object in the input, else the one that was handed in.
    """

    documents: tuple[Document, ...]
    warnings: tuple[Problem, ...]
    cluster: ClusterConfig = KUBEVIRT_DEFAULTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """The VMs of the input that have no fault, and everything that `load` would refuse the whole input for."""

    loaded: Loaded
    problems: tuple[Problem, ...]


def examine(sources: Sequence[SourceText], cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Examined:
    """Read the input and tell faults and warnings side by side. Raises nothing."""
    loading = _Loading(sources, cluster)
    loaded = Loaded(documents=tuple(loading.documents), warnings=tuple(loading.warnings), cluster=loading.cluster)
    return Examined(loaded=loaded, problems=_capped(loading.problems))


def load(sources: Sequence[SourceText], cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Loaded:
    """Read every VM of the input, with KubeVirt's defaults and rules.

    A KubeVirt object in the input replaces `cluster`; instancetypes and preferences are looked up in the same input. Raises
    InputError with every problem of every document at once.
    """
    examined = examine(sources, cluster)
    if examined.problems:
        raise InputError.of(examined.problems)
    return examined.loaded


def validate(sources: Sequence[SourceText], cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> tuple[Problem, ...]:
    """Everything that `load` would refuse the input for. Raises nothing."""
    return problems_and_warnings(sources, cluster)[0]


def problems_and_warnings(
    sources: Sequence[SourceText], cluster: ClusterConfig = KUBEVIRT_DEFAULTS
) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """What `load` would refuse the input for, and what it would only warn of."""
    examined = examine(sources, cluster)
    return examined.problems, examined.loaded.warnings


def _capped(problems: list[Problem]) -> tuple[Problem, ...]:
    if len(problems) <= _MOST_PROBLEMS:
        return tuple(problems)
    rest = Problem(message=f"and {len(problems) - _MOST_PROBLEMS} more problems so far; the rest was not examined", code="more")
    return (*problems[:_MOST_PROBLEMS], rest)


class _Loading:
    """One pass over the input."""

    def __init__(self, sources: Sequence[SourceText], cluster: ClusterConfig) -> None:
        objects = split([(source.file, source.text) for source in sources])
        self.documents: list[Document] = []
        self.problems = objects.problems
        self.warnings = objects.warnings
        self.cluster = cluster
        self._seen: dict[VmName, Object] = {}
        self._vcpus: dict[str, int] = {}
        self._catalog: dict[tuple[str, str, str], Tree | None] = {}
        for rank in (("KubeVirt",), _CATALOG, _VMS):  # what others depend on comes first, wherever it stands
            for one in objects.found:
                if one.kind in rank:
                    self._object(one)
        files = {source.file: index for index, source in enumerate(sources)}
        for found in (self.problems, self.warnings):
            found.sort(key=lambda one: (files.get(one.file or "", 0), one.line or 0, one.column or 0))

    def _object(self, one: Object) -> None:
        if len(self.problems) > _MOST_PROBLEMS or self._vcpus.get(one.file, 0) > _MOST_VCPUS:
            return
        reading = Reading(one.root, one.kind, one.file)
        content = reading.content()
        self.problems.extend(reading.problems)
        self.warnings.extend(reading.warnings)
        if any(problem.code not in _PARTIAL for problem in reading.problems):
            if one.kind in _CATALOG:
                self._catalog[_catalog_key(one.kind, content)] = None
            return
        match one.kind:
            case "VirtualMachine" | "VirtualMachineInstance":
                self._vm(one, reading, Vm(content, one.kind, self.cluster, self._catalog))
            case "KubeVirt":
                self.cluster, causes = cluster_config(content, self.cluster)
                self._causes(reading, causes)
            case _:
                self._kind_of_vm(one, reading, content)

    def _kind_of_vm(self, one: Object, reading: Reading, content: Tree) -> None:
        key, spec = _catalog_key(one.kind, content), content.child("spec")
        causes = instancetype_faults(spec) if key[0] == "instancetype" else preference_faults(spec)
        self._causes(reading, causes)
        if key in self._catalog:
            self.problems.append(reading.problem("metadata.name", f"a second {one.kind} is called {key[2]}", code="duplicate", ours=True))
        self._catalog[key] = None if any(not cause.warning for cause in causes) else spec

    def _causes(self, reading: Reading, causes: Iterable[Cause]) -> None:
        faulty = [problem.field for problem in reading.problems]
        for cause in islice(causes, _MOST_PROBLEMS + 1):
            if any(field == cause.field or _is_below(field, cause.field) for field in faulty):
                continue  # it follows from a field that was left out
            (self.warnings if cause.warning else self.problems).append(_placed(reading, cause))

    def _vcpus_of(self, one: Object, reading: Reading, spec: VmSpec) -> int:
        """All vCPUs of the file so far; sets of them are kept for each VM, and their sizes must be bounded together."""
        total = self._vcpus[one.file] = self._vcpus.get(one.file, 0) + spec.cpu.topology.vcpus
        if total > _MOST_VCPUS:
            message = f"the VMs of one file have more than {_MOST_VCPUS:,} vCPUs"
            self.problems.append(reading.problem("", message, code="too-big", hint="split it", ours=True))
        return total

    def _vm(self, one: Object, reading: Reading, vm: Vm) -> None:
        spec = vm.examine()
        self._causes(reading, dict.fromkeys(vm.causes))  # two webhooks may say the same
        first = self._seen.setdefault(vm.name, one)
        if first is not one:
            hint = f"the first is in {first.file}:{first.root.line}"
            message = f"a second VM is called {vm.name}"
            self.problems.append(reading.problem("metadata.name", message, code="duplicate", hint=hint, ours=True))
        elif spec is not None and not reading.problems and self._vcpus_of(one, reading, spec) <= _MOST_VCPUS:
            self.documents.append(Document(spec=spec, text=one.text, file=one.file, line=one.root.line))


_CODES: Final[dict[str, Literal["invalid", "required", "unsupported", "duplicate", "not-found"]]] = {
    "FieldValueInvalid": "invalid",
    "FieldValueRequired": "required",
    "FieldValueNotSupported": "unsupported",
    "FieldValueDuplicate": "duplicate",
    "FieldValueNotFound": "not-found",
}


def _catalog_key(kind: str, content: Tree) -> tuple[str, str, str]:
    what = "instancetype" if kind.endswith("nstancetype") else "preference"
    scope = "" if "Cluster" in kind else content.text("metadata.namespace") or "default"
    return what, scope, content.text("metadata.name")


def _is_below(field: str, above: str) -> bool:
    return field.startswith((f"{above}.", f"{above}[")) if above else True


def _placed(reading: Reading, cause: Cause) -> Problem:
    message = cause.message if len(cause.message) <= _LONGEST_MESSAGE else f"{cause.message[:_LONGEST_MESSAGE]}..."
    problem = reading.problem(cause.field, message, code=_CODES[cause.type], hint=cause.hint, ours=cause.ours)
    return replace(problem, code="warning") if cause.warning else problem
