"""One VirtualMachine or VirtualMachineInstance -> VmSpec, or everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from quietcore.manifest import annotations as wishes_of
from quietcore.manifest import names
from quietcore.manifest.causes import Cause, Check
from quietcore.manifest.defaults import default_instance, default_spec
from quietcore.manifest.instancetypes import apply_instancetype
from quietcore.manifest.live_update import memory_hotplug_obstacle
from quietcore.manifest.lower import Subject, lower
from quietcore.manifest.ours import check_ours, strategy_of
from quietcore.manifest.preferences import apply_preference, unmet_requirement
from quietcore.manifest.tree import Tree
from quietcore.manifest.validate_cpu import check_cpu
from quietcore.manifest.validate_devices import check_devices
from quietcore.manifest.validate_memory import check_memory, check_memory_is_requested
from quietcore.manifest.validate_network import check_network
from quietcore.model.cluster import ClusterConfig
from quietcore.model.spec import RunStrategy, VmName, VmSpec

_RUN_STRATEGIES: Final[Mapping[str, RunStrategy]] = {
    "Always": "Always",
    "RerunOnFailure": "RerunOnFailure",
    "Manual": "Manual",
    "Halted": "Halted",
    "Once": "Once",
}
_MOST_DEVICES: Final = 256
_RESERVED_LABELS: Final = (
    "kubevirt.io/created-by",
    "kubevirt.io/migrationJobUID",
    "kubevirt.io/nodeName",
    "kubevirt.io/migrationTargetNodeName",
    "kubevirt.io/schedulable",
    "kubevirt.io/install-strategy",
)


@dataclass(frozen=True, slots=True)
class Matched:
    """The specs of the instancetype and the preference that a VM names."""

    instancetype: Tree | None = None
    preference: Tree | None = None

    def apply(self, spec: Tree, annotations: dict[str, str], prefix: str) -> tuple[Cause, ...]:
        """Write both into the VM, or say what conflicts."""
        if self.instancetype is not None:
            conflicts = apply_instancetype(self.instancetype, self.preference or Tree(), spec, annotations, prefix)
            if conflicts:
                return conflicts
        if self.preference is not None:
            apply_preference(self.preference, spec, annotations)
        return ()

    def unmet(self, spec: Tree) -> tuple[Cause, ...]:
        """The first requirement that the defaulted VM does not meet."""
        cause = None if self.preference is None else unmet_requirement(self.instancetype, self.preference, spec)
        return () if cause is None else (cause,)


_NOTHING: Final = Matched()


@dataclass(slots=True)
class Vm:
    """A VM while it is examined. `content` is the whole document, checked for types.

    `catalog` holds the specs of instancetypes and preferences: (`instancetype` or `preference`, namespace or "" for the cluster's,
    name) -> spec, or None where that object is itself broken: then the VM is not judged by what is missing.
    """

    content: Tree
    kind: Literal["VirtualMachine", "VirtualMachineInstance"]
    cluster: ClusterConfig
    catalog: Mapping[tuple[str, str, str], Tree | None]
    causes: list[Cause] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        """The path of the VMI's spec."""
        return "spec.template.spec" if self.kind == "VirtualMachine" else "spec"

    @property
    def metadata(self) -> str:
        """The path of the VMI's metadata."""
        return "spec.template.metadata" if self.kind == "VirtualMachine" else "metadata"

    @property
    def name(self) -> VmName:
        """The VM's name as it is written."""
        return VmName(namespace=self.content.text("metadata.namespace") or "default", name=self.content.text("metadata.name"))

    def examine(self) -> VmSpec | None:
        """Default, validate and lower; None when a rule is broken. `causes` then holds all of them, warnings included."""
        spec = self.content.child(self.prefix)
        self._identity()
        if self._is_too_big(spec):
            return None
        if self.kind == "VirtualMachine":
            self._run_strategy()
        annotations = dict(self.content.mapping(f"{self.metadata}.annotations"))
        matched = self._matchers() if self.kind == "VirtualMachine" else _NOTHING
        if matched is None:
            return None
        conflicts = matched.apply(spec, annotations, self.prefix)
        if conflicts:
            self.causes.extend(conflicts)  # as in KubeVirt nothing else is judged then: half of the VM is missing
            return None
        default_spec(spec, self.cluster)
        self.causes.extend(matched.unmet(spec))
        check = Check(spec, self.prefix, self.cluster, self.causes)
        kubevirt_rules(check)
        if self.kind == "VirtualMachine" and self.cluster.live_update and spec.has("domain.memory.maxGuest"):
            obstacle = memory_hotplug_obstacle(spec, spec.quantity("domain.memory.maxGuest"))
            if obstacle:
                check.invalid("domain.memory.guest", obstacle)
        check_memory_is_requested(check)
        default_instance(spec, annotations, self.cluster)
        wishes, faults = wishes_of.read(annotations, f"{self.metadata}.annotations", spec)
        self.causes.extend(faults)
        check_ours(check, wishes, f"{self.metadata}.annotations")
        if any(not cause.warning for cause in self.causes):
            return None
        subject = Subject(
            vm=self.name,
            kind=self.kind,
            run_strategy=self._chosen_run_strategy(),
            strategy=strategy_of(check, wishes),
            wishes=wishes,
            labels=self.content.mapping(f"{self.metadata}.labels"),
            annotations=annotations,
        )
        return lower(spec, subject)

    def _matchers(self) -> Matched | None:
        """What `instancetype` and `preference` name; None where one of them cannot be had, which is then a cause of its own or
        a problem of the other object."""
        found: dict[str, Tree | None] = {}
        for what in ("instancetype", "preference"):
            path = f"spec.{what}"
            if not self.content.has(path):
                continue
            kind, name = self.content.text(f"{path}.kind"), self.content.text(f"{path}.name")
            word = what.capitalize()
            scopes = {"": "", f"virtualmachinecluster{what}": "", f"virtualmachine{what}": self.name.namespace}
            scope = scopes.get(kind.lower().removesuffix("s"))
            if scope is None:
                self._invalid(f"{path}.kind", f"got unexpected kind in {word}Matcher: {kind}")
                found[what] = None
                continue
            if (what, scope, name) not in self.catalog:
                scoped = f"VirtualMachine{word}" if scope else f"VirtualMachineCluster{word}"
                self._ours(f"{path}.name", f"the input holds no {scoped} {name!r}", "add its manifest to the input")
            found[what] = self.catalog.get((what, scope, name))
        return None if None in found.values() else Matched(found.get("instancetype"), found.get("preference"))

    def _ours(self, path: str, message: str, hint: str = "") -> None:
        self.causes.append(Cause(field=path, message=message, ours=True, hint=hint))

    def _invalid(self, path: str, message: str) -> None:
        self.causes.append(Cause(field=path, message=message))

    def _identity(self) -> None:
        vm = self.name
        if not vm.name:
            self.causes.append(Cause(field="metadata.name", message="name or generateName is required", type="FieldValueRequired"))
        for fault in names.subdomain_faults(vm.name) if vm.name else ():
            self._invalid("metadata.name", fault)
        if len(vm.name) > names.LONGEST_VM_NAME:
            self._ours("metadata.name", f"longer than {names.LONGEST_VM_NAME} characters", "it becomes part of file names")
        for fault in names.label_faults(vm.namespace):
            self._invalid("metadata.namespace", fault)
        for path in {"metadata", self.metadata}:
            self._labels(path)
        if self.kind == "VirtualMachine":
            for key in self.content.mapping("metadata.annotations"):
                if key.startswith(wishes_of.PREFIX):
                    self._ours(f"metadata.annotations.{key}", "has no effect here", f"it belongs in {self.metadata}.annotations")
        hooks = self.content.mapping(f"{self.metadata}.annotations").get(wishes_of.HOOK_SIDECARS)
        if hooks and "Sidecar" not in self.cluster.feature_gates:
            entry = f"{self.metadata}.annotations.{wishes_of.HOOK_SIDECARS}"
            message = f"sidecar feature gate is not enabled in kubevirt-config, invalid entry {entry}"
            self._invalid(f"{self.metadata}.annotations", message)

    def _is_too_big(self, spec: Tree) -> bool:
        counts = {path: len(spec.items(path)) for path in ("volumes", "domain.devices.disks", "domain.devices.interfaces", "networks")}
        for path, count in counts.items():
            if count > _MOST_DEVICES:
                self._ours(f"{self.prefix}.{path}", f"{count} of them cannot be run", f"at most {_MOST_DEVICES}")
        return max(counts.values()) > _MOST_DEVICES

    def _labels(self, path: str) -> None:
        labels = self.content.mapping(f"{path}.labels")
        for key, value in labels.items():
            if not names.is_label_key(key):
                self._invalid(f"{path}.labels", f"{key!r} cannot be the key of a label")
            if not names.is_label_value(value):
                self._invalid(f"{path}.labels.{key}", f"{value!r} cannot be the value of a label")
        for key in self.content.mapping(f"{path}.annotations"):
            if not names.is_label_key(key):
                self._invalid(f"{path}.annotations", f"{key!r} cannot be the key of an annotation")
        if path == self.metadata and any(key in labels for key in _RESERVED_LABELS):
            message = "creation of the following reserved kubevirt.io/ labels on a VMI object is prohibited"
            self.causes.append(Cause(field=f"{path}.labels", message=message, type="FieldValueNotSupported"))

    def _run_strategy(self) -> None:
        spec = self.content.child("spec")
        if spec.has("running") and spec.has("runStrategy"):
            message = "Running and RunStrategy are mutually exclusive. Note that Running is deprecated, please use RunStrategy instead"
            self._invalid("spec.running", message)
        if not spec.has("running") and not spec.has("runStrategy"):
            self._invalid("spec.running", "RunStrategy must be specified")
        if spec.has("running"):
            message = "spec.running is deprecated, please use spec.runStrategy instead."
            self.causes.append(Cause(field="spec.running", message=message, warning=True))
        strategy = spec.text("runStrategy")
        if strategy == "WaitAsReceiver":
            gate = "DecentralizedLiveMigration feature gate is not enabled in kubevirt resource"
            self._invalid("spec.runStrategy", f"Invalid RunStrategy ({strategy}), {gate}")
        elif spec.has("runStrategy") and strategy not in _RUN_STRATEGIES:
            self._invalid("spec.runStrategy", f"Invalid RunStrategy ({strategy})")

    def _chosen_run_strategy(self) -> RunStrategy:
        if self.kind == "VirtualMachineInstance":
            return "Once"
        if self.content.has("spec.running"):
            return "Always" if self.content.flag("spec.running") else "Halted"
        return _RUN_STRATEGIES[self.content.text("spec.runStrategy")]


def kubevirt_rules(check: Check) -> None:
    """KubeVirt's ValidateVirtualMachineInstanceSpec."""
    check_memory(check)
    check_cpu(check)
    check_network(check)
    check_devices(check)
