"""What is read of a host, from recorded kernel files and from the running kernel: threads, cgroups, partitions, interrupts, KVM."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from quietcore.host import cgroups
from quietcore.host.cgroups import Groups, Hierarchy, Probe
from quietcore.host.fs import HostFs
from quietcore.host.irqs import irqs
from quietcore.host.kvm import detect
from quietcore.host.threads import KernelThreads, census, cgroup_of, cpu_kthreads, foreign_tasks, process_of
from quietcore.isolation import ForeignTask, IrqFact
from quietcore.model import CpuSet, HostThread, Policy
from tests.machine_trees import write_tree
from tests.shell.fake_host import FakeFs, Faults

ALL = CpuSet.range(8)
V2 = Hierarchy(version=2, mount="/sys/fs/cgroup", writable=True, systemd=False)


class Recorded:
    """A scheduler's answers as they were once given; a thread in `gone` ended between two questions."""

    def __init__(self, gone: tuple[int, ...] = (), policies: dict[int, tuple[Policy, int]] | None = None) -> None:
        self.gone = gone
        self.policies = policies or {}

    def affinity(self, tid: int) -> CpuSet:
        if tid in self.gone:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        return ALL

    def scheduler(self, tid: int) -> tuple[Policy, int]:
        if tid in self.gone:
            raise ProcessLookupError(errno.ESRCH, "No such process")
        return self.policies.get(tid, ("other", 0))

    def set_affinity(self, tid: int, cpus: CpuSet) -> None:
        raise AssertionError("reading changes nothing")

    def set_scheduler(self, tid: int, policy: Policy, priority: int) -> None:
        raise AssertionError("reading changes nothing")


def task(pid: int, tid: int, comm: str, *, cgroup: str = "0::/vm/emulator", flags: int = 0x400040, allowed: str = "0-7") -> dict[str, str]:
    """One thread's files; `stat` begins as in Linux 6.12, with the name in it as it is."""
    files = {
        "comm": f"{comm}\n",
        "cgroup": f"{cgroup}\n",
        "status": f"Name:\t{comm}\nUmask:\t0022\nTgid:\t{pid}\nPid:\t{tid}\nCpus_allowed:\tff\nCpus_allowed_list:\t{allowed}\n",
        "stat": f"{tid} ({comm}) S 1 {pid} {pid} 0 -1 {flags} 1 0 0 0 0 0 0 0 20 0 1 0 90 0 0\n",
    }
    folders = {f"proc/{pid}/task/{tid}", *([f"proc/{pid}"] if tid == pid else [])}  # /proc lists processes only
    return {f"{folder}/{name}": text for folder in folders for name, text in files.items()}


@pytest.fixture
def host(tmp_path):
    """A folder that a test fills: `host(files)` gives its HostFs."""

    def made(files: dict[str, str]) -> HostFs:
        write_tree(tmp_path, files)
        return HostFs(tmp_path)

    return made


def test_a_census_knows_each_thread_by_qemus_answer_and_the_kernels_own_by_name(host):
    files = task(100, 100, "qemu-system-x86") | task(100, 101, "CPU 0/KVM", cgroup="0::/vm/vcpu0") | task(100, 102, "CPU 9) S (x")
    files |= task(100, 103, "IO iothread1", cgroup="0::/vm/iothread1") | task(100, 104, "worker") | task(100, 105, "IO mon_iothread")
    files |= (
        task(100, 106, "vhost-100")
        | task(100, 107, "live_migration")
        | task(100, 108, "mig/src/send_0")
        | task(200, 200, "vhost-100", cgroup="0::/vm/emulator")
        | task(201, 201, "kvm-pit/100", cgroup="0::/")
    )
    files |= task(202, 202, "kvm-nx-lpage-recovery-100") | task(203, 203, "vhost-1001") | task(204, 204, "kvm-pit/1")
    seen = census(host(files), Recorded(policies={101: ("fifo", 1)}), 100, vcpus={101: 0, 102: 1}, iothreads={103: 1}, version=2)
    assert seen.pid == 100
    assert [(one.tid, one.role, one.vcpu, one.iothread, one.kernel) for one in seen.threads] == [
        (100, "emulator", None, None, False),
        (101, "vcpu", 0, None, False),
        (102, "vcpu", 1, None, False),
        (103, "iothread", None, 1, False),
        (104, "worker", None, None, False),
        (105, "monitor", None, None, False),
        (106, "vhost", None, None, False),
        (107, "migration", None, None, False),
        (108, "migration", None, None, False),
        (200, "vhost", None, None, True),
        (201, "pit", None, None, True),
        (202, "worker", None, None, True),
    ]
    assert seen.vcpus[0] == HostThread(
        tid=101, comm="CPU 0/KVM", role="vcpu", allowed=ALL, cgroup="/vm/vcpu0", policy="fifo", priority=1, vcpu=0
    )
    assert seen.vcpus[1].comm == "CPU 9) S (x"


