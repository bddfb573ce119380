"""Every finding of `verify`, each from one thing that is wrong on a VM that is otherwise right."""

from dataclasses import replace
from types import MappingProxyType

import pytest
from tests.isolation_cases import PID, around, census, plan

from quietcore.isolation import ForeignTask, IrqFact, verify
from quietcore.model import CgroupFacts, CpuSet, HostThread, Mechanism, Plan, ThreadCensus

FACTS = around(
    CgroupFacts(version=2, mount="/cg", layout="libvirt", home="/m/vm"),
    partition_states={"/m/vm/vcpu0": "isolated", "/m/vm/vcpu1": "isolated"},
)
VM = plan()


def settled(vm: Plan = VM, **changes: HostThread) -> ThreadCensus:
    """The VM's threads where they belong; `changes` replaces one by its id ("t103")."""
    threads = []
    for thread in census(FACTS).threads:
        cpus = vm.shared if thread.vcpu is None and thread.role != "pit" else CpuSet.of(4 + (thread.vcpu or 0))
        cgroup = "/m/vm/vcpu0" if thread.role == "pit" else thread.cgroup
        threads.append(changes.get(f"t{thread.tid}", replace(thread, allowed=cpus, cgroup=cgroup)))
    return ThreadCensus(pid=PID, threads=tuple(threads))


def thread(tid: int) -> HostThread:
    return next(one for one in settled().threads if one.tid == tid)


def findings(threads: ThreadCensus, vm: Plan = VM, facts: CgroupFacts = FACTS, mechanism: Mechanism = "partition", **others):
    return [(one.severity, one.code, one.kind, one.id, one.expected, one.actual) for one in verify(vm, threads, facts, mechanism, **others)]


def without(tid: int) -> ThreadCensus:
    return ThreadCensus(pid=PID, threads=tuple(one for one in settled().threads if one.tid != tid))


def test_nothing_is_said_of_a_vm_that_is_right():
    assert findings(settled()) == []


