"""The XML of one VM on this host: the spec, the plan, and what only the host knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from quietcore import images
from quietcore.domain import ARCHITECTURES, Build, DiskFile, Rendered, compiled, compose, validate
from quietcore.engine.identity import uuid_of
from quietcore.engine.world import World
from quietcore.errors import Problem
from quietcore.host.threads import may_lock
from quietcore.model import Machine, Plan, VmSpec

SCHEMA: Final = "/usr/share/libvirt/schemas/domain.rng"
_DESCRIPTORS: Final = "/usr/share/qemu/firmware"
"""Where firmware packages say what they hold (QEMU's docs/interop/firmware.json); libvirt chooses by them."""


def real(world: World, machine: Machine, spec: VmSpec, plan: Plan, prepared: images.Prepared) -> Rendered:
    """The XML that libvirt gets, with the files as they were made."""
    disks = {name: DiskFile(path=str(disk.path), format=disk.format, readonly=disk.readonly) for name, disk in prepared.disks.items()}
    files = replace(_build(world, machine, spec), disks=disks, kernel=str(prepared.kernel or ""), initrd=str(prepared.initrd or ""))
    return compose(spec, plan, replace(files, libvirt_version=world.hypervisor.version()))


def preview(world: World, machine: Machine, spec: VmSpec, plan: Plan) -> Rendered:
    """The XML with the paths that the files would have; nothing is made."""
    directory = world.vm_directory(spec.vm)
    boot = spec.kernel_boot
    disks = {disk.name: DiskFile(path=str(directory / f"{disk.name}.img")) for disk in spec.disks}
    kernel = str(directory / boot.kernel_path.lstrip("/")) if boot else ""
    initrd = str(directory / boot.initrd_path.lstrip("/")) if boot and boot.initrd_path else ""
    return compose(spec, plan, replace(_build(world, machine, spec), disks=disks, kernel=kernel, initrd=initrd))


def against_schema(world: World, xml: str) -> tuple[Problem, ...]:
    """Each element that the installed libvirt's own schema does not accept; nothing where no schema is installed."""
    if not world.fs.exists(SCHEMA):
        return ()
    return validate(xml, compiled(str(world.fs.path(SCHEMA))))


def _build(world: World, machine: Machine, spec: VmSpec) -> Build:
    directory = world.vm_directory(spec.vm)
    firmware = _firmware(world, secure=spec.firmware.secure_boot) if spec.firmware.efi else ("", "")
    return Build(
        domain_type="kvm" if world.acceleration().domain_type == "kvm" else "qemu",
        emulator=world.config.emulator,
        uuid=uuid_of(spec),
        console_log=str(directory / "console.log"),
        loader=firmware[0],
        nvram_template=firmware[1],
        nvram=str(directory / "nvram.fd") if firmware[0] else "",
        passt=world.fs.exists("/usr/bin/passt"),
        bind_memory=len(machine.nodes) > 1,
        may_lock_memory=may_lock(world.fs),
        default_bridge=world.config.bridge,
        node_cpus={node.node: machine.cpus_of_node(node.node) for node in machine.nodes},
    )


def unsuited(world: World, machine: Machine, spec: VmSpec) -> tuple[Problem, ...]:
    """What the guest needs and this host is not or does not have: its architecture, EFI firmware (Debian's or with descriptors)."""
    problems = []
    wanted = ARCHITECTURES.get(spec.architecture, spec.architecture)
    if wanted != machine.architecture:
        message = f"{spec.vm} is a guest for {wanted} and this host is {machine.architecture}"
        problems.append(
            Problem(message=message, code="architecture", field="spec.architecture", hint="give it a host of its kind", ours=True)
        )
    if spec.firmware.efi and not any(_firmware(world, secure=spec.firmware.secure_boot)) and not world.fs.is_dir(_DESCRIPTORS):
        message = f"{spec.vm} boots by EFI and this host has no EFI firmware"
        hint = "apt-get install ovmf"
        problems.append(
            Problem(message=message, code="firmware-missing", field="spec.domain.firmware.bootloader.efi", hint=hint, ours=True)
        )
    return tuple(problems)


def _firmware(world: World, *, secure: bool) -> tuple[str, str]:
    """The EFI code and the template of its variables, from Debian's ovmf package; empty texts where it is not installed."""
    flavor = ".ms" if secure else ""
    pair = f"/usr/share/OVMF/OVMF_CODE_4M{flavor}.fd", f"/usr/share/OVMF/OVMF_VARS_4M{flavor}.fd"
    return pair if all(world.fs.exists(path) for path in pair) else ("", "")
