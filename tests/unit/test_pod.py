"""The launcher pod, from a spec to containers, QoS class and a Kubernetes object."""

from __future__ import annotations

from dataclasses import replace

import kubernetes_validate
import pytest
from tests.vm_specs import GI, MI, UID, asking, dedicated, root_disk, vm

from quietcore import pod
from quietcore.errors import InputError
from quietcore.model import Container, GuestShape, GuestTopology, IoThreads, Quantity, Realtime


def launcher(spec, strategy="dedicated", **cluster):
    return pod.launcher_pod(spec, strategy=strategy, uid=UID, cluster=pod.Cluster(**cluster))


def texts(container):
    return (
        container.name,
        {name: str(amount) for name, amount in container.requests.items()},
        {name: str(amount) for name, amount in container.limits.items()},
    )


def test_the_strategy_dedicated_puts_the_cpus_on_a_placeholder_and_everything_else_on_compute():
    made = launcher(dedicated(vcpus=4, disks=(root_disk(),), sidecars=("hook:1",)))
    memory = f"{1024 + 412}Mi"  # 1Gi guest; 240 + 4 x 8 + 8 + 32 + 100 Mi overhead
    assert [texts(one) for one in made.containers] == [
        ("compute", {"cpu": "200m", "memory": memory, "ephemeral-storage": "50M"}, {"cpu": "200m", "memory": memory}),
        ("dedicated", {"cpu": "4", "memory": "16Mi"}, {"cpu": "4", "memory": "16Mi"}),
        ("volumeroot", {"cpu": "10m", "memory": "40M"}, {"cpu": "10m", "memory": "40M"}),
        ("hook-sidecar-0", {"cpu": "200m", "memory": "64M"}, {"cpu": "200m", "memory": "64M"}),
    ]
    assert made.qos == "Guaranteed"
    assert made.share_process_namespace
    assert made.guest == GuestShape(
        topology=GuestTopology(cores=4),
        dedicated_vcpus=frozenset(range(4)),
        memory_bytes=GI,
    )


@pytest.mark.parametrize(("strategy", "cpus"), [("whole", "4"), ("housekeeping", "5")])
def test_the_other_strategies_put_the_cpus_on_compute(strategy, cpus):
    made = launcher(dedicated(vcpus=4), strategy)
    assert [one.name for one in made.containers] == ["compute"]
    assert str(made.containers[0].limits["cpu"]) == str(made.containers[0].requests["cpu"]) == cpus
    assert (made.guest.vcpu_container, made.qos, made.share_process_namespace) == ("compute", "Guaranteed", False)


def test_even_parity_takes_a_second_emulator_cpu_only_under_housekeeping():
    spec = dedicated(vcpus=4, cpu={"isolate_emulator": True, "even_parity": True})
    assert [launcher(spec, one).guest.emulator_cpus for one in ("dedicated", "whole", "housekeeping")] == [0, 0, 2]


def test_a_supplemental_pool_has_its_own_cpus_under_every_strategy():
    spec = dedicated(vcpus=2, io_threads=IoThreads(policy="supplementalPool", pool=4))
    assert [pod.cpu_count(spec, one).total for one in ("dedicated", "whole", "housekeeping")] == [6, 6, 7]
    assert launcher(spec).guest.io_cpus == 4


def test_mixed_vcpus_own_what_they_are_dedicated_and_share_the_rest_without_a_whole_number():
    spec = dedicated(vcpus=10, cpu={"dedicated_vcpus": frozenset({1, 2})})
    made = launcher(spec)
    assert str(made.containers[1].limits["cpu"]) == "2"
    assert str(made.containers[0].limits["cpu"]) == "1001m"  # 200m + 8 x 100m is one CPU, which the kubelet would make exclusive
    assert made.guest.dedicated_vcpus == frozenset({1, 2})
    with pytest.raises(InputError, match="strategy housekeeping cannot hold"):
        launcher(spec, "housekeeping")