def test_threads_that_end_while_we_look_are_left_out(host, tmp_path):
    fs = host(task(100, 100, "qemu") | task(100, 101, "worker") | task(100, 102, "worker"))
    (tmp_path / "proc/100/task/102/comm").unlink()
    seen = census(fs, Recorded(gone=(101,)), 100, vcpus={}, iothreads={}, version=2)
    assert [one.tid for one in seen.threads] == [100]
    with pytest.raises(ProcessLookupError, match="process 99 is gone"):
        census(fs, Recorded(), 99, vcpus={}, iothreads={}, version=2)


@pytest.mark.parametrize(
    ("text", "version", "group"),
    [
        ("0::/machine/vm/vcpu0\n", 2, "/machine/vm/vcpu0"),
        ("12:cpuset:/machine/vm\n5:cpu,cpuacct:/other\n0::/unified\n", 1, "/machine/vm"),
        ("12:cpuset:/machine/vm\n5:cpu,cpuacct:/other\n0::/unified\n", 2, "/unified"),
        ("3:cpuset,cpu:/a:b\n", 1, "/a:b"),
        ("5:cpu:/other\n", 1, "/"),
        ("", 2, "/"),
    ],
)
def test_the_cgroup_that_counts_is_the_one_with_cpuset(text, version, group):
    assert cgroup_of(text, version) == group


def test_a_task_of_the_host_counts_where_it_is_allowed_and_could_be_moved(host):
    files = task(1, 1, "systemd") | task(2, 2, "kthreadd", flags=0x208040) | task(15, 15, "ksoftirqd/1", flags=0x4208040, allowed="1")
    files |= (
        task(50, 50, "a) R (b", allowed="0-1")
        | task(50, 51, "elsewhere", allowed="0")
        | task(100, 100, "qemu")
        | task(160, 160, "vhost-100")
    )
    found = foreign_tasks(host(files), CpuSet.parse("1-2"), own={100, 160})
    assert sorted(found, key=lambda one: one.tid) == [
        ForeignTask(tid=1, comm="systemd", allowed=ALL),
        ForeignTask(tid=2, comm="kthreadd", allowed=ALL, kernel=True),
        ForeignTask(tid=50, comm="a) R (b", allowed=CpuSet.of(0, 1)),
    ]


def test_the_kernel_threads_of_a_cpu_are_found_by_name_and_rcub_by_being_there(host):
    files = (
        task(15, 15, "ksoftirqd/1")
        | task(16, 16, "ksoftirqd/11")
        | task(17, 17, "rcuc/1")
        | task(18, 18, "rcub/0")
        | task(19, 19, "ktimers/1")
    )
    found = cpu_kthreads(host(files), Recorded(gone=(19,), policies={17: ("fifo", 1)}), CpuSet.of(1))
    assert [(one.tid, one.comm, one.policy, one.priority, one.kernel) for one in found] == [
        (15, "ksoftirqd/1", "other", 0, True),
        (17, "rcuc/1", "fifo", 1, True),
        (18, "rcub/0", "other", 0, True),
    ]


