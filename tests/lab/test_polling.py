"""A guest that polls at real-time priority takes its CPU for good; the host around it has to go on working.

The guest is a boot sector that says P on its serial port and then loops with interrupts off. Its priority is above what the kernel
gives its own per-CPU threads at boot, so without them being raised each of these operations would wait for ever.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from lab import product
from lab.inside import allowed, run_time_ns
from lab.looking import PATIENCE_S, eventually, read, tasks
from quietcore.model import CpuSet

pytestmark = pytest.mark.lab
PRIORITY = 10
BOOT_SECTOR = bytes([0xBA, 0xF8, 0x03, 0xB0, ord("P"), 0xEE, 0xFA, 0xEB, 0xFE])  # mov dx,3f8h; mov al,'P'; out dx,al; cli; jmp $
THROTTLE = Path("/proc/sys/kernel/sched_rt_runtime_us")
FAIR_SERVERS = Path("/sys/kernel/debug/sched/fair_server")
TRACE = Path("/sys/kernel/tracing/instances/polling")
PER_CPU = ("ksoftirqd", "rcuc", "ktimers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("polling")


@pytest.fixture(scope="module")
def standing(hypervisor, folder):
    """The VM that tests share: two vCPUs, of which vCPU 0 polls as SCHED_FIFO 10. When it has ended, the host is as before."""
    disk = folder / "disk"
    disk.write_bytes(BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    before = host_state()

    def start(name, *, off):
        product.configure(f"{product.HERE}[realtime]\nallow_host_settings = {str(off).lower()}\n")
        file = folder / f"{name}.yaml"
        file.write_text(manifest(name, disk))
        answer = product.quietcore("run", "-f", str(file))
        assert answer.code == 0, answer.err + answer.out
        console = Path(f"/var/lib/quietcore/vms/default_{name}/console.log")
        eventually(lambda: "P" in console.read_text(errors="replace"), "the guest does not reach its loop")
        return product.RunningVm.of(name)

    def as_before():
        assert host_state() == before
        assert hypervisor.listAllDomains() == []

    one = product.Standing(start, ended=as_before)
    yield one
    one.end()


@pytest.fixture(scope="module", params=["the kernel's safeties are on", "the kernel's safeties are off"])
def off(request):
    """Whether the VM may switch the kernel's safeties off."""
    return request.param.endswith("off")


@pytest.fixture
def polling(standing, off):
    with standing.lent("polling", off=off) as vm:
        yield vm


def manifest(name, disk):
    shape = json.loads(
        product.manifest(
            name,
            topology=(1, 2, 1),
            hugepages=True,
            cpu={"numa": {"guestMappingPassthrough": {}}, "realtime": {"mask": "0-1,^1"}},
        )
    )
    shape["metadata"]["annotations"] = {"quietcore.io/realtime-priority": str(PRIORITY)}
    shape["spec"]["domain"]["devices"]["disks"] = [{"name": "boot", "disk": {"bus": "virtio"}}]
    shape["spec"]["volumes"] = [{"name": "boot", "hostDisk": {"path": str(disk), "type": "Disk"}}]
    return json.dumps(shape)


def host_state():
    """What a real-time VM changes of the host: throttling, fair servers, the kernel's own threads of every CPU."""
    files = [THROTTLE, *sorted(FAIR_SERVERS.glob("cpu*/runtime"))]
    return {str(file): read(file) for file in files} | kernel_threads(CpuSet.range(os.cpu_count() or 1))


def kernel_threads(cpus):
    names = {f"{name}/{cpu}" for cpu in cpus for name in PER_CPU}
    found = {comm: tid for tid, comm in tasks().items() if comm in names}
    return {comm: (os.sched_getscheduler(tid), os.sched_getparam(tid).sched_priority) for comm, tid in found.items()}


def completes(*command):
    """Run a program of its own, so that one that hangs in the kernel is seen from outside."""
    done = subprocess.run(command, timeout=PATIENCE_S, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_host_goes_on_working_beside_a_polling_real_time_vcpu(polling, off, tmp_path):
    tid, cpu = polling.vcpu_tids[0], polling.pcpus[0]
    assert (os.sched_getscheduler(tid), os.sched_getparam(tid).sched_priority) == (os.SCHED_FIFO, PRIORITY)
    assert os.sched_getscheduler(polling.vcpu_tids[1]) == os.SCHED_OTHER
    assert {priority for _, priority in kernel_threads([cpu]).values()} == {PRIORITY + 1}
    assert (read(THROTTLE) == "-1", read(FAIR_SERVERS / f"cpu{cpu}/runtime") == "0") == (off, off)
    assert any("fair server" in limit for limit in polling.described["limits"]) != off
    ran = run_time_ns(tid)

    completes("sh", "-c", "echo 1 > /proc/sys/vm/drop_caches")
    completes("modprobe", "dummy")
    completes("modprobe", "-r", "dummy")
    enable = TRACE / "events/sched/sched_switch/enable"
    completes("sh", "-c", f"mkdir {TRACE} && echo 1 > {enable} && echo 0 > {enable} && rmdir {TRACE}")
    second = product.start(tmp_path, "second", topology=(1, 2, 1))
    assert second.dedicated.isdisjoint(polling.dedicated)
    assert product.quietcore("delete", "second", "--now").code == 0

    eventually(lambda: run_time_ns(tid) > ran, "the polling vCPU does not run")
    answer = product.quietcore("verify", "polling", "-o", "json")
    assert [one for one in answer.value["findings"] if one["severity"] != "info"] == []


def test_its_memory_is_locked_and_no_other_thread_may_use_its_cpus(polling):
    (locked,) = (int(line.split()[1]) for line in read(f"/proc/{polling.pid}/status").splitlines() if line.startswith("VmLck:"))
    assert locked > 0
    assert all(allowed(tid).isdisjoint(polling.dedicated) for tid in polling.other_tids)  # also the thread that preallocated the hugepages


def test_a_kernel_thread_that_somebody_lowered_is_found_and_raised_again(polling, folder):
    lowered = f"rcuc/{polling.pcpus[0]}"
    (tid,) = (tid for tid, comm in tasks().items() if comm == lowered)
    os.sched_setscheduler(tid, os.SCHED_FIFO, os.sched_param(1))
    answer = product.quietcore("verify", "polling", "-o", "json")
    found = [(one["code"], one["severity"], one["subject"]["id"]) for one in answer.value["findings"] if one["severity"] == "error"]
    assert (answer.code, found) == (1, [("priority-inversion", "error", f"{tid} ({lowered})")])
    assert product.quietcore("run", "-f", str(folder / "polling.yaml")).code == 0
    assert os.sched_getparam(tid).sched_priority == PRIORITY + 1
    assert product.quietcore("verify", "polling").code == 0
