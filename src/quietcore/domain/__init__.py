"""Between a plan and libvirt's domain XML, both ways, one file per concern. Pure: schemas and files are handed in."""

from quietcore.domain.boot import ARCHITECTURES
from quietcore.domain.build import Build, DiskFile
from quietcore.domain.facts import facts
from quietcore.domain.identity import NAMESPACE, domain_uuid
from quietcore.domain.iothreads import IoLayout, io_layout
from quietcore.domain.render import Rendered, compose, render
from quietcore.domain.schema import compiled, validate
from quietcore.domain.to_manifest import to_manifest

__all__ = [
    "ARCHITECTURES",
    "NAMESPACE",
    "Build",
    "DiskFile",
    "IoLayout",
    "Rendered",
    "compiled",
    "compose",
    "domain_uuid",
    "facts",
    "io_layout",
    "render",
    "to_manifest",
    "validate",
]
