"""KubeVirt manifests (YAML or JSON) -> VM specifications, with KubeVirt's defaults, rules and messages. Pure: reads no file itself."""

from quietcore.manifest.admission import admission_review
from quietcore.manifest.compatibility import FieldSupport, compatibility
from quietcore.manifest.documents import Document, Examined, Loaded, SourceText, examine, load, problems_and_warnings, validate
from quietcore.model.cluster import ClusterConfig

__all__ = [
    "ClusterConfig",
    "Document",
    "Examined",
    "FieldSupport",
    "Loaded",
    "SourceText",
    "admission_review",
    "compatibility",
    "examine",
    "load",
    "problems_and_warnings",
    "validate",
]
