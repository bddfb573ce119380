"""The runner itself, from outside: exit statuses, the read-write folder, and labs that hang or never boot. Each test boots a small lab."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.prerequisites import missing

from lab import initramfs, runner
from lab.errors import LabUnavailableError
from lab.machines import NEWER, LabMachine, LabNode, Row
from lab.runner import EXIT_BROKEN, EXIT_TIMED_OUT, Job, Lab

SMALL = LabMachine(
    name="small", about="for the runner's own tests", sockets=1, cores=2, threads=1, nodes=(LabNode(cpus=2, memory_mib=768),)
)
JOB = Job(row=Row(machine=SMALL, series=NEWER), command="true")


@pytest.fixture(autouse=True)
def _prerequisites():
    try:
        runner.check_prerequisites(SMALL)
    except LabUnavailableError as err:
        missing(str(err))


def run(job, output=None):
    with Lab(job, output=output) as lab:
        return lab.run()


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_the_commands_status_and_output_come_out_and_only_the_shared_folder_is_written(tmp_path):
    shared, printed, outside = tmp_path / "shared", tmp_path / "printed", tmp_path / "outside"
    shared.mkdir()
    command = f"echo hello $NAME; echo result >/out/result; echo lost >{outside}; ls {outside}; exit 7"
    with printed.open("wb") as output:
        outcome = run(replace(JOB, command=command, shared=shared, environment={"NAME": "o'world"}, folder=tmp_path), output)
    assert (outcome.status, outcome.failure) == (7, "")
    assert printed.read_text().splitlines() == ["hello o'world", str(outside)]
    assert ((shared / "result").read_text(), outside.exists()) == ("result\n", False)


def test_a_hung_lab_is_killed_at_its_limit_and_its_console_is_shown():
    with Lab(replace(JOB, command="echo '<3>about to hang' >/dev/kmsg; sleep infinity", limit_s=10)) as lab:
        outcome = lab.run()
        pid = lab.pid
    assert (outcome.status, outcome.failure) == (EXIT_TIMED_OUT, "the lab hung: killed after 10 s")
    assert "about to hang" in outcome.console
    assert not alive(pid)


def test_a_lab_that_is_heard_of_is_not_killed():
    with Lab(replace(JOB, command="sleep 12; exit 5", limit_s=8)) as lab:
        while (outcome := lab.advance()) is None:
            lab.heard()
            time.sleep(0.1)
    assert (outcome.status, outcome.failure) == (5, "")


def test_a_kernel_that_dies_after_the_shell_is_not_booted_again():
    outcome = run(replace(JOB, command="echo c >/proc/sysrq-trigger; sleep 60"))
    assert (outcome.status, outcome.failure) == (EXIT_BROKEN, "the lab's kernel died while the command ran")
    assert "sysrq triggered crash" in outcome.console.lower()


def test_a_boot_that_dies_before_the_shell_is_repeated_twice_and_counted(monkeypatch):
    monkeypatch.setattr(initramfs, "MODULES", ("virtio_pci", "virtio_console", "overlay"))  # nothing that reaches the shared root
    outcome = run(JOB)
    assert (outcome.status, outcome.boots) == (EXIT_BROKEN, 3)
    assert outcome.failure.startswith("the lab died before its shell was reached, 3 times")
    assert "the host's root could not be mounted" in outcome.console


def test_a_second_boot_is_enough_where_only_the_first_one_dies(monkeypatch):
    build, broken = initramfs.build, []

    def once_broken(*words, **named):
        if not broken:
            broken.append(True)
            return b"no initramfs"
        return build(*words, **named)

    monkeypatch.setattr(initramfs, "build", once_broken)
    outcome = run(replace(JOB, command="exit 3"))
    assert (outcome.status, outcome.failure) == (3, "")
    assert outcome.boots >= 2


def test_leaving_early_leaves_no_process_behind():
    with Lab(replace(JOB, command="sleep infinity")) as lab:
        while lab.pid is None:
            lab.advance()
            time.sleep(0.1)
        pid = lab.pid
        assert alive(pid)
    assert not alive(pid)