def test_the_running_kernel_answers_for_this_process():
    control, me = KernelThreads(), threading.get_native_id()
    before = control.affinity(me)
    try:
        control.set_affinity(me, CpuSet.of(before.highest))
        seen = census(HostFs(), control, os.getpid(), vcpus={me: 0}, iothreads={}, version=cgroups.hierarchy(HostFs()).version)
        assert (seen.vcpus[0].tid, seen.vcpus[0].allowed) == (me, CpuSet.of(before.highest))
        assert process_of(HostFs(), me) == os.getpid()
    finally:
        control.set_affinity(me, before)
    assert control.scheduler(me) == ("other", 0)
    with pytest.raises(ProcessLookupError):
        control.affinity(1 << 22)


CGROUP1 = "cgroup /sys/fs/cgroup/cpuset cgroup rw,nosuid,cpuset 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n"
CGROUP2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n"
UNIFIED = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "controllers", "expected"),
    [
        (CGROUP2, "cpuset cpu io", Hierarchy(version=2, mount="/sys/fs/cgroup", writable=True, systemd=False)),
        (CGROUP2.replace("rw", "ro"), "cpuset", Hierarchy(version=2, mount="/sys/fs/cgroup", writable=False, systemd=False)),
        (CGROUP2, "cpu io", Hierarchy(version=2, mount="", writable=False, systemd=False)),
        (CGROUP1, "", Hierarchy(version=1, mount="/sys/fs/cgroup/cpuset", writable=True, systemd=False)),
        (UNIFIED + CGROUP1, "", Hierarchy(version=1, mount="/sys/fs/cgroup/cpuset", writable=True, systemd=False)),
        ("proc /proc proc rw 0 0\n", "", Hierarchy(version=2, mount="", writable=False, systemd=False)),
        ("", "", Hierarchy(version=2, mount="", writable=False, systemd=False)),
    ],
    ids=["v2", "read-only", "v2 without cpuset", "v1", "hybrid", "no cgroups", "no mounts"],
)
def test_the_hierarchy_is_the_mounted_one_with_cpuset(host, mounts, controllers, expected):
    fs = host({"proc/self/mounts": mounts, "sys/fs/cgroup/cgroup.controllers": controllers})
    assert cgroups.hierarchy(fs) == expected


def fake_tree(tmp_path: Path, **kind: object) -> FakeFs:
    fs = FakeFs(tmp_path, Faults(), **{"version": 2, "partitions": True} | kind)
    fs.path(fs.mount).mkdir(parents=True)
    fs.furnish(fs.mount)
    fs.path(f"{fs.mount}/cpuset.cpus").write_text("0-7\n")
    return fs


def test_a_probe_says_whether_partitions_work_and_leaves_nothing(tmp_path):
    fs = fake_tree(tmp_path)
    assert cgroups.probe_partitions(fs, V2, 3) == Probe(works=True)
    assert not fs.exists("/sys/fs/cgroup/quietcore-probe")


def test_a_kernel_without_exclusive_lists_is_told_by_the_missing_file(tmp_path):
    fs = fake_tree(tmp_path, partitions=False)
    found = cgroups.probe_partitions(fs, V2, 3)
    assert (found.works, found.why_not) == (False, "this kernel has no cpuset.cpus.exclusive")


def test_a_probe_that_was_killed_is_swept_first(tmp_path):
    fs = fake_tree(tmp_path)
    for group in ("/sys/fs/cgroup/quietcore-probe", "/sys/fs/cgroup/quietcore-probe/inner"):
        fs.mkdir(group)
    assert cgroups.probe_partitions(fs, V2, 3).works


def test_a_kernel_that_takes_the_write_and_does_not_mean_it_is_quoted(tmp_path):
    class Polite(FakeFs):
        def write(self, path: str, text: str) -> None:
            super().write(path, text)
            if path.endswith("cpuset.cpus.partition"):
                self.path(path).write_text("isolated invalid (Cpu list in cpuset.cpus not exclusive)\n")

    fs = fake_tree(tmp_path)
    fs.__class__ = Polite
    found = cgroups.probe_partitions(fs, V2, 3)
    assert found.why_not == "the kernel answered 'isolated invalid (Cpu list in cpuset.cpus not exclusive)' to a scratch partition"


