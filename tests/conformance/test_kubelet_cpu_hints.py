"""The CPU Manager's topology hints on the tables of the kubelet's own tests (topology_hints_test.go)."""

import pytest
from tests.conformance.kubelet import TOPOLOGIES, options_of, pod_of, state_of
from tests.conformance.tables import label, table

from quietcore.model import CpuSet
from quietcore.placement.cpu_hints import container_hints, pod_hints
from quietcore.placement.hints import Hint, HintFamily, mask_of
from quietcore.placement.static_policy import StaticPolicy

ROWS = table("topology_hints")["cases"]


def rows(*tests):
    return pytest.mark.parametrize("row", [row for row in ROWS if row["test"] in tests], ids=label)


def policy_of(row):
    return StaticPolicy(
        topology=TOPOLOGIES[row["topology"]],
        reserved=CpuSet(),
        options=options_of(row.get("policyOptions")),
        pod_level_resources=row.get("podLevelResourcesEnabled", False),
        pod_level_resource_managers=row.get("podLevelResourceManagersEnabled", False),
    )


def listed(answer):
    """The hints in upstream's order of comparison; a provider without an opinion and one without hints are both empty there."""
    hints = () if answer is None else answer["cpu"]
    listed_ = hints.hints() if isinstance(hints, HintFamily) else hints
    return sorted(listed_, key=lambda hint: (not hint.preferred, hint.mask.bit_count(), hint.mask))


def expected(row):
    return [Hint(mask=mask_of(hint["numa"]), preferred=hint["preferred"]) for hint in row["expectedHints"] or ()]


def state(row):
    return state_of(row, default="defaultCPUSet", assignments="assignments")


def test_every_row_has_a_test():
    assert [row["test"] for row in ROWS] == ["returnTestCases"] * 14 + ["TestGetPodTopologyHintsWithPolicyOptions"] * 3


@rows("returnTestCases")
def test_container_scope(row):
    pod = pod_of(row["pod"])
    assert listed(container_hints(policy_of(row), state(row), pod, pod.containers[0])) == expected(row)


@rows("returnTestCases", "TestGetPodTopologyHintsWithPolicyOptions")
def test_pod_scope(row):
    assert listed(pod_hints(policy_of(row), state(row), pod_of(row["pod"]))) == expected(row)
