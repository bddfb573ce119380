"""What becomes of real manifests: the whole specification, or every word of the refusal."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from quietcore import manifest
from quietcore.errors import InputError
from quietcore.model import Quantity

FOLDER = Path(__file__).parents[2] / "data/manifests"
SINGLE = sorted(file.stem for file in FOLDER.glob("*.yaml"))
TOGETHER = {
    "instancetype-that-conflicts": ("kubevirt-example-vm-cirros-clarge", "kubevirt-example-clarge"),
    "cluster-instancetype-that-conflicts": ("kubevirt-example-vm-cirros-cluster-csmall", "kubevirt-example-cluster-csmall"),
    "instancetype-and-preference": ("kubevirt-example-vm-windows-clarge-windows", "kubevirt-example-clarge", "kubevirt-example-windows"),
    "two-preferences-of-one-name": ("kubevirt-ug-instancetypes-152", "kubevirt-ug-instancetypes-176"),
}


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
    sources = [manifest.SourceText(file=f"{name}.yaml", text=(FOLDER / f"{name}.yaml").read_text()) for name in names]
    try:
        loaded = manifest.load(sources)
    except InputError as error:
        return "".join(f"refused: {problem}\n" for problem in error.problems)
    warnings = "".join(f"warning: {warning}\n" for warning in loaded.warnings)
    specs = "".join(f"accepted: {json.dumps(plain(document.spec), indent=1)}\n" for document in loaded.documents)
    return warnings + specs or "accepted: no VM\n"


@pytest.mark.parametrize("name", SINGLE)
def test_a_real_manifest(name, golden):
    golden(f"manifest/{name}.txt", outcome([name]))


@pytest.mark.parametrize("name", TOGETHER)
def test_manifests_that_belong_together(name, golden):
    golden(f"manifest/{name}.txt", outcome(TOGETHER[name]))
