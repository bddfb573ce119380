"""A lab machine as QEMU's command line. Always TCG: the lab is the same on a laptop, in CI and on hosts without KVM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.kernels import Kernel
from lab.machines import LabMachine
from quietcore.model import CpuSet

QEMU: Final = "qemu-system-x86_64"
# "max" alone says AMD, and then QEMU drops SMT from CPUID; family 6 model 85 is Cascade Lake.
CPU_MODEL: Final = "max,vendor=GenuineIntel,family=6,model=85,stepping=7,model-id=Lab,-la57,l3-cache=on"
# One thread runs all CPUs. With a thread each they wait for one another (locks, interrupts, stopping everybody to change translated code),
# the more the less the host's CPUs are ours: two labs at once took 41 s so, and 99 s with a thread per CPU. And before QEMU 8.1 translated
# code may keep a breakpoint of the guest kernel's own patching then, and the kernel dies ("Oops: int3",
# https://bugzilla.redhat.com/show_bug.cgi?id=2216496).
ACCELERATION: Final = "tcg,thread=single,tb-size=512"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootFiles:
    """The files of one boot: what QEMU reads and where it writes the kernel's console and the session's status lines."""

    initramfs: Path
    console: Path
    status: Path
    shared: Path | None = None


def command_line(machine: LabMachine, kernel: Kernel, files: BootFiles) -> list[str]:
    """The whole command; standard input and output become the session's terminal."""
    return [
        *(QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-machine", "q35,vmport=off", "-accel", ACCELERATION, "-cpu", CPU_MODEL),
        *("-smp", f"{machine.cpus},sockets={machine.sockets},dies=1,cores={machine.cores},threads={machine.threads}"),
        *("-m", str(machine.memory_mib)),
        *_nodes(machine),
        *("-chardev", f"file,id=console,path={files.console}", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci", "-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal"),
        *("-chardev", f"file,id=status,path={files.status}", "-device", "virtserialport,chardev=status,name=lab.status"),
        *_folder("hostroot", Path("/"), readonly=True),
        *_folder("modules", kernel.modules.parent, readonly=True),
        *(_folder("shared", files.shared, readonly=False) if files.shared else ()),
        *("-kernel", str(kernel.image), "-initrd", str(files.initramfs), "-append", kernel_arguments(machine)),
    ]


def kernel_arguments(machine: LabMachine) -> str:
    """The kernel's command line."""
    words = [
        *("console=ttyS0", "loglevel=5", "panic=-1", "oops=panic", "random.trust_cpu=on", "nokaslr", "mitigations=off"),
        "cgroup_no_v1=all",
        "tsc=reliable",  # without it TCG falls to acpi_pm, which is two to three times slower and loses seconds
    ]
    if machine.isolated:
        listed, rest = machine.isolated, CpuSet.range(machine.cpus) - machine.isolated
        words += [f"isolcpus=managed_irq,domain,{listed}", f"nohz_full={listed}", f"rcu_nocbs={listed}", f"irqaffinity={rest}"]
    pages = [f"{number}:{node.hugepages}" for number, node in enumerate(machine.nodes) if node.hugepages]
    if pages:
        words += ["hugepagesz=2M", f"hugepages={','.join(pages)}"]
    return " ".join(words)


def _nodes(machine: LabMachine) -> list[str]:
    words: list[str] = []
    for number, node in enumerate(machine.nodes):
        parts = ["node", f"nodeid={number}"]
        if node.memory_mib:
            words += ["-object", f"memory-backend-ram,id=memory{number},size={node.memory_mib}M"]
            parts.append(f"memdev=memory{number}")
        if node.cpus:
            parts.append(f"cpus={machine.cpus_of(number)}")
        words += ["-numa", ",".join(parts)]
    for one in range(len(machine.nodes)):
        for other in range(one + 1, len(machine.nodes)):
            words += ["-numa", f"dist,src={one},dst={other},val={machine.distance(one, other)}"]
    return words


def _folder(tag: str, path: Path, *, readonly: bool) -> list[str]:
    mode = ",readonly=on" if readonly else ""
    return [
        *("-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{mode}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]
