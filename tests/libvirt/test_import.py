"""A running libvirt domain through `quietcore import`: its manifest is valid and says what the VM is."""

from __future__ import annotations

import libvirt
import pytest
from tests.manifest_outcomes import FOLDER, spec_of
from tests.prerequisites import need_root

from lab.looking import PATIENCE_S

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(900)]
FOREIGN = """\
<domain type='qemu'>
  <name>Old Web</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><controller type='usb' model='none'/><serial type='pty'/><memballoon model='none'/><watchdog model='i6300esb'/></devices>
</domain>
"""


def imported(quietcore, *arguments):
    process = quietcore.start("import", *arguments)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def test_our_own_vm_comes_back_as_a_manifest_that_asks_for_the_same(quietcore, tmp_path):
    need_root()
    text = (FOLDER / "kubevirt-example-vmi-migratable.yaml").read_text()
    (tmp_path / "disk.raw").write_bytes(bytes(1 << 20))
    quietcore("image", "import", "registry:5000/kubevirt/alpine-container-disk-demo:devel", tmp_path / "disk.raw")
    (tmp_path / "vm.yaml").write_text(text)
    quietcore("run", "-f", tmp_path / "vm.yaml")
    code, out, err = imported(quietcore, "--domain", "default_vmi-migratable")
    assert code == 0, err
    before, back = spec_of(text), spec_of(out)
    kept = ("vm", "architecture", "graphics", "serial_console", "memory_balloon", "rng", "io_threads")
    assert {name: getattr(back, name) for name in kept} == {name: getattr(before, name) for name in kept}
    assert (back.memory.guest_bytes, back.cpu.topology) == (before.memory.guest_bytes, before.cpu.topology)
    assert [(one.binding, one.model) for one in back.interfaces] == [("masquerade", "virtio")]
    assert "is qcow2, and a hostDisk is raw" in err


def test_a_domain_of_somebody_else_is_read_while_it_runs(quietcore):
    connection = libvirt.open(quietcore.uri)
    try:
        domain = connection.createXML(FOREIGN, libvirt.VIR_DOMAIN_START_PAUSED)
        try:
            code, out, err = imported(quietcore, "--domain", "Old Web")
            missing = imported(quietcore, "--domain", "Nobody")
        finally:
            domain.destroy()
    finally:
        connection.close()
    assert (code, str(spec_of(out).vm)) == (0, "default/old-web")
    assert "note: the device <watchdog type='i6300esb'> has no equivalent" in err.splitlines()
    assert (missing[0], missing[1]) == (2, "")
    assert "libvirt has no domain Nobody" in missing[2]
    assert "Old Web" in missing[2]
