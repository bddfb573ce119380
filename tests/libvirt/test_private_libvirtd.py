"""The private libvirtd of these tests: its domains really have, or lack, cgroups of libvirt's own."""

from pathlib import Path

import libvirt

DOMAIN = """
<domain type='qemu'>
  <name>private</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices>
</domain>
"""


def cgroups_of(pid):
    return {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}


def test_domains_live_where_the_configuration_says(libvirt_daemon, request):
    connection = libvirt.open(libvirt_daemon.uri)
    domain = connection.createXML(DOMAIN, libvirt.VIR_DOMAIN_START_PAUSED)
    try:
        (pid_file,) = (libvirt_daemon.root / "run/qemu").glob("private.pid")
        own = any("/machine/" in group for group in cgroups_of(int(pid_file.read_text())))
        assert own == ("libvirt's own cgroups" in request.node.name)
    finally:
        domain.destroy()
        connection.close()
