"""KubeVirt's real-time masks and vCPU threads (pkg/hypervisor/kvm/realtime_test.go), row by row."""

import json
from pathlib import Path

import pytest

from quietcore.manifest.realtime_mask import is_realtime, parse
from quietcore.model import vcpu_of_comm

VECTORS = Path(__file__).parents[1] / "data/vectors"
MASKS = json.loads((VECTORS / "kubevirt_realtime_mask.json").read_text())["cases"]
COMMS = json.loads((VECTORS / "kubevirt_vcpu_thread_comm.json").read_text())["cases"]
LOOKUPS = json.loads((VECTORS / "kubevirt_realtime_mask_lookup.json").read_text())["cases"]


@pytest.mark.parametrize("row", MASKS, ids=lambda row: row["name"].replace(" ", "-"))
def test_masks_parse_as_in_kubevirt(row):
    if "error" in row:
        with pytest.raises(ValueError, match=r"^invalid mask") as caught:
            parse(row["mask"])
        assert str(caught.value) == row["error"]
        return
    named = parse(row["mask"])
    enabled = {vcpu for vcpu, on in named.items() if on}
    assert (enabled, set(named) - enabled) == ({int(vcpu) for vcpu in row["enabled"]}, {int(vcpu) for vcpu in row["disabled"]})


@pytest.mark.parametrize("row", LOOKUPS, ids=range(len(LOOKUPS)))
def test_a_vcpu_is_real_time_as_in_kubevirt(row):
    assert is_realtime({int(vcpu): on for vcpu, on in row["map"].items()}, int(row["vcpu"])) is row["realtime"]


@pytest.mark.parametrize("row", COMMS, ids=range(len(COMMS)))
def test_a_vcpu_thread_is_known_by_its_name_as_in_kubevirt(row):
    assert vcpu_of_comm(row["comm"]) == (None if row["vcpu"] is None else int(row["vcpu"]))
