"""What becomes of real manifests: the whole specification, or every word of the refusal."""

import dataclasses
import json
from collections.abc import Mapping

import pytest
from tests.manifest_outcomes import INPUTS, sources

from quietcore import manifest
from quietcore.errors import InputError
from quietcore.model import Quantity


def plain(value):
    if isinstance(value, Quantity):
        return str(value)
    if dataclasses.is_dataclass(value):
        changed = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__} | changed if type(value).__name__ in {"ContainerDisk", "HostDisk", "EmptyDisk"} else changed
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, tuple) else value


def outcome(names):
    try:
        loaded = manifest.load(sources(names))
    except InputError as error:
        return "".join(f"refused: {problem}\n" for problem in error.problems)
    warnings = "".join(f"warning: {warning}\n" for warning in loaded.warnings)
    specs = "".join(f"accepted: {json.dumps(plain(document.spec), indent=1)}\n" for document in loaded.documents)
    return warnings + specs or "accepted: no VM\n"


@pytest.mark.parametrize("name", INPUTS)
def test_a_real_manifest(name, golden):
    golden(f"manifest/{name}.txt", outcome(INPUTS[name]))
