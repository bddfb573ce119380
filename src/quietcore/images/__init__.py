"""The local image store and the files that a VM starts with. Import its names from here."""

from typing import TYPE_CHECKING

from quietcore.lazy import names_of

if TYPE_CHECKING:
    from quietcore.images.content import StoredFile, StoredImage
    from quietcore.images.preparing import Prepared, PreparedDisk, discard, missing, prepare, references, undo
    from quietcore.images.reference import canonical
    from quietcore.images.runner import Runner, SubprocessRunner
    from quietcore.images.store import ImageStore, how_to_get
else:
    __getattr__ = names_of(
        __name__,
        content="StoredFile StoredImage",
        preparing="Prepared PreparedDisk discard missing prepare references undo",
        reference="canonical",
        runner="Runner SubprocessRunner",
        store="ImageStore how_to_get",
    )

__all__ = [
    "ImageStore",
    "Prepared",
    "PreparedDisk",
    "Runner",
    "StoredFile",
    "StoredImage",
    "SubprocessRunner",
    "canonical",
    "discard",
    "how_to_get",
    "missing",
    "prepare",
    "references",
    "undo",
]
