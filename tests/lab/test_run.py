"""The whole path of `quietcore run` on cgroup v2, checked against the kernel and not against our own words."""

import os
import signal
import subprocess
import time
from collections import Counter
from functools import partial

import pytest

from lab import product
from lab.inside import CGROUP_ROOT, CPUS, Cgroup, allowed, restored, run_time_ns, write
from lab.looking import eventually, read, tasks
from lab.machines import OLDER
from quietcore.host.fs import HostFs
from quietcore.host.threads import kernel_tasks
from quietcore.model import CpuSet
from quietcore.proof import Tally, Tasks, attribute, parse_trace

pytestmark = pytest.mark.lab
PAGE = 2 << 20
PASSTHROUGH = {"numa": {"guestMappingPassthrough": {}}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def standing(nothing_is_left, folder):
    """The VM that tests share, one at a time."""
    product.configure()
    one = product.Standing(partial(product.start, folder), ended=nothing_is_left)
    yield one
    one.end()


@pytest.fixture
def steady(standing):
    """A VM of two vCPUs; the test may spoil it and must see it mended."""
    with standing.lent("steady", topology=(1, 2, 1)) as vm:
        yield vm


@pytest.fixture(scope="module", params=["whole", "housekeeping", "dedicated"])
def strategy(request):
    return request.param


@pytest.fixture
def placed(standing, strategy):
    """A VM of two vCPUs and an I/O thread under each strategy."""
    isolate = {"isolateEmulatorThread": True} if strategy == "housekeeping" else {}
    shape = {"topology": (1, 2, 1), "scratch_disk": True, "domain": {"ioThreadsPolicy": "shared"}}
    with standing.lent("placed", strategy=strategy, cpu=isolate, **shape) as vm:
        yield vm


@pytest.fixture
def run(hypervisor, standing, tmp_path):
    """Start VMs with `quietcore run`; what is left of them at the end is deleted, and the host must then be as before."""
    standing.end()
    yield partial(product.start, tmp_path)
    product.delete_all(tmp_path)
    assert hypervisor.listAllDomains() == []


@pytest.fixture
def refused(run, tmp_path):
    """What a VM that does not fit is answered."""
    del run

    def ask(name, **shape):
        answer = product.run(tmp_path, name, **shape)
        assert answer.code == 3, answer.err + answer.out
        return answer.value["items"][0]

    return ask


@pytest.fixture
def again(folder):
    return lambda: product.quietcore("run", "-f", str(folder / "steady.yaml"))


def findings(name):
    answer = product.quietcore("verify", name, "-o", "json")
    return answer.code, sorted({one["code"] for one in answer.value["findings"] if one["severity"] == "error"})


def in_place(vm):
    return vm.vcpus_allowed() == {vcpu: CpuSet.of(pcpu) for vcpu, pcpu in vm.pcpus.items()}


def all_others_allowed(vm):
    seen = CpuSet()
    for tid in vm.other_tids:
        seen |= allowed(tid)
    return seen


@pytest.mark.lab("2s4n16c", "1s1n4c", "uneven", "systemd")
@pytest.mark.kernel_differs
def test_each_vcpu_has_the_cpu_that_was_promised_and_no_other_thread_of_the_vm_may_run_there(steady, row):
    assert len(steady.dedicated) == 2
    assert in_place(steady)
    assert all_others_allowed(steady).isdisjoint(steady.dedicated)
    if row.endswith(f"-{OLDER}"):
        assert steady.mechanism == "threaded"
        assert steady.described["limits"] != []
    else:
        assert steady.mechanism == "partition"
    assert findings("steady") == (0, [])


def test_a_running_vcpu_is_on_its_cpu(steady, hypervisor):
    assert hypervisor.lookupByName("default_steady").isActive()
    ran = run_time_ns(steady.vcpu_tids[0])
    eventually(lambda: run_time_ns(steady.vcpu_tids[0]) > ran, "vCPU 0 does not run")
    last_cpu = {vcpu: int(read(f"/proc/{tid}/stat").rpartition(")")[2].split()[36]) for vcpu, tid in steady.vcpu_tids.items()}
    assert last_cpu == steady.pcpus


def test_no_other_task_of_the_host_may_run_on_the_vcpus_cpus(steady):
    states = [steady.group_of_vcpu(vcpu).get("cpuset.cpus.partition") for vcpu in steady.vcpu_tids]
    assert states == ["isolated", "isolated"]
    assert CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated")) == steady.dedicated
    for task in ("1", "self"):
        assert allowed(task) == CpuSet.parse(read(CPUS / "online")) - steady.dedicated


def test_a_vcpu_that_was_moved_away_by_hand_is_found_and_put_back(steady, again):
    home = steady.group_of_vcpu(0)
    Cgroup(home.path.parent / "emulator").set("cgroup.threads", steady.vcpu_tids[0])
    code, found = findings("steady")
    assert (code, {"vcpu-cgroup", "vcpu-affinity"} <= set(found)) == (1, True)
    assert again().code == 0
    assert steady.group_of_vcpu(0) == home
    assert findings("steady") == (0, [])


def test_a_helper_thread_that_was_moved_onto_the_vcpus_is_found_and_put_back(steady, again):
    steady.group_of_vcpu(0).set("cgroup.threads", steady.pid)
    code, found = findings("steady")
    assert (code, "thread-on-dedicated" in found) == (1, True)
    assert again().code == 0
    assert findings("steady") == (0, [])


def test_a_cpu_that_goes_offline_below_a_vcpu_is_found_and_mended_when_it_is_back(steady, again):
    with restored(CPUS / f"cpu{steady.pcpus[1]}/online") as switch:
        write(switch, "0")
        code, found = findings("steady")
        assert (code, found != []) == (1, True)
    again()
    assert findings("steady") == (0, [])
    assert in_place(steady)


def test_switching_smt_off_is_found_and_mended_when_it_is_on_again(steady, again):
    assert CpuSet.parse(read(CPUS / f"cpu{steady.pcpus[0]}/topology/thread_siblings_list")) == steady.dedicated
    with restored(CPUS / "smt/control") as switch:
        write(switch, "off")
        code, found = findings("steady")
        assert (code, found != []) == (1, True)
    eventually(lambda: steady.dedicated <= CpuSet.parse(read(CPUS / "online")), "the siblings do not come back")
    again()
    assert findings("steady") == (0, [])
    assert in_place(steady)


def test_a_quota_above_a_vcpu_is_found_and_removed(steady, again):
    home = Cgroup(steady.group_of_vcpu(0).path.parent)
    home.set("cpu.max", "20000 100000")
    assert findings("steady") == (1, ["cpu-quota"])
    assert again().code == 0
    assert home.get("cpu.max").startswith("max")
    assert findings("steady") == (0, [])


@pytest.mark.lab("systemd")
def test_under_systemd_a_vm_lives_in_a_delegated_scope_and_survives_a_daemon_reload(steady):
    assert steady.mechanism == "partition"
    parents = [path.name for path in steady.group_of_vcpu(0).path.parents]
    assert any(name.endswith(".scope") for name in parents)
    for verb in ("daemon-reload", "daemon-reexec"):
        subprocess.run(["systemctl", verb], check=True)
        assert findings("steady") == (0, [])


def test_when_qemu_is_killed_its_cpus_come_back_and_the_same_manifest_starts_it_again(steady, again):
    os.kill(steady.pid, signal.SIGKILL)
    eventually(lambda: read(CGROUP_ROOT / "cpuset.cpus.isolated") == "", "the CPUs of a dead VM do not come back")
    assert again().code == 0
    assert product.RunningVm.of("steady").pid != steady.pid
    assert findings("steady") == (0, [])


def test_a_strategy_costs_what_it_says_and_puts_the_other_threads_where_it_says(placed, strategy):
    assert placed.described["strategy"] == strategy
    others = all_others_allowed(placed)
    assert len(placed.dedicated) == 2
    match strategy:
        case "whole":
            assert others == placed.dedicated
        case "housekeeping":
            assert (len(others), others.isdisjoint(placed.dedicated)) == (1, True)
        case "dedicated":
            assert others == CpuSet.range(16) - placed.dedicated
    assert findings("placed") == (0, [])


def test_an_io_thread_stays_off_the_vcpus_cpus_unless_it_shall_share_them(placed, strategy):
    io_threads = [one for one in placed.described["threads"] if one["role"] == "iothread"]
    assert io_threads != []
    assert {allowed(one["tid"]).isdisjoint(placed.dedicated) for one in io_threads} == {strategy != "whole"}
    assert findings("placed") == (0, [])


def test_only_under_whole_any_other_thread_of_the_vm_ever_comes_onto_its_vcpus_cpus(placed, trace, strategy):
    def disturbs(seen):
        return seen.waited_ns["own"] + seen.preempted["own"] > 0

    seen = while_qemu_answers(trace, placed)
    assert seen.ran["vcpu"].times > 0
    if strategy == "whole":
        assert seen.ran["own"].times > 0
        # A vCPU that sleeps is not kept waiting: that both want the CPU at once takes its time.
        eventually(lambda: disturbs(seen) or disturbs(while_qemu_answers(trace, placed)), "no other thread keeps a vCPU waiting")
    else:
        assert seen.ran["own"] == Tally()
        assert not disturbs(seen)


def while_qemu_answers(trace, vm):
    """Who ran on the CPUs of a VM's vCPUs while QEMU's monitor and main loop were asked."""
    vcpus, own = frozenset(vm.vcpu_tids.values()), frozenset(vm.other_tids)
    trace.record(vm.dedicated, vcpus)
    start_ns = time.monotonic_ns()
    for _ in range(3):
        product.RunningVm.of(vm.described["vm"]["name"])
    end_ns = time.monotonic_ns()
    trace.stop()
    assert trace.lost() == 0
    running = Tasks(vcpus=vcpus, own=own, kernel=kernel_tasks(HostFs()))
    return attribute(parse_trace(trace.text()), vm.dedicated, running, start_ns, end_ns)


def test_guest_cells_have_their_hugepages_on_the_nodes_of_their_cpus(run):
    vm = run("numa", topology=(1, 6, 1), guest="192Mi", hugepages=True, cpu=PASSTHROUGH)
    nodes = {pcpu: pcpu // 4 for pcpu in vm.pcpus.values()}
    assert len(set(nodes.values())) > 1
    planned = {binding["node"]: binding["bytes"] // PAGE for binding in vm.described["memory"]}
    assert set(planned) == set(nodes.values())
    mapped = Counter()
    for line in read(f"/proc/{vm.pid}/numa_maps").splitlines():
        if " huge " in f"{line} ":
            mapped.update(
                {int(word[1:].split("=")[0]): int(word.split("=")[1]) for word in line.split() if word[0] == "N" and word[1].isdigit()}
            )
    assert dict(mapped) == planned
    assert in_place(vm)
    assert findings("numa") == (0, [])


@pytest.mark.lab("uneven")
def test_a_guest_cell_on_a_node_without_memory_is_refused_with_the_node_and_what_it_can_give(refused):
    answer = refused("six", topology=(1, 6, 1), guest="96Mi", hugepages=True, cpu=PASSTHROUGH)
    assert [(one["constraint"], one["node"], one["free"]) for one in answer["reasons"]] == [("pages-on-node", 2, "0")]


def test_the_real_time_mask_decides_who_is_fifo_and_the_cpus_own_threads_stay_above(run):
    per_cpu = ("ksoftirqd", "rcuc", "ktimers")

    def priorities(cpus):
        names = {f"{name}/{cpu}" for cpu in cpus for name in per_cpu}
        return {comm: os.sched_getparam(tid).sched_priority for tid, comm in tasks().items() if comm in names}

    before = priorities(range(16))
    vm = run("realtime", topology=(1, 4, 1), guest="64Mi", hugepages=True, cpu={**PASSTHROUGH, "realtime": {"mask": "0-3,^1"}})
    policies = {vcpu: (os.sched_getscheduler(tid), os.sched_getparam(tid).sched_priority) for vcpu, tid in vm.vcpu_tids.items()}
    fifo = (os.SCHED_FIFO, 1)
    assert policies == {0: fifo, 1: (os.SCHED_OTHER, 0), 2: fifo, 3: fifo}
    above = priorities(pcpu for vcpu, pcpu in vm.pcpus.items() if vcpu != 1)
    assert len(above) == 3 * len(per_cpu)
    assert min(above.values()) > 1
    assert findings("realtime") == (0, [])
    assert product.quietcore("delete", "realtime", "--now").code == 0
    assert priorities(range(16)) == before


def test_two_vms_stand_side_by_side_and_a_third_that_does_not_fit_is_refused(run, refused):
    first, second = run("first", topology=(1, 4, 1)), run("second", topology=(1, 8, 1))
    assert first.dedicated.isdisjoint(second.dedicated)
    assert findings("first") == findings("second") == (0, [])
    third = refused("third", topology=(1, 4, 1))
    assert (third["outcome"], third["reasons"] != []) == ("refusal", True)
    assert CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated")) == first.dedicated | second.dedicated
    assert product.quietcore("delete", "first", "--now").code == 0
    assert CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated")) == second.dedicated
    assert all_others_allowed(second) == CpuSet.range(16) - second.dedicated
    assert findings("second") == (0, [])


@pytest.mark.parametrize("step", ["paused", "threads found", "checked"])
def test_a_start_that_was_killed_half_way_is_finished_or_undone_by_the_next(run, tmp_path, step):
    file = tmp_path / "half.yaml"
    file.write_text(product.manifest("half", topology=(1, 2, 1)))
    product.kill_at(step, "run", "-f", str(file))
    vm = run("half", topology=(1, 2, 1))
    assert in_place(vm)
    assert CpuSet.parse(read(CGROUP_ROOT / "cpuset.cpus.isolated")) == vm.dedicated
    assert findings("half") == (0, [])
