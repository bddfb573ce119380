"""The XML of one VM on this host: the spec, the plan, and what only the host knows."""

from __future__ import annotations

from pathlib import Path

from quietcore import images
from quietcore.domain import Build, DiskFile, Rendered, compose
from quietcore.engine.identity import uuid_of
from quietcore.engine.world import World
from quietcore.model import Plan, VmSpec


def real(world: World, spec: VmSpec, plan: Plan, prepared: images.Prepared) -> Rendered:
    """The XML that libvirt gets, with the files as they were made."""
    disks = {name: DiskFile(path=str(disk.path), format=disk.format, readonly=disk.readonly) for name, disk in prepared.disks.items()}
    return compose(spec, plan, _build(world, spec, disks, prepared.kernel, prepared.initrd))


def preview(world: World, spec: VmSpec, plan: Plan) -> Rendered:
    """The XML with the paths that the files would have; nothing is made."""
    directory = world.vm_directory(spec.vm)
    boot = spec.kernel_boot
    disks = {disk.name: DiskFile(path=str(directory / f"{disk.name}.img")) for disk in spec.disks}
    kernel = directory / boot.kernel_path.lstrip("/") if boot else None
    initrd = directory / boot.initrd_path.lstrip("/") if boot and boot.initrd_path else None
    return compose(spec, plan, _build(world, spec, disks, kernel, initrd))


def _build(world: World, spec: VmSpec, disks: dict[str, DiskFile], kernel: Path | None, initrd: Path | None) -> Build:
    directory = world.vm_directory(spec.vm)
    firmware = _firmware(world, secure=spec.firmware.secure_boot) if spec.firmware.efi else ("", "")
    return Build(
        domain_type="kvm" if world.acceleration().domain_type == "kvm" else "qemu",
        emulator=world.config.emulator,
        uuid=uuid_of(spec),
        disks=disks,
        kernel=str(kernel or ""),
        initrd=str(initrd or ""),
        console_log=str(directory / "console.log"),
        loader=firmware[0],
        nvram_template=firmware[1],
        nvram=str(directory / "nvram.fd") if firmware[0] else "",
        bind_memory=_has_numa(world),
    )


def _firmware(world: World, *, secure: bool) -> tuple[str, str]:
    """The EFI code and the template of its variables, from Debian's ovmf package; empty texts where it is not installed."""
    flavor = ".ms" if secure else ""
    pair = f"/usr/share/OVMF/OVMF_CODE_4M{flavor}.fd", f"/usr/share/OVMF/OVMF_VARS_4M{flavor}.fd"
    return pair if all(world.fs.exists(path) for path in pair) else ("", "")


def _has_numa(world: World) -> bool:
    folder = "/sys/devices/system/node"
    return world.fs.is_dir(folder) and sum(name.startswith("node") for name in world.fs.listdir(folder)) > 1