@pytest.mark.parametrize(
    ("tree", "why_not"),
    [
        (Hierarchy(version=1, mount="/x", writable=True, systemd=False), "cgroup v1 has no isolated partitions"),
        (Hierarchy(version=2, mount="", writable=False, systemd=False), "no cgroup can be written"),
    ],
)
def test_where_no_partition_can_be_tried_the_reason_is_said(host, tree, why_not):
    assert cgroups.probe_partitions(host({}), tree, 1) == Probe(works=False, why_not=why_not)


def test_libvirts_groups_are_recognised_and_their_facts_read(host):
    home = "sys/fs/cgroup/machine.slice/vm/libvirt"
    files = {f"{home}/{group}/cpu.weight": "100\n" for group in ("vcpu0", "vcpu1", "emulator", "iothread2", "vcpus")}
    files |= {
        f"{home}/vcpu0/cpuset.cpus.partition": "isolated\n",
        f"{home}/vcpu1/cpu.max": "20000 100000\n",
        f"{home}/emulator/cpu.max": "20000 100000\n",
        f"{home}/cpuset.cpus.exclusive": "4\n",
        "sys/fs/cgroup/machine.slice/cpuset.cpus.exclusive": "4,6\n",
        "sys/fs/cgroup/machine.slice/cpu.max": "50000 100000\n",
        "sys/fs/cgroup/machine.slice/vm/cpu.max": "max 100000\n",
        "sys/fs/cgroup/cpuset.cpus.effective": "0-3,5-7\n",
        "sys/fs/cgroup/cpuset.mems.effective": "0-1\n",
    }
    fs = host(files | task(100, 100, "qemu", cgroup="0::/machine.slice/vm/libvirt/emulator"))
    seen = census(fs, Recorded(), 100, vcpus={}, iothreads={}, version=2)
    groups = cgroups.groups_of(fs, V2, seen, "default_a")
    top = "/machine.slice/vm/libvirt"
    assert groups == Groups(
        layout="libvirt", home=top, vcpus={0: f"{top}/vcpu0", 1: f"{top}/vcpu1"}, io={2: f"{top}/iothread2"}, emulator=f"{top}/emulator"
    )
    facts = cgroups.facts(fs, V2, groups, Probe(works=True))
    assert (facts.partitions, facts.weights, str(facts.root_cpus), facts.root_mems) == (True, True, "0-3,5-7", "0-1")
    assert facts.levels == ("/machine.slice", "/machine.slice/vm", top)
    assert facts.exclusive == {"/machine.slice": CpuSet.of(4, 6), top: CpuSet.of(4)}
    assert facts.partition_states == {f"{top}/vcpu0": "isolated"}
    assert facts.quotas == {"/machine.slice": "50000 100000", f"{top}/vcpu1": "20000 100000"}


@pytest.mark.parametrize(
    ("vcpu", "levels", "quotas"),
    [
        ("/system.slice/libvirtd.service", ("/system.slice", "/system.slice/libvirtd.service"), {"/system.slice": "50000"}),
        ("/machine/vm/vcpu0", ("/machine", "/machine/vm", "/machine/vm/vcpu0"), {"/machine/vm/vcpu0": "20000"}),
    ],
)
def test_on_cgroup_v1_quotas_count_where_the_vcpus_stand_in_the_cpu_hierarchy(host, vcpu, levels, quotas):
    files = {f"sys/fs/cgroup/cpu,cpuacct{group}/cpu.cfs_quota_us": "-1\n" for group in (*levels, "/machine/vm/emulator")}
    files |= {
        "proc/self/mounts": CGROUP1,
        "sys/fs/cgroup/cpu,cpuacct/system.slice/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/machine/vm/vcpu0/cpu.cfs_quota_us": "20000\n",
        "sys/fs/cgroup/cpu,cpuacct/quietcore/default_a/cpu.cfs_quota_us": "10000\n",  # the cpuset's path means nothing here
    }
    files |= task(100, 100, "qemu", cgroup="4:cpuset:/\n5:cpu,cpuacct:/machine/vm/emulator")
    files |= task(100, 101, "CPU 0/KVM", cgroup=f"4:cpuset:/\n5:cpu,cpuacct:{vcpu}")
    files["proc/101/cgroup"] = files["proc/100/task/101/cgroup"]  # not listed, but there
    fs = host(files)
    tree = cgroups.hierarchy(fs)
    seen = census(fs, Recorded(), 100, vcpus={101: 0}, iothreads={}, version=1)
    facts = cgroups.facts(fs, tree, cgroups.groups_of(fs, tree, seen, "default_a"), Probe(works=False))
    assert (facts.quota_groups, facts.quotas) == (levels, quotas)


