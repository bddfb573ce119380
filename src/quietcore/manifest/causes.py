"""What a validation rule says: Kubernetes' StatusCause, collected while the rules run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from quietcore.manifest.tree import Tree
from quietcore.model.cluster import ClusterConfig

CauseType: TypeAlias = Literal[
    "FieldValueInvalid",
    "FieldValueRequired",
    "FieldValueNotSupported",
    "FieldValueDuplicate",
    "FieldValueNotFound",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One broken rule. `field` is the dotted path as KubeVirt prints it; `ours` marks a rule that KubeVirt does not have.

    `warning` rules do not refuse the VM. `hint` says what to do next; KubeVirt's own messages have none.
    """

    field: str
    message: str
    type: CauseType = "FieldValueInvalid"
    ours: bool = False
    warning: bool = False
    hint: str = ""


@dataclass(slots=True)
class Check:
    """The subject of the rules: a VMI's spec, the path at which it stands (`spec`, or `spec.template.spec`), and the causes so far."""

    spec: Tree
    prefix: str
    cluster: ClusterConfig
    causes: list[Cause] = field(default_factory=list)

    def at(self, path: str) -> str:
        """The full path of a field of the spec."""
        return f"{self.prefix}.{path}"

    def invalid(self, path: str, message: str, kind: CauseType = "FieldValueInvalid", hint: str = "") -> None:
        """Record a broken rule of KubeVirt's at a field of the spec."""
        self.causes.append(Cause(field=self.at(path), message=message, type=kind, hint=hint))

    def ours(self, path: str, message: str, hint: str, *, warning: bool = False) -> None:
        """Record a broken rule of our own."""
        self.causes.append(Cause(field=self.at(path), message=message, ours=True, warning=warning, hint=hint))
