"""Real-time VMs on a real kernel, whose cgroup v1 may have RT_GROUP_SCHED: policies, budgets, locked memory, and what is left of them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from tests.libvirt.program import Program
from tests.prerequisites import missing

from lab.looking import groups_below, lasting_threads, read, tasks

pytestmark = pytest.mark.libvirt

PAGES = Path("/sys/devices/system/node/node0/hugepages/hugepages-2048kB")
BUDGETS = Path("/sys/fs/cgroup/cpu")
MANIFEST = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: {name}
  annotations: {{quietcore.io/dedicated-vcpus: "0", quietcore.io/realtime-priority: "{priority}"{more}}}
spec:
  terminationGracePeriodSeconds: 0
  domain:
    cpu:
      cores: 2
      dedicatedCpuPlacement: true
      numa: {{guestMappingPassthrough: {{}}}}
      realtime: {{mask: "0-1,^1"}}
    memory:
      guest: 64Mi
      hugepages: {{pageSize: 2Mi}}
    devices: {{}}
"""


@pytest.fixture
def hugepages():
    """Pages for one small guest beside those that are there; given back at the end."""
    switch = PAGES / "nr_hugepages"
    if not switch.exists():
        missing("this kernel has no 2 MiB hugepages on node 0")
    before = switch.read_text()
    switch.write_text(str(int(before) + 40))
    try:
        if int((PAGES / "free_hugepages").read_text()) < 32:
            missing("32 hugepages of 2 MiB are not to be had: memory is too fragmented")
        yield
    finally:
        switch.write_text(before)


@pytest.fixture
def quietcore(tmp_path, libvirt_uri, hugepages):
    program = Program(tmp_path, libvirt_uri)
    yield program
    for name in program.owners():
        program("delete", name, "--now")


def manifest(folder, name="realtime", *, priority=1, more=""):
    path = folder / f"{name}.yaml"
    path.write_text(MANIFEST.format(name=name, priority=priority, more=more))
    return path


def policy(tid):
    return {os.SCHED_OTHER: "other", os.SCHED_FIFO: "fifo"}[os.sched_getscheduler(tid)], os.sched_getparam(tid).sched_priority


def budgets():
    """Every group that has a real-time budget; empty where the kernel knows none."""
    found = {}
    for group in (BUDGETS, *groups_below(BUDGETS)):
        with suppress(FileNotFoundError):  # of the whole kernel, or since the group was listed
            found[str(group)] = read(group / "cpu.rt_runtime_us")
    return {group: budget for group, budget in found.items() if budget != "0"}


def warnings(program):
    return {one["code"] for one in program.json("verify", "realtime")["findings"] if one["severity"] == "warning"}


def locked_kb(pid):
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmLck:"))


def kernel_threads(cpu):
    names = {f"{name}/{cpu}" for name in ("ksoftirqd", "ktimers", "rcuc")}
    return {tid: policy(tid) for tid, comm in tasks().items() if comm in names}


def test_masked_vcpus_are_real_time_and_afterwards_every_budget_and_kernel_thread_is_as_before(quietcore, tmp_path):
    before, threads_before = budgets(), kernel_threads(1)
    assert threads_before
    quietcore("run", "-f", manifest(tmp_path, priority=3))
    seen = quietcore.json("describe", "realtime")
    policies = {thread["vcpu"]: policy(thread["tid"]) for thread in seen["threads"] if thread["vcpu"] is not None}
    assert policies == {0: ("fifo", 3), 1: ("other", 0)}
    assert {policy(tid) for tid in lasting_threads(seen["pid"]).keys() - {thread["tid"] for thread in seen["vcpus"]}} == {("other", 0)}
    assert min(priority for _, priority in kernel_threads(seen["vcpus"][0]["pcpu"]).values()) > 3
    group = (Path("/proc") / str(seen["vcpus"][0]["tid"]) / "cgroup").read_text().partition(":cpu:")[2].partition("\n")[0]
    if (BUDGETS / "cpu.rt_runtime_us").exists():
        assert int((BUDGETS / group.lstrip("/") / "cpu.rt_runtime_us").read_text()) > 0
        assert set(budgets()) == set(before) | {str(BUDGETS / group.lstrip("/"))}
    quietcore("verify", "realtime")
    assert ("memory-not-locked" in warnings(quietcore)) == (locked_kb(seen["pid"]) == 0)  # without CAP_SYS_RESOURCE nobody may lock
    assert quietcore("run", "-f", manifest(tmp_path, priority=3)) == "vm/realtime unchanged\n"
    quietcore("delete", "realtime", "--now")
    assert (budgets(), kernel_threads(1)) == (before, threads_before)


def test_a_vm_above_every_kernel_thread_is_refused_and_only_a_named_risk_starts_it(quietcore, tmp_path):
    before, threads_before = budgets(), kernel_threads(1)
    error = quietcore.json("run", "-f", manifest(tmp_path, priority=99), expect=5)
    assert "cannot be raised above real-time priority 99" in error["errors"][0]["message"]
    assert "quietcore.io/allow-priority-inversion" in error["errors"][0]["hint"]
    assert (quietcore.owners(), budgets(), kernel_threads(1)) == ({}, before, threads_before)
    quietcore("run", "-f", manifest(tmp_path, priority=99, more=', quietcore.io/allow-priority-inversion: "true"'))
    assert "priority-inversion" in warnings(quietcore)
    assert "can hang this host" in quietcore.json("describe", "realtime")["limits"][-1]
