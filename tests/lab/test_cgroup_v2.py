"""What Linux does with cpusets and quotas: the facts that isolation rests on, each tried on the kernels where it may differ."""

import errno
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.inside import CGROUP_ROOT, CPUS, ThreadedProcess, allowed, cgroup_of, restored, run_time_ns, scratch_group, write
from lab.looking import eventually, read, tasks
from lab.machines import OLDER
from quietcore.model import CpuSet

pytestmark = pytest.mark.lab
WORKQUEUES = Path("/sys/devices/virtual/workqueue/cpumask")


@pytest.fixture
def pod():
    """A launcher pod as the kubelet leaves it: `compute` on the shared CPUs 0-1, the placeholder on its own CPUs 4-5 with a task."""
    with scratch_group("pods") as pods:
        vm = pods.child("vm")
        vm.set("cgroup.subtree_control", "+cpuset +cpu")
        compute, placeholder = vm.child("compute"), vm.child("dedicated")
        compute.set("cpuset.cpus", "0-1")
        placeholder.set("cpuset.cpus", "4-5")
        with subprocess.Popen(["sleep", "infinity"]) as blank, ThreadedProcess("vcpu0", "worker") as qemu:
            placeholder.set("cgroup.procs", blank.pid)
            compute.set("cgroup.procs", qemu.pid)
            yield SimpleNamespace(pods=pods, vm=vm, compute=compute, placeholder=placeholder, qemu=qemu)
            blank.kill()


def partition_vcpu0(pod):
    """Move vCPU 0's thread into an isolated partition of CPUs 4-5 below `compute`."""
    pod.placeholder.set("cpuset.cpus", "0-1")
    pod.compute.set("cgroup.subtree_control", "+cpuset +cpu")
    vcpu0 = pod.compute.child("vcpu0", threaded=True)
    for level in (pod.pods, pod.vm, pod.compute, vcpu0):
        level.set("cpuset.cpus.exclusive", "4-5")
    vcpu0.set("cpuset.cpus.partition", "isolated")
    assert vcpu0.get("cpuset.cpus.partition") == "isolated"
    vcpu0.set("cgroup.threads", pod.qemu.tids["vcpu0"])
    return vcpu0


def online():
    return CpuSet.parse(read(CPUS / "online"))


def test_a_thread_cannot_leave_the_subtree_of_its_process(pod):
    with pytest.raises(OSError) as refusal:  # noqa: PT011 - the errno is the fact
        pod.placeholder.set("cgroup.threads", pod.qemu.tids["vcpu0"])
    assert refusal.value.errno == errno.EOPNOTSUPP


def test_a_thread_may_go_into_a_threaded_child_with_its_own_cpus(pod):
    pod.compute.set("cgroup.subtree_control", "+cpuset")
    vcpu0 = pod.compute.child("vcpu0", threaded=True)
    vcpu0.set("cpuset.cpus", "1")
    vcpu0.set("cgroup.threads", pod.qemu.tids["vcpu0"])
    assert cgroup_of(pod.qemu.tids["vcpu0"]) == vcpu0.path
    assert cgroup_of(pod.qemu.tids["worker"]) == pod.compute.path
    assert (allowed(pod.qemu.tids["vcpu0"]), allowed(pod.qemu.tids["worker"])) == (CpuSet.of(1), CpuSet.of(0, 1))


def test_an_isolated_partition_takes_its_cpus_from_every_other_task(pod):
    before = allowed(1)
    vcpu0 = partition_vcpu0(pod)
    assert vcpu0.cpus("cpuset.cpus.effective") == CpuSet.of(4, 5)
    assert allowed(pod.qemu.tids["vcpu0"]) == CpuSet.of(4, 5)
    assert allowed(pod.qemu.tids["worker"]) == CpuSet.of(0, 1)
    assert (before, allowed(1)) == (online(), online() - CpuSet.of(4, 5))
    assert CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated")) == CpuSet.of(4, 5)


