"""The static policy on the tables of the kubelet's own tests (policy_static_test.go).

Distributed options appear in no row, so both compatibility modes must give the same answers.
"""

from dataclasses import replace

import pytest
from tests.conformance.kubelet import TOPOLOGIES, options_of, pod_of, state_of
from tests.conformance.tables import label, table

from quietcore.errors import InputError
from quietcore.model import CpuPolicyOptions, CpuSet, Refusal
from quietcore.placement.cpu_options import parse_cpu_options
from quietcore.placement.pod_level import allocate_pod, check_pools
from quietcore.placement.static_policy import StaticPolicy

ROWS = table("policy_static")["cases"]
OPENSHIFT = "workload partitioning is an addition of the fork that the tables were read from, not Kubernetes"
NOT_APPLICABLE = {
    "reserved cores 0 & 6 are not present in available cpuset when management partitioning is enabled": OPENSHIFT,
    "reserved cores 0 & 6 are not present in available cpuset when management partitioning is enabled during recovery": OPENSHIFT,
    "base SMT alignment error, no physical CPUs, missing flag": "formats an error that no request causes: 4 is a multiple of 2",
}

both_modes = pytest.mark.parametrize("compat", ["fixed", "1.36"])


def rows(*tests):
    chosen = [row for row in ROWS if row["test"] in tests and label(row) not in NOT_APPLICABLE]
    return pytest.mark.parametrize("row", chosen, ids=label)


def policy_of(row, compat="fixed", options=None, **gates):
    reserved = row.get("reserved", row.get("reservedCPUs"))
    count = row.get("numReservedCPUs", 0)
    policy = StaticPolicy.with_reservation(
        TOPOLOGIES[row["topo"]],
        options_of(row.get("cpuPolicyOptions", row.get("options")) if options is None else options),
        count=count,
        reserved=None if reserved is None else CpuSet.parse(reserved),
        compat=compat,
    )
    return replace(policy, **gates)


def affinity_of(hint):
    return None if not hint else sum(1 << node for node in hint["numa"])


def wrong(error):
    """The kubelet's text and reason as one value to compare."""
    return None if error is None else (error["error"], error.get("type", ""))


def test_the_rows_that_do_not_apply_are_these():
    unreachable = [row for row in ROWS if "requested 4 cpus not multiple cpus per core = 2" in row.get("expected", "")]
    assert {label(row) for row in (*(row for row in ROWS if "managementPartition" in row), *unreachable)} == set(NOT_APPLICABLE)


def test_every_row_has_a_test():
    counted = {}
    for row in ROWS:
        counted[row["test"]] = counted.get(row["test"], 0) + 1
    assert counted == {
        "TestStaticPolicyStart": 8,
        "TestStaticPolicyStartWithResvList": 7,
        "TestStaticPolicyAdd": 25,
        "TestStaticPolicyAddWithResvList": 3,
        "TestStaticPolicyAddWithUncoreAlignment": 27,
        "TestStaticPolicyRemove": 4,
        "TestTopologyAwareAllocateCPUs": 5,
        "TestStaticPolicyReuseCPUs": 1,
        "TestStaticPolicyDoNotReuseCPUs": 1,
        "TestStaticPolicyAllocatePod": 9,
        "TestStaticPolicyOptions": 7,
        "TestSMTAlignmentErrorText": 3,
        "TestValidatePodScopeResources": 11,
    }


@rows("TestStaticPolicyStart", "TestStaticPolicyStartWithResvList")
def test_start(row):
    expected = row.get("expNewErr") or row.get("expErr")
    if expected is None:
        assert str(policy_of(row).start(state_of(row)).default) == row["expCSet"]
        return
    with pytest.raises(InputError) as fault:
        policy_of(row).start(state_of(row))
    assert fault.value.problems[0].message == expected["error"]


def option_sets(row):
    if row["table"] == "optionsInsensitiveTestCases":
        return [{}, {"full-pcpus-only": "true"}]
    return [row.get("options", {})]


@both_modes
@rows("TestStaticPolicyAdd", "TestStaticPolicyAddWithResvList")
def test_add(row, compat):
    for options in option_sets(row):
        pod, container = pod_of(row["pod"]), pod_of(row["pod"]).containers[0]
        answer = policy_of(row, compat, options).allocate(state_of(row), pod, container, affinity_of(row.get("topologyHint")))
        if row["expErr"] is not None:
            assert isinstance(answer, Refusal)
            assert (answer.message, answer.reason) == wrong(row["expErr"])
            continue
        cpus = answer.state.cpus_of(pod.uid, container.name)
        assert (cpus is not None, str(cpus or "")) == (row["expCPUAlloc"], row["expCSet"])
        if cpus is not None:
            assert cpus.isdisjoint(answer.state.default)


