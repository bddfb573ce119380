"""KubeVirt manifests (YAML or JSON) -> VM specifications, with KubeVirt's defaults, rules and messages. Pure: reads no file itself."""

from quietcore.manifest.admission import admission_review
from quietcore.manifest.documents import Document, Loaded, SourceText, load, problems_and_warnings, validate

__all__ = ["Document", "Loaded", "SourceText", "admission_review", "load", "problems_and_warnings", "validate"]
