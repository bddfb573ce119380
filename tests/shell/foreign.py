"""A running domain that quietcore did not make, with a history of its own."""

from __future__ import annotations

from contextlib import suppress

from quietcore.model import CpuSet
from quietcore.virt import HypervisorError
from tests.shell.fake_host import FakeHost

XML = """\
<domain type="qemu">
  <name>{name}</name><uuid>00000000-0000-0000-0000-{number:012d}</uuid>
  <memory unit="MiB">64</memory><vcpu>{vcpus}</vcpu>{tune}
  <os><type arch="x86_64" machine="q35">hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{agent}</devices>
</domain>
"""
AGENT = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
PINS = "<cputune><vcpupin vcpu='0' cpuset='1-3'/><emulatorpin cpuset='0-3'/></cputune>"


def foreign(host: FakeHost, name: str = "old", vcpus: int = 2, tune: str = PINS, agent: str = "") -> int:
    """Somebody else's running domain, with a history of its own: pins and a policy that only its owner can explain."""
    host.hypervisor.create_paused(XML.format(name=name, number=host.hypervisor._next, vcpus=vcpus, tune=tune, agent=agent))
    host.hypervisor.resume(name)
    pid = host.hypervisor.pids[name]
    if tune:
        with suppress(HypervisorError):  # others have these CPUs: as for a domain that had them before
            host.hypervisor.pin_vcpu(name, 0, CpuSet.parse("1-3"))
        host.hypervisor.pin_emulator(name, CpuSet.parse("0-3"))
    host.threads.policies[pid + 1] = ("rr", 7)
    host.threads.affinities[pid + 3] = CpuSet.parse("0,2")
    for tid in (int(task) for task in host.fs.listdir(f"/proc/{pid}/task")):
        host.threads.affinities[tid] = host.threads.affinity(tid) & host.fs.limit(tid)
    return pid
