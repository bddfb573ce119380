"""The local image store and the files that a VM starts with. Import its names from here."""

from quietcore.images.content import StoredFile, StoredImage
from quietcore.images.prepare import Prepared, PreparedDisk, discard, missing, prepare, references, undo
from quietcore.images.reference import canonical
from quietcore.images.runner import Runner, SubprocessRunner
from quietcore.images.store import ImageStore, how_to_get

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