def test_the_cpus_come_back_when_the_group_is_removed(pod):
    vcpu0 = partition_vcpu0(pod)
    pod.qemu.process.kill()
    pod.qemu.process.wait()
    eventually(lambda: not vcpu0.get("cgroup.threads"), "the dead thread stays in its group")
    vcpu0.path.rmdir()
    assert read(CGROUP_ROOT / "cpuset.cpus.isolated") == ""
    assert allowed(1) == online()


def test_a_placeholder_that_holds_exactly_the_cpus_stands_in_the_way(pod):
    pod.pods.set("cpuset.cpus.exclusive", "4-5")
    pod.vm.set("cpuset.cpus.exclusive", "4-5")
    with pytest.raises(OSError) as refusal:  # noqa: PT011 - the errno is the fact
        pod.compute.set("cpuset.cpus.exclusive", "4-5")
    assert refusal.value.errno == errno.EINVAL
    with pytest.raises(OSError) as refusal:  # noqa: PT011 - the errno is the fact
        pod.placeholder.set("cpuset.cpus", "\n")
    assert refusal.value.errno == errno.ENOSPC


def test_later_writes_to_the_containers_leave_the_partition_valid(pod):
    vcpu0 = partition_vcpu0(pod)
    pod.compute.set("cpuset.cpus", "0-3")
    pod.placeholder.set("cpuset.cpus", "4-5")
    assert vcpu0.get("cpuset.cpus.partition") == "isolated"
    assert allowed(pod.qemu.tids["vcpu0"]) == CpuSet.of(4, 5)


def test_a_second_claim_on_the_same_cpus_is_refused(pod):
    vcpu0 = partition_vcpu0(pod)
    other = pod.vm.child("other")
    with pytest.raises(OSError):  # noqa: PT011 - kernels differ in the number
        other.set("cpuset.cpus.exclusive", "5-6")
    assert vcpu0.get("cpuset.cpus.partition") == "isolated"


def test_a_cpuset_that_names_partitioned_cpus_is_accepted_and_gets_other_ones(pod):
    partition_vcpu0(pod)
    other = pod.pods.child("other")
    other.set("cpuset.cpus", "4-5")
    assert other.cpus("cpuset.cpus") == CpuSet.of(4, 5)
    assert other.cpus("cpuset.cpus.effective").isdisjoint(CpuSet.of(4, 5))


def test_changing_the_exclusive_list_moves_the_thread_at_once(pod):
    vcpu0 = partition_vcpu0(pod)
    for level in (pod.pods, pod.vm, pod.compute):
        level.set("cpuset.cpus.exclusive", "4-7")
    vcpu0.set("cpuset.cpus.exclusive", "6-7")
    assert vcpu0.get("cpuset.cpus.partition") == "isolated"
    assert allowed(pod.qemu.tids["vcpu0"]) == CpuSet.of(6, 7)


def test_a_list_that_is_not_inside_its_parents_makes_the_partition_invalid(pod):
    vcpu0 = partition_vcpu0(pod)
    vcpu0.set("cpuset.cpus.exclusive", "6-7")
    assert vcpu0.get("cpuset.cpus.partition").startswith("isolated invalid (")
    assert allowed(pod.qemu.tids["vcpu0"]).isdisjoint(CpuSet.parse("6-7"))


def test_a_partition_shrinks_with_an_offline_cpu_and_grows_again(pod):
    vcpu0 = partition_vcpu0(pod)
    with restored(CPUS / "cpu5/online") as switch:
        write(switch, "0")
        assert (vcpu0.get("cpuset.cpus.partition"), vcpu0.cpus("cpuset.cpus.effective")) == ("isolated", CpuSet.of(4))
    eventually(lambda: vcpu0.cpus("cpuset.cpus.effective") == CpuSet.of(4, 5), "CPU 5 does not come back to its partition")
    assert vcpu0.get("cpuset.cpus.partition") == "isolated"


