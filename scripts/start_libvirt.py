"""Starts libvirt where none runs, with or without systemd, and never touches one that runs.

Without systemd the daemons are started directly, with the distribution's configuration. Where /dev/kvm exists but cannot run QEMU's
guests, they get a mount namespace whose /dev lacks it: libvirt probes QEMU as root, finds KVM, then sees that QEMU's user cannot open
the device, throws the answer away and asks again, about 60 s for every VM that is created. Nothing outside the namespace changes.

Usage: .venv/bin/python scripts/start_libvirt.py
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from quietcore.host.kvm import detect

SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock")
LOG_SOCKET = "/run/libvirt/virtlogd-sock"
UNITS = ("libvirtd.socket", "libvirtd.service", "virtqemud.socket", "virtqemud.service")
DAEMONS = ("libvirtd", "virtqemud")
DEADLINE_S = 60.0
NEEDS_ROOT = 4

DEV_WITHOUT_KVM = """\
set -e
[ -e /dev/kvm ] || exec "$@"
mount -t tmpfs -o mode=755,nosuid quietcore-dev /mnt
for entry in /dev/* /dev/.[!.]*; do
    name=${entry##*/}
    if [ "$name" = kvm ] || { [ ! -e "$entry" ] && [ ! -L "$entry" ]; }; then continue; fi
    if [ ! -L "$entry" ] && mountpoint -q "$entry"; then
        if [ -d "$entry" ]; then mkdir "/mnt/$name"; else : >"/mnt/$name"; fi
        mount --rbind "$entry" "/mnt/$name"
    else
        cp -a "$entry" "/mnt/$name"
    fi
done
umount --recursive --lazy /dev
mount --move /mnt /dev
exec "$@"
"""
"""The old /dev is taken away first: libvirt moves each mount below /dev into every VM's namespace and fails on one that it finds twice."""


def say(text: str) -> None:
    """One line on what is done."""
    print(f"libvirt: {text}", flush=True)


def answers(path: str) -> bool:
    """Whether somebody listens on this socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(path)
        except OSError:
            return False
    return True


def any_answers(paths: Iterable[str]) -> bool:
    """Whether one of the sockets answers."""
    return any(answers(path) for path in paths)


def run(*argv: str) -> None:
    """Run a program that must succeed; end with its own words when it does not."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"libvirt: {argv[0]} failed: {done.stderr.strip() or done.stdout.strip() or done.returncode}")


def with_systemd() -> None:
    """Start the first of the distribution's units that exists; libvirtd's own socket units bring virtlogd."""
    for unit in UNITS:
        if subprocess.run(["systemctl", "cat", unit], capture_output=True, check=False).returncode == 0:
            say(f"starting {unit}")
            run("systemctl", "start", unit)
            return
    sys.exit(f"libvirt: systemd knows none of {', '.join(UNITS)}: bash scripts/setup.sh host")


def without_systemd() -> None:
    """Start virtlogd and the QEMU driver's daemon as daemons of their own."""
    daemon = next((name for name in DAEMONS if shutil.which(name)), None)
    if daemon is None:
        sys.exit(f"libvirt: none of {', '.join(DAEMONS)} is installed: bash scripts/setup.sh host")
    for folder in ("/run/libvirt", "/run/lock"):  # consoles are locked in /var/lock, a link that systemd's tmpfiles would have filled
        Path(folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    if not answers(LOG_SOCKET):
        say("starting virtlogd (no systemd here)")
        run("virtlogd", "--daemon")
    kvm = detect()
    if kvm.domain_type == "kvm" or not Path("/dev/kvm").exists():
        say(f"starting {daemon} (no systemd here)")
        run(daemon, "--daemon")
        return
    say(f"starting {daemon} (no systemd here) with a /dev of its own, without kvm: {kvm.reason}")
    run("unshare", "--mount", "--propagation", "slave", "sh", "-c", DEV_WITHOUT_KVM, "sh", daemon, "--daemon")


def wait(until: Callable[[], bool]) -> float:
    """Wait until it is so; the seconds that it took."""
    began = time.monotonic()
    while not until():
        if time.monotonic() - began > DEADLINE_S:
            sys.exit(
                f"libvirt: no answer on {' or '.join(SOCKETS)} within {DEADLINE_S:g} s; its log: /var/log/libvirt, journalctl -u libvirtd"
            )
        time.sleep(0.1)
    return time.monotonic() - began


def main() -> None:
    """Leave a running libvirt alone, start one otherwise, and wait for its answer."""
    if any_answers(SOCKETS):
        say("runs already; left alone")
        return
    if os.geteuid() != 0:
        say("starting it needs root")
        sys.exit(NEEDS_ROOT)
    if Path("/run/systemd/system").is_dir():
        with_systemd()
    else:
        without_systemd()
    say(f"answers after {wait(lambda: any_answers(SOCKETS)):.1f} s")


if __name__ == "__main__":
    main()
