"""scripts/start_libvirt.py without systemd, in a mount namespace of its own with empty folders of libvirt's."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.prerequisites import need_programs, need_root

from lab.looking import PATIENCE_S
from quietcore.host.kvm import detect

SCRIPT = Path(__file__).parents[2] / "scripts/start_libvirt.py"
DOMAIN = """
<domain type='qemu'>
  <name>start-test</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
</domain>
"""


def end(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


@pytest.fixture
def started(tmp_path_factory):
    """What two runs of the script said, the pid of libvirtd, and its address."""
    need_root()
    need_programs("libvirtd", "virtlogd", "qemu-system-x86_64", "unshare")
    from tests.libvirt.daemon import PRIVATE, folders, machine_cgroups, remove_cgroups, uri_of

    root = tmp_path_factory.mktemp("started")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o755)  # QEMU's user has to come through
    before = machine_cgroups()
    folders(root)
    own_run = "mount -t tmpfs -o mode=755 run /run\n"
    owners = "chown libvirt-qemu:kvm /var/lib/libvirt/qemu /var/cache/libvirt/qemu\n"
    script = (
        own_run
        + PRIVATE.format(root=root)
        + owners
        + f"{sys.executable} {SCRIPT}; {sys.executable} {SCRIPT}; echo $(cat /run/libvirtd.pid) $(cat /run/virtlogd.pid)"
    )
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    )
    *said, pids = done.stdout.splitlines()
    daemon, log_daemon = pids.split()
    try:
        yield said, int(daemon), uri_of(root)
    finally:
        end(int(daemon))
        end(int(log_daemon))
        remove_cgroups(machine_cgroups() - before)


def test_libvirt_is_started_once_and_creates_vms_with_a_dev_that_fits_qemus_user(started):
    import libvirt

    said, daemon, uri = started
    kvm = detect().domain_type == "kvm" or not Path("/dev/kvm").exists()
    assert said[0] == "libvirt: starting virtlogd (no systemd here)"
    assert ("with a /dev of its own, without kvm" in said[1]) == (not kvm)
    assert said[2].startswith("libvirt: answers after")
    assert said[3:] == ["libvirt: runs already; left alone"]
    assert Path(f"/proc/{daemon}/root/dev/kvm").exists() == (kvm and Path("/dev/kvm").exists())
    connection = libvirt.open(uri)
    domain = connection.createXML(DOMAIN, libvirt.VIR_DOMAIN_START_PAUSED)
    assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    domain.destroy()
    connection.close()
