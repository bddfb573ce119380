"""A libvirtd of our own for tests: own configuration, sockets, state and log in its own mount namespace, ended by its process id."""

import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import libvirt

from lab.looking import PATIENCE_S, groups_below

CGROUPS = Path("/sys/fs/cgroup")
ROOT_QEMU = """\
user = "root"
group = "root"
stdio_handler = "file"
namespaces = []
security_driver = "none"
"""
"""QEMU as root: the tests are, and no file has to be handed to another user."""

PRIVATE = """\
set -e
mkdir -p /run/libvirt
[ ! -d /run/systemd ] || mount -t tmpfs none /run/systemd
mount --bind {root}/etc /etc/libvirt; mount --bind {root}/run /run/libvirt; mount --bind {root}/lib /var/lib/libvirt
mount --bind {root}/cache /var/cache/libvirt; mount --bind {root}/log /var/log/libvirt
mkdir -p /var/lib/libvirt/qemu /var/cache/libvirt/qemu /var/log/libvirt/qemu
"""


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A libvirtd: the address of its QEMU driver, its folder and, while it runs, its process."""

    uri: str
    root: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self):
        """Its process id."""
        return self.process.pid

    def start(self):
        """Start it, also again in the same folder, and wait until it answers."""
        script = PRIVATE.format(root=self.root) + f"exec libvirtd --pid-file {self.root}/libvirtd.pid"
        argv = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script]
        with (self.root / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        wait_until_it_answers(self.uri, self.process, self.root / "daemon.log")

    def stop(self):
        """End the daemon; its domains go on."""
        self.process.terminate()
        self.process.wait(PATIENCE_S)


def folders(root):
    """Make the folders that stand for libvirt's own, with the distribution's configuration without its networks."""
    for name in ("run", "lib", "cache", "log"):
        (root / name).mkdir(parents=True)
    subprocess.run(["cp", "-a", "/etc/libvirt/.", root / "etc"], check=True)
    for network in root.glob("etc/qemu/networks/autostart/*"):
        network.unlink()


def uri_of(root):
    """The address of the daemon in `root`, as libvirt's clients take it."""
    return f"qemu:///system?socket={root / 'run/libvirt-sock'}"


def machine_cgroups():
    """The cgroups below which libvirt makes those of its domains, in every hierarchy."""
    return {path for pattern in ("machine", "*/machine") for path in CGROUPS.glob(pattern) if path.is_dir()}


def remove_cgroups(paths):
    """Remove cgroups that no process is in, the innermost first; one that is in use stays."""
    for path in sorted(paths):
        for one in (*groups_below(path), path):
            with suppress(OSError):
                one.rmdir()


def end_domains(uri):
    """End every domain of this daemon."""
    connection = libvirt.open(uri)
    try:
        for domain in connection.listAllDomains():
            with suppress(libvirt.libvirtError):
                domain.destroy()
    finally:
        connection.close()


@contextmanager
def private_libvirtd(root, qemu_conf=ROOT_QEMU):
    """Run libvirtd with its files below `root` and this qemu.conf; afterwards no domain, process or cgroup of it is left."""
    before = machine_cgroups()
    folders(root)
    (root / "etc/qemu.conf").write_text(qemu_conf)
    daemon = Daemon(uri=uri_of(root), root=root)
    try:
        daemon.start()
        yield daemon
        end_domains(uri_of(root))
    finally:
        daemon.stop()
        remove_cgroups(machine_cgroups() - before)


def wait_until_it_answers(uri, process, log):
    """Wait until the daemon accepts a connection; its own words when it does not."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            libvirt.open(uri).close()
        except libvirt.libvirtError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"libvirtd did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.1)
        else:
            return
