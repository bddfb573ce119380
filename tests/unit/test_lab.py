"""The pure parts of the lab: its machines, the choice of kernels, the initramfs, and what is said when it cannot run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import plugin, runner
from lab.errors import LabUnavailableError
from lab.initramfs import FILE, LINK, Member, archive, load_order, plain_name
from lab.kernels import candidates
from lab.machines import MACHINES, LabMachine, LabNode, machine_named, rows
from lab.qemu import kernel_arguments

CLONE = Path(__file__).parents[2]


def test_a_machine_whose_nodes_do_not_add_up_does_not_exist():
    with pytest.raises(ValueError, match="do not add up to its 4 CPUs"):
        LabMachine(name="odd", about="", sockets=1, cores=4, threads=1, nodes=(LabNode(cpus=3, memory_mib=64),))
    with pytest.raises(ValueError, match="splits a core"):
        LabMachine(name="odd", about="", sockets=1, cores=1, threads=2, nodes=(LabNode(cpus=1, memory_mib=64),) * 2)


def test_distances_are_near_within_a_socket_and_far_to_memory_without_cpus():
    big, uneven = machine_named("2s4n16c"), machine_named("uneven")
    assert [big.distance(0, other) for other in range(4)] == [10, 12, 21, 21]
    assert [uneven.distance(other, 3) for other in range(4)] == [31, 31, 31, 10]
    assert [str(uneven.cpus_of(node)) for node in range(4)] == ["0-3", "4-5", "6-7", ""]


def test_a_test_runs_on_the_newer_kernel_and_on_both_only_where_they_differ():
    assert [str(row) for row in rows(("2s4n16c", "uneven"), kernel_differs=False)] == ["2s4n16c-6.12", "uneven-6.12"]
    assert [str(row) for row in rows(("2s4n16c",), kernel_differs=True)] == ["2s4n16c-6.12", "2s4n16c-6.1"]
    with pytest.raises(ValueError, match=f"choose one of {', '.join(one.name for one in MACHINES)}"):
        rows(("toaster",), kernel_differs=False)


def test_the_newest_real_time_kernel_of_a_series_is_taken():
    names = [
        "linux-image-6.12-rt-amd64",
        "linux-image-6.12.9+deb12-rt-amd64",
        "linux-image-6.12.117+deb12-rt-amd64-unsigned",
        "linux-image-6.12.117+deb12-rt-amd64",
        "linux-image-6.12.117+deb12-rt-amd64-dbg",
        "linux-image-6.12.118+deb12-amd64",
        "linux-image-6.12.48+deb13-rt-amd64",
        "linux-image-6.1.0-56-rt-amd64",
    ]
    assert candidates("6.12", names)[:3] == (
        "linux-image-6.12.117+deb12-rt-amd64",
        "linux-image-6.12.117+deb12-rt-amd64-unsigned",
        "linux-image-6.12.48+deb13-rt-amd64",
    )
    assert candidates("6.1", names) == ("linux-image-6.1.0-56-rt-amd64",)
    assert candidates("5.10", names) == ()


def test_a_module_is_loaded_after_everything_that_it_needs():
    modules_dep = (
        "fs/9p.ko.xz: net/9pnet.ko.xz fs/netfs.ko.xz\nnet/9pnet.ko.xz:\nfs/netfs.ko.xz:\nnet/9pnet-virtio.ko.xz: net/9pnet.ko.xz\n"
    )
    assert load_order(modules_dep, ("9pnet_virtio", "9p", "built_in")) == (
        "net/9pnet.ko.xz",
        "net/9pnet-virtio.ko.xz",
        "fs/netfs.ko.xz",
        "fs/9p.ko.xz",
    )
    assert plain_name("fs/9p.ko.xz") == plain_name("fs/9p.ko") == "9p.ko"


def test_an_archive_is_what_the_kernel_expects_byte_for_byte():
    made = archive([Member(name="bin/sh", mode=LINK, content=b"busybox"), Member(name="a", mode=FILE, content=b"12345")])
    header = "070701" + "{:08X}" * 13
    members = [
        header.format(1, LINK, 0, 0, 1, 0, 7, 0, 0, 0, 0, 7, 0) + "bin/sh\0\0\0\0" + "busybox\0",
        header.format(2, FILE, 0, 0, 1, 0, 5, 0, 0, 0, 0, 2, 0) + "a\0" + "12345\0\0\0",
        header.format(3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0) + "TRAILER!!!\0\0\0\0",
    ]
    assert made == "".join(members).encode()


def test_isolation_and_hugepages_reach_the_kernels_command_line():
    words = kernel_arguments(machine_named("1s1n4c")).split()
    assert words[-6:] == [
        "isolcpus=managed_irq,domain,2-3",
        "nohz_full=2-3",
        "rcu_nocbs=2-3",
        "irqaffinity=0-1",
        "hugepagesz=2M",
        "hugepages=0:32",
    ]
    assert kernel_arguments(machine_named("uneven")).split()[-1] == "hugepages=0:64,1:16"


def test_too_little_memory_is_one_sentence(monkeypatch):
    monkeypatch.setattr(runner.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(runner, "available_memory_mib", lambda _: 3000)
    with pytest.raises(LabUnavailableError, match="machine 2s4n16c needs 5120 MiB of memory and 3000 MiB are available"):
        runner.check_prerequisites(machine_named("2s4n16c"))


def test_available_memory_is_the_kernels_own_estimate():
    assert runner.available_memory_mib("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable:   3145728 kB\n") == 3072


@pytest.mark.parametrize(("required", "status", "word"), [("", 0, "SKIPPED"), ("1", 1, "FAILED")])
def test_without_qemu_the_level_is_skipped_aloud_or_fails_when_it_is_required(tmp_path, required, status, word):
    environment = {"PATH": str(tmp_path), "QUIETCORE_TESTS_REQUIRE_ALL": required, "HOME": os.environ.get("HOME", "/")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/lab/test_machine.py", "-k", "smt_is_not"]
    done = subprocess.run(command, cwd=CLONE, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == status, done.stdout
    assert "the lab needs qemu-system-x86_64: run `apt-get install qemu-system-x86`" in done.stdout
    assert word in done.stdout


@pytest.mark.parametrize(
    ("running", "cpus", "memory_mib", "starts"),
    [
        ((), 1, 0, True),  # the lab itself says what it lacks
        (("uneven",), 1, 99_999, False),
        (("uneven",), 2, 3071 + 5120, False),
        (("uneven",), 2, 3072 + 5120, True),
        (("uneven", "uneven"), 2, 99_999, False),
    ],
)
def test_labs_run_at_once_where_cpus_and_memory_suffice_for_all_of_them(monkeypatch, running, cpus, memory_mib, starts):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    uneven, largest = rows(("uneven", "2s4n16c"), kernel_differs=False)
    assert plugin.has_room([uneven for _ in running], largest, memory_mib) is starts
