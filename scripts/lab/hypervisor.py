"""libvirtd inside a lab, with or without systemd: configured for QEMU as root without KVM, started, and stopped again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from lab.looking import eventually

CONFIGURATION: Final = Path("/etc/libvirt")
LIBVIRTD_CONF: Final = 'auth_unix_rw = "none"\nauth_unix_ro = "none"\nunix_sock_rw_perms = "0700"\nlog_level = 3\n'
# user root: with another user that cannot open /dev/kvm libvirt probes QEMU again and again (55 s for the first definition).
# remember_owner 0: the overlay has no extended attributes for it. stdio_handler file: there is no virtlogd.
QEMU_CONF: Final = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nremember_owner = 0\nnamespaces = []\nstdio_handler = "file"\n'
SOCKET: Final = Path("/run/libvirt/libvirt-sock")
UNUSED: Final = ("qemu-system-i386",)
"""Before it answers, libvirt asks each emulator that it finds for its capabilities, seconds each, and no setting keeps it from that."""


@contextmanager
def libvirtd() -> Iterator[Path]:
    """Run libvirtd for as long as the context lasts; the path of its log. Its domains are not stopped with it."""
    for name in UNUSED:
        if program := shutil.which(name):
            subprocess.run(["mount", "--bind", "/dev/null", program], check=True)  # no program: libvirt passes it over
    (CONFIGURATION / "libvirtd.conf").write_text(LIBVIRTD_CONF)
    (CONFIGURATION / "qemu.conf").write_text(QEMU_CONF)
    shutil.rmtree(CONFIGURATION / "qemu/networks/autostart", ignore_errors=True)
    Path("/run/libvirt").mkdir(exist_ok=True)
    log = Path("/run/lab-libvirtd.log")
    with log.open("ab") as output:
        daemon = subprocess.Popen(["libvirtd"], stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        eventually(lambda: SOCKET.exists() or daemon.poll() is not None, "libvirtd opens no socket")
        assert daemon.poll() is None, log.read_text()
        yield log
    finally:
        daemon.terminate()
        daemon.wait()


def start_machined() -> None:
    """Let systemd start the system bus and machined, without the rest of the host's boot that they ask for."""
    Path("/run/dbus").mkdir(exist_ok=True)
    units = ["dbus.socket", "dbus.service", "systemd-machined.service"]
    subprocess.run(["systemctl", "start", "--job-mode=ignore-dependencies", *units], check=True)
