"""Whether KVM truly runs a guest here: asked of the kernel with a guest of one instruction, not of a file's existence.

A device node alone proves nothing: containers and nested machines show /dev/kvm where no guest can be entered. The
numbers are the kernel's KVM API (include/uapi/linux/kvm.h), stable since API version 12.
"""

from __future__ import annotations

import ctypes
import fcntl
import grp
import mmap
import os
import pwd
import stat
import struct
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

_GET_API_VERSION: Final = 0xAE00
_CREATE_VM: Final = 0xAE01
_GET_VCPU_MMAP_SIZE: Final = 0xAE04
_CREATE_VCPU: Final = 0xAE41
_RUN: Final = 0xAE80
_SET_USER_MEMORY_REGION: Final = 0x4020AE46
_SET_REGS: Final = 0x4090AE82
_GET_SREGS: Final = 0x8138AE83
_SET_SREGS: Final = 0x4138AE84
_REGS_SIZE, _SREGS_SIZE = 0x90, 0x138
_RIP_OFFSET: Final = 16 * 8
_EXIT_HLT: Final = 5
_HLT: Final = b"\xf4"
_GUEST_PAGE: Final = 0x1000
_START_AND_QUIT: Final = b'{"execute": "qmp_capabilities"}\n{"execute": "quit"}\n'
_QEMU_LIMIT_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceleration:
    """The domain type that works, "kvm" or "qemu" (TCG), and the sentence that says why."""

    domain_type: str
    reason: str


def detect(
    *, device: str = "/dev/kvm", qemu_user: str | None = "libvirt-qemu", emulator: str = "/usr/bin/qemu-system-x86_64"
) -> Acceleration:
    """Enter a one-instruction guest, see whether QEMU's user may open the device too, and let QEMU itself start with KVM.

    `qemu_user` None means that QEMU runs as the present user. Takes well under a millisecond where the first two say no, else the
    about 0.1 s of QEMU's start: nested KVM may enter a guest and yet refuse the registers that QEMU sets ("failed to set MSR").
    """
    try:
        _run_one_instruction(device)
    except OSError as err:
        return Acceleration(domain_type="qemu", reason=f"{device}: {err.strerror or err}")
    if qemu_user is not None and not _may_open(device, qemu_user):
        return Acceleration(
            domain_type="qemu",
            reason=f"{device} works for root, but QEMU's user {qemu_user} may not open it (chgrp kvm {device}; chmod 660 {device})",
        )
    refusal = qemus_refusal(emulator)
    if refusal:
        return Acceleration(domain_type="qemu", reason=f"{device} ran a test guest, but QEMU cannot start with KVM: {refusal}")
    return Acceleration(domain_type="kvm", reason=f"{device} ran a test guest, and QEMU started with KVM")


def qemus_refusal(emulator: str) -> str:
    """What QEMU says when a paused guest with the host's CPU does not start with KVM; "" when it starts, or when there is no QEMU here."""
    guest = ["-machine", "q35,accel=kvm", "-cpu", "host", "-m", "16", "-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]
    try:
        done = subprocess.run([emulator, *guest], input=_START_AND_QUIT, capture_output=True, timeout=_QEMU_LIMIT_S, check=False)
    except FileNotFoundError:
        return ""
    except subprocess.TimeoutExpired:
        return f"no end within {_QEMU_LIMIT_S} s"
    if not done.returncode:
        return ""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return said[0].strip() if said else f"exit code {done.returncode}"


def _may_open(device: str, user: str) -> bool:
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return False
    facts = os.stat(device)  # noqa: PTH116  # the device's owner and mode, nothing of a path's
    groups = {account.pw_gid} | {group.gr_gid for group in grp.getgrall() if user in group.gr_mem}
    if account.pw_uid == 0:
        return True
    if facts.st_uid == account.pw_uid:
        return bool(facts.st_mode & stat.S_IRUSR and facts.st_mode & stat.S_IWUSR)
    if facts.st_gid in groups:
        return bool(facts.st_mode & stat.S_IRGRP and facts.st_mode & stat.S_IWGRP)
    return bool(facts.st_mode & stat.S_IROTH and facts.st_mode & stat.S_IWOTH)


def _run_one_instruction(device: str) -> None:
    with ExitStack() as stack:

        def opened(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        kvm = opened(os.open(device, os.O_RDWR | os.O_CLOEXEC))
        version = fcntl.ioctl(kvm, _GET_API_VERSION, 0)
        if version != 12:
            raise OSError(f"KVM API version {version}, not 12")
        vm = opened(fcntl.ioctl(kvm, _CREATE_VM, 0))
        memory = mmap.mmap(-1, mmap.PAGESIZE)
        memory[0:1] = _HLT
        held = ctypes.c_char.from_buffer(memory)
        fcntl.ioctl(vm, _SET_USER_MEMORY_REGION, struct.pack("=IIQQQ", 0, 0, _GUEST_PAGE, mmap.PAGESIZE, ctypes.addressof(held)))
        vcpu = opened(fcntl.ioctl(vm, _CREATE_VCPU, 0))
        sregs = bytearray(_SREGS_SIZE)
        fcntl.ioctl(vcpu, _GET_SREGS, sregs)
        struct.pack_into("=QIH", sregs, 0, 0, 0xFFFF, 0)  # cs: base, limit, selector; real mode then begins at rip
        fcntl.ioctl(vcpu, _SET_SREGS, bytes(sregs))
        regs = bytearray(_REGS_SIZE)
        struct.pack_into("=QQ", regs, _RIP_OFFSET, _GUEST_PAGE, 2)  # rip, then rflags with its always-set bit
        fcntl.ioctl(vcpu, _SET_REGS, bytes(regs))
        with mmap.mmap(vcpu, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0)) as shared:
            fcntl.ioctl(vcpu, _RUN, 0)
            (reason,) = struct.unpack_from("=I", shared, 8)
        if reason != _EXIT_HLT:
            raise OSError(f"a test guest ended with exit reason {reason} instead of a halt")
