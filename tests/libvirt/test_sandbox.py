"""A sandbox against real libvirt and QEMU: its vCPUs follow its containers, and the guest itself reads which of them back what."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest
from tests.libvirt.test_moving import program, threads_of, two_cpus  # noqa: F401  # `program` is a fixture
from tests.prerequisites import need_programs

import demo_guest
from lab.looking import PATIENCE_S, eventually

pytestmark = pytest.mark.libvirt

POD = f"pod-{os.getpid()}"
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>160</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0</cmdline></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  </devices>
</domain>
"""
AGENT = """\
#!/bin/sh
# As much of the QEMU guest agent's protocol as writing a file takes; what was written is shown on the console.
modprobe virtio_pci
modprobe virtio_console
while :; do for port in /sys/class/virtio-ports/*; do [ "$(cat "$port/name")" = org.qemu.guest_agent.0 ] && break 2; done; sleep 0.2; done
exec 3<>"/dev/${port##*/}"
echo agent: ready >/dev/console
while :; do
    read -r line <&3 || { sleep 0.1; continue; }  # the end of a file, as long as nobody has opened the host's side
    case $line in
    *guest-sync*) answer=$(echo "$line" | sed 's/.*"id": *\\([0-9]*\\).*/\\1/') ;;
    *guest-file-open*) path=$(echo "$line" | sed 's/.*"path": *"\\([^"]*\\)".*/\\1/'); : >"$path"; answer=7 ;;
    *guest-file-write*) echo "$line" | sed 's/.*"buf-b64": *"\\([^"]*\\)".*/\\1/' | base64 -d >>"$path"; answer='{"count": 1}' ;;
    *guest-file-close*) echo "agent: $(cat "$path")" >/dev/console; answer={} ;;
    esac
    echo "{\\"return\\": $answer}" >&3
done
"""


@pytest.fixture(scope="module")
def guest(tmp_path_factory):
    """The demo guest's kernel, and its initramfs with an agent."""
    need_programs("apt-get", "qemu-system-x86_64")
    boot = Path(subprocess.check_output([sys.executable, demo_guest.__file__], text=True, timeout=PATIENCE_S).strip()) / "boot"
    folder = tmp_path_factory.mktemp("guest")
    initrd = folder / "initrd"
    hello = b"#!/bin/sh\nagent &\n"  # the last that the guest's init calls
    added = demo_guest.cpio({"bin/agent": AGENT.encode(), "bin/hello": hello})
    initrd.write_bytes((boot / "initrd").read_bytes() + gzip.compress(added))  # the kernel unpacks one after the other
    kernel = folder / "vmlinuz"
    kernel.write_bytes((boot / "vmlinuz").read_bytes())  # the cache is everybody's
    return kernel, initrd


@pytest.fixture
def pod(libvirt_uri, guest, tmp_path):
    """Somebody's running domain whose guest has an agent; gives the domain, and a question for the guest's console."""
    console = tmp_path / "console"
    console.touch()
    connection = libvirt.open(libvirt_uri)
    domain = connection.createXML(DOMAIN.format(name=POD, kernel=guest[0], initrd=guest[1], console=console))

    def said(words=("ready",)):
        """The last that the agent told on the console, when all these words are in it."""
        eventually(lambda: all(word in told() for word in words), lambda: console.read_text(errors="replace")[-2000:])
        return told()

    def told():
        lines = [line.partition("agent: ")[2] for line in console.read_text(errors="replace").splitlines() if "agent: " in line]
        return lines[-1] if lines else ""

    yield domain, said
    with suppress(libvirt.libvirtError):
        domain.destroy()
    connection.close()


def test_the_vcpus_follow_the_containers_and_the_guest_reads_which_back_what(program, pod):  # noqa: F811  # the fixture
    two_cpus()
    domain, said = pod
    said()
    eventually(lambda: "state='connected'" in domain.XMLDesc(), domain.XMLDesc)  # libvirt hears of the agent some time after the guest
    before, xml = threads_of(domain), domain.XMLDesc()
    made = program.json("sandbox", "create", POD, "--container", "web=1")
    assert (made["map"], made["guest"]["why"]) == ([{"pcpu": 1, "vcpu": 0}], "")
    tids = [one["tid"] for one in program.json("describe", POD)["vcpus"]]
    assert [os.sched_getaffinity(tid) for tid in tids] == [{1}, {0}]
    seen = json.loads(said(words=['"pcpu": 1']))
    assert (seen["map"], seen["unbacked"]["cpus"]) == ([{"pcpu": 1, "vcpu": 0}], [1])
    program("verify", POD)

    refused = program.json("sandbox", "update", POD, "--container", "db=0", expect=3)
    assert [reason["constraint"] for reason in refused["reasons"]] == ["cpu-reserved"]
    program.reserve(1)
    moved = program.json("sandbox", "update", POD, "--container", "db=0", "--remove", "web")
    assert moved["moved"] == [{"vcpu": 0, "from": 1, "to": 0}]
    assert [os.sched_getaffinity(tid) for tid in tids] == [{0}, {1}]
    told = json.loads(said(words=['"pcpu": 0']))
    assert told == program.json("sandbox", "show", POD)
    assert [(one["id"], one["vcpus"]["cpus"]) for one in told["containers"]] == [("db", [0])]

    empty = program.json("sandbox", "update", POD, "--remove", "db")
    assert (empty["map"], [os.sched_getaffinity(tid) for tid in tids]) == ([], [{0, 1}] * 2)
    program("verify", POD)
    assert program("sandbox", "delete", POD) == f"sandbox/{POD} deleted\n"
    assert domain.XMLDesc().splitlines() == xml.splitlines()
    assert threads_of(domain) == before
    assert domain.isActive()
