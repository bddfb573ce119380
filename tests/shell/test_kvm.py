"""KVM counts as working only when QEMU itself starts with it."""

from pathlib import Path

import pytest

from quietcore.host.kvm import detect, qemus_refusal


@pytest.fixture
def emulator(tmp_path):
    def made(script):
        path = tmp_path / "qemu"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return made


def test_a_qemu_that_starts_and_quits_refuses_nothing(emulator):
    assert qemus_refusal(emulator("cat >/dev/null")) == ""


def test_a_qemu_that_dies_is_quoted_with_its_first_line(emulator):
    assert qemus_refusal(emulator("cat >/dev/null; echo 'qemu: error: failed to set MSR 0x10a' >&2; kill -ABRT $$")) == (
        "qemu: error: failed to set MSR 0x10a"
    )
    assert qemus_refusal(emulator("exit 3")) == "exit code 3"


def test_a_host_without_the_device_has_no_kvm(tmp_path):
    found = detect(device=str(tmp_path / "kvm"))
    assert (found.domain_type, found.reason) == ("qemu", f"{tmp_path / 'kvm'}: No such file or directory")


def test_without_an_emulator_nothing_is_claimed_about_it():
    assert qemus_refusal(str(Path("/no/such/qemu"))) == ""