@pytest.mark.parametrize(
    ("tree", "layout", "home"),
    [
        (V2, "bare", "/quietcore/default_a"),
        (Hierarchy(version=2, mount="/sys/fs/cgroup", writable=True, systemd=True), "none", "/"),
        (Hierarchy(version=1, mount="/sys/fs/cgroup", writable=True, systemd=True), "bare", "/quietcore/default_a"),
        (Hierarchy(version=2, mount="/sys/fs/cgroup", writable=False, systemd=False), "none", "/"),
    ],
)
def test_where_libvirt_made_no_groups_ours_are_made_unless_systemd_would_drop_them(host, tree, layout, home):
    fs = host(task(100, 100, "qemu", cgroup="0::/"))
    groups = cgroups.groups_of(fs, tree, census(fs, Recorded(), 100, vcpus={}, iothreads={}, version=2), "default_a")
    assert (groups.layout, groups.home, bool(groups.why_none)) == (layout, home, layout == "none")
    facts = cgroups.facts(fs, tree, groups, Probe(works=True))
    assert (facts.partitions, facts.why_not) == (layout != "none", groups.why_none)


def test_interrupts_with_a_device_behind_them_are_listed(host):
    files = {f"proc/irq/{irq}/smp_affinity_list": f"{cpus}\n" for irq, cpus in ((0, "0-7"), (24, "3"), (25, "0-1"), (30, "5"))}
    files |= {f"sys/kernel/irq/{irq}/actions": f"{name}\n" for irq, name in ((24, "eth0-rx-0"), (25, "nvme0q1"), (0, ""))}
    files |= {"proc/irq/default_smp_affinity": "ff\n", "sys/kernel/debug/irq/irqs/25": "dstate: 0x1\n    IRQD_AFFINITY_MANAGED\n"}
    assert irqs(host(files)) == (
        IrqFact(irq=24, name="eth0-rx-0", allowed=CpuSet.of(3)),
        IrqFact(irq=25, name="nvme0q1", allowed=CpuSet.of(0, 1), managed=True),
    )


def test_a_container_without_interrupts_has_none(host):
    assert irqs(host({})) == ()


def test_a_device_that_is_not_kvm_is_no_kvm():
    assert detect(device="/dev/null").reason == "/dev/null: Inappropriate ioctl for device"


def test_kernel_files_are_written_in_one_piece_and_must_exist(host, tmp_path):
    fs = host({"sys/a": "old\n", "sys/b/c": "\xff"})
    fs.write("/sys/a", "new")
    assert (fs.read("/sys/a"), fs.read_or("/sys/none", "-"), fs.listdir("/sys")) == ("new\n", "-", ["a", "b"])
    with pytest.raises(FileNotFoundError):
        fs.write("/sys/none", "1")
    (tmp_path / "sys/a").write_bytes(b"\xff")
    assert fs.read("/sys/a") == "\ufffd"
    assert (fs.exists("/sys/a"), fs.is_dir("/sys/b"), fs.is_dir("/sys/a")) == (True, True, False)
    fs.mkdir("/sys/d")
    fs.rmdir("/sys/d")
    assert not fs.exists("/sys/d")
