"""How the guest starts: machine type, BIOS or EFI, a kernel of its own, SMBIOS values."""

from __future__ import annotations

from typing import Final

from quietcore.domain.draft import Draft, add
from quietcore.errors import Problem

ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64", "s390x": "s390x"}
"""Go's names, which KubeVirt uses, and QEMU's."""


def contribute(draft: Draft) -> None:
    """Write <os>, <sysinfo> and the features that firmware needs."""
    spec, place = draft.spec, draft.section("os")
    architecture = ARCHITECTURES.get(spec.architecture, spec.architecture)
    add(place, "type", "hvm", arch=architecture, machine=spec.machine_type or None)
    features = draft.section("features")
    if spec.architecture != "s390x":
        add(features, "acpi")
    if spec.architecture == "amd64":
        add(features, "apic")
    if spec.firmware.efi:
        _efi(draft)
    if spec.kernel_boot is not None:
        _kernel(draft)
    if spec.firmware.serial and spec.architecture == "amd64":
        add(place, "smbios", mode="sysinfo")
        information = draft.section("sysinfo")
        information.set("type", "smbios")
        add(add(information, "system"), "entry", spec.firmware.serial, name="serial")


def _efi(draft: Draft) -> None:
    place, build, secure = draft.section("os"), draft.build, draft.spec.firmware.secure_boot
    if secure:
        add(draft.section("features"), "smm", state="on")
    if not build.loader:
        place.set("firmware", "efi")  # libvirt chooses from the descriptors that the firmware packages install
        add(add(place, "firmware"), "feature", enabled="yes" if secure else "no", name="secure-boot")
        return
    add(place, "loader", build.loader, readonly="yes", type="pflash", secure="yes" if secure else None)
    if build.nvram:
        add(place, "nvram", build.nvram, template=build.nvram_template or None)


def _kernel(draft: Draft) -> None:
    place, build, boot = draft.section("os"), draft.build, draft.spec.kernel_boot
    assert boot is not None
    if not build.kernel:
        message = "the manifest boots a kernel from an image, and no kernel file was given"
        draft.problems.append(Problem(message=message, code="kernel-without-file", ours=True))
        return
    add(place, "kernel", build.kernel)
    if build.initrd:
        add(place, "initrd", build.initrd)
    if boot.args:
        add(place, "cmdline", boot.args)
