"""KubeVirt's own admission tests (vmi-create-admitter_test.go), row by row."""

import json
from pathlib import Path

import pytest

from quietcore.manifest.causes import Check
from quietcore.manifest.reader import Reading
from quietcore.manifest.vm import kubevirt_rules
from quietcore.manifest.yaml_text import parse
from quietcore.model import ClusterConfig

TABLE = json.loads((Path(__file__).parents[1] / "data/vectors/kubevirt_validation.json").read_text())


def spec_of(row):
    text = json.dumps({"spec": {"domain": row["domain"]} | ({"architecture": row["architecture"]} if "architecture" in row else {})})
    reading = Reading(parse(text, "row").documents[0], "VirtualMachineInstance", "row")
    content = reading.content()
    assert [problem for problem in reading.problems if problem.code != "required"] == []
    return content.child("spec")


def causes_of(row):
    live_update = row.get("config", {}).get("vmRolloutStrategy") != "Stage"
    check = Check(spec_of(row), "spec", ClusterConfig(live_update=live_update))
    kubevirt_rules(check)
    return [{"field": cause.field, "message": cause.message, "type": cause.type} for cause in check.causes]


@pytest.mark.parametrize("row", TABLE["cases"], ids=lambda row: row["name"].replace(" ", "-"))
def test_the_bare_validator_names_the_same_causes(row):
    expected, found = row["expect"], causes_of(row)
    if row.get("containsOnly"):
        assert all(cause in found for cause in expected)
        return
    silent = {cause["field"] for cause in expected if cause["message"] is None}
    assert [cause | {"message": None} if cause["field"] in silent else cause for cause in found] == expected