@both_modes
@rows("TestStaticPolicyAddWithUncoreAlignment")
def test_add_with_uncore_alignment(row, compat):
    policy, pod, state = policy_of(row, compat), pod_of(row["pod"]), state_of(row)
    state = replace(state, default=state.default - policy.reserved)
    taken = CpuSet()
    for container in pod.containers:
        answer = policy.allocate(state, pod, container)
        state = answer.state
        taken |= state.cpus_of(pod.uid, container.name)
    if "expCSet" in row:
        assert str(state.cpus_of(pod.uid, pod.containers[0].name)) == row["expCSet"]
    if "expUncoreCache" in row:
        used = CpuSet.from_iterable(group.id for group in policy.topology.uncores if group.mask & taken.mask)
        assert str(used) == row["expUncoreCache"]


@rows("TestStaticPolicyRemove")
def test_remove(row):
    state = policy_of(row).remove(state_of(row), row["podUID"], row["containerName"])
    assert (str(state.default), state.cpus_of(row["podUID"], row["containerName"])) == (row["expCSet"], None)


@both_modes
@rows("TestTopologyAwareAllocateCPUs")
def test_take_near_nodes(row, compat):
    taken = policy_of(row, compat).take(state_of(row), row["numRequested"], affinity_of(row["socketMask"]))
    assert str(taken.cpus) == row["expCSet"]


@rows("TestStaticPolicyReuseCPUs", "TestStaticPolicyDoNotReuseCPUs")
def test_reuse(row):
    policy, pod, state = policy_of(row), pod_of(row["pod"]), state_of(row)
    for container in pod.containers:
        state = policy.allocate(state, pod, container).state
    assert str(state.default) == row["expCSetAfterAlloc"]
    if "containerName" in row:
        assert str(policy.remove(state, pod.uid, row["containerName"]).default) == row["expCSetAfterRemove"]


def gates_of(row):
    return {
        "pod_level_resources": row["podLevelResourcesEnabled"],
        "pod_level_resource_managers": row["podLevelResourceManagersEnabled"],
    }


@both_modes
@rows("TestStaticPolicyAllocatePod")
def test_allocate_pod(row, compat):
    policy, pod, state = policy_of(row, compat, **gates_of(row)), pod_of(row["pod"]), state_of(row)
    answer = allocate_pod(policy, state, pod, affinity_of(row["topologyHint"]))
    if row["expErr"] is not None:
        assert isinstance(answer, Refusal)
        assert (answer.message, answer.reason) == wrong(row["expErr"])
        return
    shown = {uid: {name: str(cpus) for name, cpus in containers.items()} for uid, containers in answer.state.assignments.items()}
    assert (shown, str(answer.state.default)) == (row["expPodAssignments"], row["expDefaultCPUSet"])


@rows("TestSMTAlignmentErrorText")
def test_smt_alignment_text(row):
    """The texts, each from a machine and a request that cause it."""
    cases = {"requested 15 cpus": ("topoQuadSocketFourWayHT", "0-287", 15), "available physical CPUs = 0": ("topoSingleSocketHT", "", 4)}
    ((topology, free, count),) = [case for part, case in cases.items() if part in row["expected"]]
    policy = StaticPolicy(topology=TOPOLOGIES[topology], reserved=CpuSet(), options=options_of({"full-pcpus-only": "true"}))
    refusal = policy.check_smt(state_of({"stDefaultCPUSet": free}), count)
    assert (refusal.message, refusal.reason) == (row["expected"], row["err"]["type"])


@rows("TestValidatePodScopeResources")
def test_pod_scope_resources(row):
    policy = StaticPolicy(
        topology=TOPOLOGIES[row["topology"]],
        reserved=CpuSet(),
        options=CpuPolicyOptions(),
        pod_level_resources=row["features"]["PodLevelResources"],
        pod_level_resource_managers=row["features"]["PodLevelResourceManagers"],
    )
    assert (check_pools(policy, pod_of(row["pod"])) is not None) == row["expectErr"]


@rows("TestStaticPolicyOptions")
def test_options(row):
    texts = row["policyOptions"] or {}
    if row["expectedError"]:
        with pytest.raises(InputError):
            parse_cpu_options(texts)
        return
    assert parse_cpu_options(texts) == CpuPolicyOptions(full_pcpus_only=row["expectedValue"].get("FullPhysicalCPUsOnly", False))
