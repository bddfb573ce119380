"""Between a plan and libvirt's domain XML, both ways, one file per concern. Pure: schemas and files are handed in."""

from typing import TYPE_CHECKING

from quietcore.domain.render import Rendered, compose, render
from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.domain.boot import ARCHITECTURES
    from quietcore.domain.build import Build, DiskFile
    from quietcore.domain.identity import NAMESPACE, domain_uuid
    from quietcore.domain.importing import to_manifest
    from quietcore.domain.iothreads import IoLayout, io_layout
    from quietcore.domain.memory_users import fixed_memory
    from quietcore.domain.reading import facts
    from quietcore.domain.schema import compiled, validate
else:
    __getattr__ = names_of(
        __name__,
        boot="ARCHITECTURES",
        build="Build DiskFile",
        identity="NAMESPACE domain_uuid",
        importing="to_manifest",
        iothreads="IoLayout io_layout",
        memory_users="fixed_memory",
        reading="facts",
        schema="compiled validate",
    )

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
    "fixed_memory",
    "io_layout",
    "render",
    "to_manifest",
    "validate",
]
