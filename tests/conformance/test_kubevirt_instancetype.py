"""KubeVirt's spread of an instancetype's vCPUs (pkg/instancetype/apply/cpu_test.go), row by row."""

import json
from pathlib import Path

import pytest

from quietcore.manifest.instancetypes import topology
from quietcore.manifest.tree import Tree
from quietcore.model import GuestTopology

ROWS = json.loads((Path(__file__).parents[1] / "data/vectors/kubevirt_instancetype_spread.json").read_text())["cases"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"].replace(" ", "-"))
def test_vcpus_are_spread_as_in_kubevirt(row):
    options = {name: row[name] for name in ("across", "ratio") if row[name] is not None}
    preference = Tree({"cpu": {"preferredCPUTopology": "spread", "spreadOptions": options}})
    expected = GuestTopology(sockets=row["sockets"], cores=row["cores"], threads=row["threads"])
    assert topology(row["guestVcpus"], preference) == expected