@pytest.mark.kernel_differs
def test_switching_smt_off_shrinks_a_partition_without_a_word():
    with scratch_group("smt") as group, restored(CPUS / "smt/control") as switch:
        group.set("cpuset.cpus", "12-15")
        group.set("cpuset.cpus.partition", "isolated")
        write(switch, "off")
        assert (group.get("cpuset.cpus.partition"), group.cpus("cpuset.cpus.effective")) == ("isolated", CpuSet.of(12, 14))
        write(switch, "on")
        eventually(lambda: group.cpus("cpuset.cpus.effective") == CpuSet.parse("12-15"), "the siblings do not come back")


@pytest.mark.kernel_differs
def test_a_write_that_succeeds_proves_nothing():
    with scratch_group("parent") as parent:
        child = parent.child("child")
        child.set("cpuset.cpus", "4-5")
        child.set("cpuset.cpus.partition", "isolated")
        assert child.get("cpuset.cpus.partition").startswith("isolated invalid (")


@pytest.mark.kernel_differs
def test_only_the_newer_kernel_keeps_unbound_work_off_a_partition(row):
    def work_cpus():
        return CpuSet(int(read(WORKQUEUES).replace(",", ""), 16))

    with scratch_group("work") as group:
        group.set("cpuset.cpus", "8-11")
        group.set("cpuset.cpus.partition", "isolated")
        assert group.get("cpuset.cpus.partition") == "isolated"
        taken = CpuSet() if row.endswith(f"-{OLDER}") else CpuSet.parse("8-11")
        assert work_cpus() == online() - taken


def test_a_quota_above_throttles_the_vcpus_below():
    with scratch_group("quota") as group, ThreadedProcess("vcpu0:busy") as qemu:
        compute = group.child("compute")
        compute.set("cgroup.procs", qemu.pid)
        compute.set("cgroup.subtree_control", "+cpuset +cpu")
        vcpu0 = compute.child("vcpu0", threaded=True)
        vcpu0.set("cgroup.threads", qemu.tids["vcpu0"])
        assert vcpu0.get("cpu.max") == "max 100000"
        assert compute.number("cpu.stat", "nr_throttled") == 0
        compute.set("cpu.max", "20000 100000")
        eventually(lambda: compute.number("cpu.stat", "nr_throttled") > 5, "the quota of the parent does not throttle")
        compute.set("cpu.max", "max")
        counted, ran = compute.number("cpu.stat", "nr_throttled"), run_time_ns(qemu.tids["vcpu0"])
        eventually(lambda: run_time_ns(qemu.tids["vcpu0"]) - ran > 500_000_000, "the vCPU does not run after the quota is gone")
        assert compute.number("cpu.stat", "nr_throttled") - counted <= 1  # a period that had begun may still be counted


def test_threads_born_later_stay_with_their_creator(pod):
    partition_vcpu0(pod)
    with ThreadedProcess("late") as late:
        pod.compute.set("cgroup.procs", late.pid)
        assert allowed(late.tids["late"]) == CpuSet.of(0, 1)


def test_a_kernel_thread_reaches_a_partition_only_from_inside(pod):
    vcpu0 = partition_vcpu0(pod)
    reaper = next(tid for tid, comm in tasks().items() if comm == "oom_reaper")
    with pytest.raises(OSError) as refusal:  # noqa: PT011 - the errno is the fact
        os.sched_setaffinity(reaper, {4})
    assert refusal.value.errno == errno.EINVAL
    with pytest.raises(OSError) as refusal:  # noqa: PT011 - the errno is the fact
        vcpu0.set("cgroup.threads", reaper)
    assert refusal.value.errno == errno.EOPNOTSUPP
    vcpu0.set("cgroup.procs", reaper)
    os.sched_setaffinity(reaper, {4})
    assert (cgroup_of(reaper), allowed(reaper)) == (vcpu0.path, CpuSet.of(4))
    write(CGROUP_ROOT / "cgroup.procs", str(reaper))


def test_rcub_threads_are_numbered_by_groups_of_cpus():
    rcub = sorted(comm for comm in tasks().values() if comm.startswith("rcub/"))
    assert rcub == ["rcub/0"]  # 16 CPUs are one leaf of RCU's tree