def test_hugepages_carry_the_guest_and_memory_only_what_is_beside_it():
    spec = dedicated(
        memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI},
        resources=asking(memory_request="1Gi", memory_limit="1Gi"),
        cpu={"numa_passthrough": True, "realtime": Realtime(vcpus=frozenset({1, 2, 3}))},
        graphics=False,
    )
    made = launcher(spec)
    assert texts(made.containers[0]) == (
        "compute",
        {"cpu": "200m", "memory": "382Mi", "hugepages-2Mi": "1Gi", "ephemeral-storage": "50M"},
        {"cpu": "200m", "memory": "382Mi", "hugepages-2Mi": "1Gi"},
    )
    assert made.guest.realtime_vcpus == frozenset({1, 2, 3})
    assert made.node_selector["kubevirt.io/realtime"] == made.node_selector["kubevirt.io/cpumanager"] == "true"
    assert made.annotations == {
        "kubevirt.io/domain": "rt",
        "quietcore.io/strategy": "dedicated",
        "quietcore.io/compute-cpu-quota": "max",
        "quietcore.io/topology-scope": "pod",
        "quietcore.io/memlock": "unlimited",
    }


def test_a_guest_of_odd_size_gets_whole_hugepages():
    spec = dedicated(memory={"guest_bytes": GI + 1, "hugepage_bytes": GI})
    assert str(launcher(spec).containers[0].limits["hugepages-1Gi"]) == "2Gi"


def test_a_shared_vm_asks_for_kubevirts_share():
    made = launcher(vm(disks=(root_disk(),), sidecars=("hook:1",)))
    assert [texts(one) for one in made.containers] == [
        ("compute", {"cpu": "200m", "memory": f"{1024 + 296}Mi", "ephemeral-storage": "50M"}, {}),
        ("volumeroot", {"cpu": "1m", "memory": "1M"}, {"cpu": "10m", "memory": "40M"}),
        ("hook-sidecar-0", {}, {}),
    ]
    assert (made.qos, made.guest.dedicated_vcpus, made.guest.vcpu_container) == ("Burstable", frozenset(), "compute")


def test_a_shared_vm_keeps_the_users_own_numbers():
    spec = vm(resources=asking(cpu_request="1500m", cpu_limit="2", memory_request="1Gi", memory_limit="2Gi"))
    assert texts(launcher(spec).containers[0]) == (
        "compute",
        {"cpu": "1500m", "memory": "1322Mi", "ephemeral-storage": "50M"},
        {"cpu": "2", "memory": "2346Mi"},
    )


def test_overcommitted_overhead_is_left_out_of_the_request_of_a_shared_vm_only():
    resources = replace(asking(memory_request="1Gi", memory_limit="1Gi"), overcommit_guest_overhead=True)
    assert str(launcher(vm(resources=resources)).containers[0].requests["memory"]) == "1Gi"
    made = launcher(dedicated(resources=resources))
    assert made.qos == "Guaranteed"
    assert pod.differences(dedicated(resources=resources), "housekeeping")[-1].startswith("overcommitGuestOverhead is not applied")


def test_automatic_limits_stand_for_a_resource_quota():
    made = launcher(vm(), auto_cpu_limit=True, auto_memory_limit_ratio=Quantity.of(2).amount)
    assert {name: str(amount) for name, amount in made.containers[0].limits.items()} == {"cpu": "2", "memory": f"{2 * 1320}Mi"}


def test_a_third_of_a_cpu_is_asked_for_to_the_nano():
    assert str(launcher(vm(cpu={"topology": GuestTopology()}), cpu_allocation_ratio=3).containers[0].requests["cpu"]) == "333333334n"


