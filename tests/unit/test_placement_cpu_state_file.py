"""The kubelet's state file: known checksums of its own tests, all versions, and every fault that stops a kubelet."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quietcore.errors import InputError
from quietcore.model import CpuSet
from quietcore.placement.cpu_state import CpuState
from quietcore.placement.cpu_state_file import read_state, write_state


def file(default, checksum, entries=None, pods=None, policy="none"):
    document = {"policyName": policy, "defaultCPUSet": default, "checksum": checksum}
    document |= {"entries": entries} if entries is not None else {}
    document |= {"podEntries": pods} if pods is not None else {}
    return json.dumps(document)


TWO = {"pod": {"container1": "4-6", "container2": "1-3"}}
KNOWN = [
    (file("4-6", 354655845), 2),
    (file("1-3", 3610638499, TWO), 2),
    (file("1-3", 1394507217, policy="other"), 2),
    (file("1-3", 2649431787, TWO, {"pod": {"cpuSet": "4-6"}}), 3),
    (file("1-3", 1694838852), 1),
    (file("1-3", 3680390589, {"containerID1": "4-6", "containerID2": "1-3"}), 1),
    (
        file(
            "0-1,6-17",
            148873334,
            {"cdc2c5cc531dd48bceb064e5411259a46bd8b8e70974fce10a3620b5b5da2c05": "2-5"},
            policy="static",
        ),
        1,
    ),
]
IDS = {
    "containerID1": ("pod", "container1"),
    "containerID2": ("pod", "container2"),
    "cdc2c5cc531dd48bceb064e5411259a46bd8b8e70974fce10a3620b5b5da2c05": ("pod", "container"),
}


@pytest.mark.parametrize(("text", "version"), KNOWN)
def test_known_files_are_read_in_their_version(text, version):
    """Texts and checksums are those of the kubelet's own tests, and of a file in kubernetes issue 87249."""
    policy = json.loads(text)["policyName"]
    assert read_state(text, policy=policy, containers=IDS).version == version


def test_version_1_entries_find_their_containers():
    text = KNOWN[5][0]
    state = read_state(text, policy="none", containers=IDS).state
    assert state.assignments == {"pod": {"container1": CpuSet.parse("4-6"), "container2": CpuSet.parse("1-3")}}


@pytest.mark.parametrize(
    ("text", "options", "fault"),
    [
        (file("1-3", 1, TWO), {"pod_level": False}, "cannot unmarshal object"),
        (file("1-3", 1), {}, "checkpoint is corrupted"),
        ("{", {}, "Expecting property name"),
        ("[]", {}, "cannot unmarshal the file"),
        (file("1.3", 3021697696), {}, 'could not parse default cpu set "1.3"'),
        (
            file("1-3", 962272150, {"pod": {"container1": "4-6", "container2": "asd"}}),
            {},
            'could not parse cpuset "asd" for container "container2" in pod "pod"',
        ),
        (file("1-3", 1394507217, policy="other"), {}, 'configured policy "none" differs from state checkpoint policy "other"'),
        (file("1-3", 3680390589, {"containerID1": "4-6", "containerID2": "1-3"}), {}, "containerID 'containerID1' not found"),
        (KNOWN[3][0], {"pod_level": False}, "cannot unmarshal object"),
    ],
)
def test_a_file_that_stops_a_kubelet_is_an_input_error(text, options, fault):
    with pytest.raises(InputError, match="could not restore state from checkpoint") as error:
        read_state(text, policy="none", **options)
    assert fault in error.value.problems[0].message


@pytest.mark.parametrize("checksum", [0, None])
def test_versions_1_and_2_without_a_checksum_are_accepted(checksum):
    document = json.loads(file("1-3", 0, TWO))
    if checksum is None:
        del document["checksum"]
    assert read_state(json.dumps(document), policy="none").version == 2


sets = st.integers(1, (1 << 70) - 1).map(CpuSet)
names = st.text("abcdef-0123456789", min_size=1, max_size=8)
containers_ = st.dictionaries(names, sets, min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(
    sets, st.dictionaries(names, st.dictionaries(names, sets, min_size=1, max_size=3), max_size=3), st.dictionaries(names, sets, max_size=2)
)
def test_what_is_written_is_read_back(default, assignments, pods):
    state = CpuState(default=default, assignments=assignments, pod_assignments=pods)
    text = write_state(state)
    assert "\n" not in text
    assert read_state(text).state == state
    assert read_state(text).version == 3
    if not pods:
        assert read_state(write_state(state, version=2), pod_level=False).state == state


def test_version_2_cannot_hold_pod_level_cpus():
    with pytest.raises(InputError, match="version 2"):
        write_state(CpuState(pod_assignments={"pod": CpuSet.of(1)}), version=2)
