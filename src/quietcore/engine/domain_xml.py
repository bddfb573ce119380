"""The XML of one VM on this host: the spec, the plan, and what only the host knows."""

from __future__ import annotations

from pathlib import Path

from quietcore import images
from quietcore.domain import Build, DiskFile, render
from quietcore.engine.start_values import uuid_of
from quietcore.engine.world import World
from quietcore.model import Plan, VmSpec


def real(world: World, spec: VmSpec, plan: Plan, prepared: images.Prepared) -> str:
    """The XML that libvirt gets, with the files as they were made."""
    disks = {name: DiskFile(path=str(disk.path), format=disk.format, readonly=disk.readonly) for name, disk in prepared.disks.items()}
    return render(spec, plan, _build(world, spec, disks, prepared.kernel, prepared.initrd))


def preview(world: World, spec: VmSpec, plan: Plan) -> str:
    """The XML with the paths that the files would have; nothing is made."""
    directory = world.vm_directory(spec.vm)
    boot = spec.kernel_boot
    disks = {disk.name: DiskFile(path=str(directory / f"{disk.name}.img")) for disk in spec.disks}
    kernel = directory / boot.kernel_path.lstrip("/") if boot else None
    initrd = directory / boot.initrd_path.lstrip("/") if boot and boot.initrd_path else None
    return render(spec, plan, _build(world, spec, disks, kernel, initrd))


def _build(world: World, spec: VmSpec, disks: dict[str, DiskFile], kernel: Path | None, initrd: Path | None) -> Build:
    return Build(
        domain_type="kvm" if world.acceleration().domain_type == "kvm" else "qemu",
        emulator=world.config.emulator,
        uuid=uuid_of(spec),
        disks=disks,
        kernel=str(kernel or ""),
        initrd=str(initrd or ""),
        console_log=str(world.vm_directory(spec.vm) / "console.log"),
        bind_memory=sum(name.startswith("node") for name in world.fs.listdir("/sys/devices/system/node")) > 1
        if world.fs.is_dir("/sys/devices/system/node")
        else False,
    )