def test_differences_name_kubevirts_parity_defect():
    spec = dedicated(
        vcpus=5,
        cpu={"isolate_emulator": True, "even_parity": True},
        io_threads=IoThreads(policy="supplementalPool", pool=1),
    )
    assert pod.differences(spec, "housekeeping") == (
        (
            "KubeVirt's pod would have 7 CPUs and its launcher would pin 8: it counts the 1 supplemental I/O thread(s) twice, "
            "so there the VM does not start; here both are 8"
        ),
    )
    assert pod.differences(replace(spec, io_threads=IoThreads()), "housekeeping") == ()


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, "BestEffort"),
        ({"hugepages-2Mi": "2Mi"}, {"hugepages-2Mi": "2Mi"}, "BestEffort"),
        ({"cpu": "1"}, {"cpu": "1"}, "Burstable"),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "1000m", "memory": "1024Mi"}, "Guaranteed"),
        ({}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed"),
        ({"cpu": "500m"}, {"cpu": "1", "memory": "1Gi"}, "Burstable"),
    ],
)
def test_the_qos_class_is_kubernetes(requests, limits, expected):
    def amounts(of):
        return {name: Quantity.parse(text) for name, text in of.items()}

    one = Container(name="one", requests=amounts(requests), limits=amounts(limits))
    assert pod.qos_class((one,)) == expected
    assert pod.qos_class((), one.requests, one.limits) == expected


def test_eviction_takes_those_above_their_request_first_then_low_priority_then_the_greediest():
    def use(name, used, priority=0):
        return pod.MemoryUse(pod=launcher(vm(name)), used_bytes=used, priority=priority)

    within, little, much, important = use("within", GI), use("little", 2 * GI), use("much", 3 * GI), use("important", 8 * GI, 1)
    order = pod.eviction_order((within, important, little, much))
    assert [one.vm.name for one in order] == ["much", "little", "important", "within"]


def test_oom_scores_are_the_kubelets():
    compute = launcher(vm()).containers[0]
    assert [pod.oom_score_adj(compute, qos, 8 * GI) for qos in ("Guaranteed", "Burstable", "BestEffort")] == [-997, 839, 1000]


def test_shares_and_weights_follow_the_request():
    assert [pod.cpu_shares(milli) for milli in (0, 1, 200, 1000, 4000, 10**9)] == [2, 2, 204, 1024, 4096, 262144]
    assert pod.shares_of(launcher(dedicated())) == {"compute": 204, "dedicated": 4096}
    # runc issue 4896 and Kubernetes issue 131216 state these.
    assert [(pod.cpu_weight_linear(shares), pod.cpu_weight(shares)) for shares in (2, 1024, 2000, 262144)] == [
        (1, 1),
        (39, 100),
        (77, 170),
        (10000, 10000),
    ]


EVERY_SHAPE = {
    "shared": vm(),
    "dedicated": dedicated(disks=(root_disk(),), sidecars=("hook:1",)),
    "realtime on hugepages": dedicated(
        "a" * 200,
        memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI, "locked": True},
        cpu={"numa_passthrough": True, "realtime": Realtime(vcpus=frozenset({0}))},
    ),
}


@pytest.mark.parametrize("strategy", ["whole", "housekeeping", "dedicated"])
@pytest.mark.parametrize("name", EVERY_SHAPE)
def test_kubernetes_own_schema_accepts_the_pod(name, strategy):
    made = pod.manifest(launcher(EVERY_SHAPE[name], strategy, devices=("devices.kubevirt.io/kvm",)))
    kubernetes_validate.validate(made, "1.36", strict=True)


def test_hugepages_are_mounted_where_libvirt_looks_for_them():
    made = pod.manifest(launcher(EVERY_SHAPE["realtime on hugepages"]))
    compute = made["spec"]["containers"][0]
    assert [mount["mountPath"] for mount in compute["volumeMounts"]] == ["/dev/hugepages", "/dev/hugepages/libvirt/qemu"]
    assert {volume["emptyDir"]["medium"] for volume in made["spec"]["volumes"]} == {"HugePages"}
    assert made["spec"]["shareProcessNamespace"] is True
