"""KubeVirt manifests (YAML or JSON) -> VM specifications, with KubeVirt's defaults, rules and messages. Pure: reads no file itself."""

from quietcore.manifest.documents import Document, Loaded, SourceText, load, validate

__all__ = ["Document", "Loaded", "SourceText", "load", "validate"]