WRONG = {
    "a vCPU without a thread": (without(104), ("error", "vcpu-missing", "vcpu", "1", "one thread", "none")),
    "a vCPU that nobody planned": (
        settled(t101=replace(thread(101), vcpu=7, role="vcpu", cgroup="/m/vm/vcpu7", allowed=VM.shared)),
        ("error", "vcpu-unplanned", "vcpu", "7", "no such vCPU", "a running thread"),
    ),
    "a vCPU in another group": (
        settled(t103=replace(thread(103), cgroup="/")),
        ("error", "vcpu-cgroup", "thread", "103 (CPU 0/KVM)", "/m/vm/vcpu0", "/"),
    ),
    "a helper in another group": (
        settled(t101=replace(thread(101), cgroup="/")),
        ("warning", "thread-cgroup", "thread", "101 (call_rcu)", "/m/vm/emulator", "/"),
    ),
    "a vCPU that may run elsewhere": (
        settled(t103=replace(thread(103), allowed=CpuSet.of(0, 4))),
        ("error", "vcpu-affinity", "thread", "103 (CPU 0/KVM)", "4", "0,4"),
    ),
    "a helper on a dedicated CPU": (
        settled(t150=replace(thread(150), allowed=CpuSet.range(8))),
        ("error", "thread-on-dedicated", "thread", "150 (worker)", "no CPU of 4-5", "0-7"),
    ),
    "a vhost thread on a dedicated CPU": (
        settled(t160=replace(thread(160), allowed=CpuSet.of(5))),
        ("error", "thread-on-dedicated", "thread", "160 (vhost-100)", "no CPU of 4-5", "5"),
    ),
    "a helper elsewhere on the pool": (
        settled(t101=replace(thread(101), allowed=CpuSet.of(0))),
        ("warning", "thread-affinity", "thread", "101 (call_rcu)", "0-1,7", "0"),
    ),
    "the timer's thread away from vCPU 0": (
        settled(t161=replace(thread(161), allowed=CpuSet.of(5))),
        ("warning", "thread-affinity", "thread", "161 (kvm-pit/100)", "4", "5"),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_thread(name):
    threads, expected = WRONG[name]
    assert findings(threads) == [expected]


def test_a_real_time_vcpu_and_the_timers_thread_that_lost_their_policy():
    vm = plan(realtime=frozenset({1}))
    pit = replace(thread(161), policy="fifo", priority=3)
    fifo = settled(vm, t104=replace(thread(104), policy="fifo", priority=2), t161=pit)
    assert findings(fifo, vm, priority=2) == []
    assert findings(settled(vm), vm, priority=2) == [
        ("error", "vcpu-policy", "thread", "104 (CPU 1/KVM)", "fifo 2", "other 0"),
        ("warning", "thread-policy", "thread", "161 (kvm-pit/100)", "fifo 3", "other 0"),
    ]


@pytest.mark.parametrize(("may_invert", "severity"), [(False, "error"), (True, "warning")])
def test_kernel_threads_that_a_polling_vcpu_would_starve(may_invert, severity):
    kthreads = tuple(
        HostThread(tid=tid, comm=comm, role="worker", allowed=CpuSet.of(5), cgroup="/", policy=policy, priority=priority, kernel=True)
        for tid, comm, policy, priority in ((15, "ksoftirqd/5", "other", 0), (16, "rcuc/5", "fifo", 2), (17, "ktimers/5", "fifo", 3))
    )
    found = findings(settled(), priority=2, cpu_kthreads=kthreads, may_invert=may_invert)
    assert found == [
        (severity, "priority-inversion", "thread", "15 (ksoftirqd/5)", "above fifo 2", "other 0"),
        (severity, "priority-inversion", "thread", "16 (rcuc/5)", "above fifo 2", "fifo 2"),
    ]


def test_a_partition_that_the_kernel_dropped():
    states = {"/m/vm/vcpu0": "isolated invalid (Parent is not a partition root)"}
    found = findings(settled(), facts=replace(FACTS, partition_states=MappingProxyType(states)))
    assert found == [
        ("error", "partition-invalid", "cgroup", "/m/vm/vcpu0", "isolated", states["/m/vm/vcpu0"]),
        ("error", "partition-invalid", "cgroup", "/m/vm/vcpu1", "isolated", "no partition"),
    ]


def test_a_quota_above_a_vcpu():
    facts = replace(FACTS, quotas=MappingProxyType({"/m": "20000 100000"}))
    assert findings(settled(), facts=facts) == [("error", "cpu-quota", "cgroup", "/m", "no CPU quota", "20000 100000")]


def test_whole_is_one_partition_and_its_helpers_may_run_on_its_cpus():
    vm = plan(strategy="whole")
    threads = ThreadCensus(
        pid=PID, threads=tuple(replace(one, allowed=one.allowed if one.vcpu is not None else vm.emulator) for one in settled().threads[:5])
    )
    facts = replace(FACTS, partition_states=MappingProxyType({"/m/vm": "isolated"}))
    assert findings(threads, vm, facts) == []
    assert findings(threads, vm, FACTS) == [("error", "partition-invalid", "cgroup", "/m/vm", "isolated", "no partition")]


@pytest.mark.parametrize(
    ("mechanism", "severity"), [("partition", "error"), ("threaded", "info"), ("cpuset-v1", "info"), ("affinity", "info")]
)
def test_tasks_of_the_host_are_only_an_error_where_they_were_promised_away(mechanism, severity):
    tasks = tuple(
        ForeignTask(tid=tid, comm=comm, allowed=CpuSet.parse(cpus)) for tid, comm, cpus in ((1, "init", "0-7"), (7, "cron", "0-4"))
    )
    found = verify(VM, settled(), FACTS, mechanism, foreign=tasks)
    cpus = [(one.severity, one.id, one.actual) for one in found if one.code == "foreign-task-allowed"]
    assert cpus == [(severity, "4", "2 other tasks may run here: cron, init"), (severity, "5", "1 other task may run here: init")]


def test_cpus_of_which_the_same_is_said_are_one_finding():
    tasks = tuple(ForeignTask(tid=tid, comm=f"task{tid}", allowed=CpuSet.range(8)) for tid in range(1, 6))
    (found,) = verify(VM, settled(), FACTS, "partition", foreign=tasks)
    assert (found.id, found.actual) == ("4-5", "5 other tasks may run here: task1, task2, task3, task4, ...")


@pytest.mark.parametrize(
    ("managed", "mechanism", "severity"), [(False, "partition", "error"), (True, "partition", "info"), (False, "threaded", "info")]
)
def test_interrupts_are_an_error_where_we_could_have_moved_them(managed, mechanism, severity):
    irq = IrqFact(irq=24, name="eth0", allowed=CpuSet.parse("0,5"), managed=managed)
    found = [one for one in verify(VM, settled(), FACTS, mechanism, irqs=(irq,)) if one.code == "irq-allowed"]
    assert [(one.severity, one.id, one.actual) for one in found] == [(severity, "5", "1 interrupt may be delivered here: 24 eth0")]


def test_errors_come_first():
    threads = settled(t101=replace(thread(101), cgroup="/"), t104=replace(thread(104), allowed=CpuSet.of(1)))
    task = ForeignTask(tid=1, comm="init", allowed=CpuSet.range(8))
    found = verify(VM, threads, FACTS, "threaded", foreign=(task,))
    assert [one.severity for one in found] == ["error", "warning", "info"]


def test_a_vm_without_cpus_of_its_own_has_no_claim_on_the_host():
    vm = plan("-,-")
    threads = ThreadCensus(pid=PID, threads=tuple(replace(one, allowed=vm.shared) for one in settled().threads[:5]))
    quota = replace(FACTS, quotas=MappingProxyType({"/m": "20000 100000"}))
    assert findings(threads, vm, quota, "threaded") == []
