"""A valid spec with its defaults -> VmSpec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from quietcore.manifest.annotations import PARITY, Wishes
from quietcore.manifest.lower_devices import disks, interfaces
from quietcore.manifest.realtime_mask import select
from quietcore.manifest.tree import Tree
from quietcore.manifest.validate_cpu import ZERO
from quietcore.model.quantity import Quantity
from quietcore.model.spec import (
    CpuFeature,
    CpuSpec,
    Firmware,
    GuestTopology,
    IoThreads,
    IoThreadsPolicy,
    KernelBoot,
    MemorySpec,
    Realtime,
    Resources,
    RunStrategy,
    Strategy,
    VmName,
    VmSpec,
)

_IO_POLICIES: Mapping[str, IoThreadsPolicy] = {"shared": "shared", "auto": "auto", "supplementalPool": "supplementalPool"}
_POLICIES: Mapping[str, Literal["force", "require", "optional", "disable", "forbid"]] = {
    "": "require",
    "force": "force",
    "require": "require",
    "optional": "optional",
    "disable": "disable",
    "forbid": "forbid",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The parts of a document that stand outside of the VMI's spec."""

    vm: VmName
    kind: Literal["VirtualMachine", "VirtualMachineInstance"]
    run_strategy: RunStrategy
    strategy: Strategy | None
    wishes: Wishes
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def lower(spec: Tree, subject: Subject) -> VmSpec:
    """Build the VmSpec. The spec has passed every rule: nothing is checked again here."""
    devices = spec.child("domain.devices")
    return VmSpec(
        vm=subject.vm,
        kind=subject.kind,
        run_strategy=subject.run_strategy,
        start_paused=spec.text("startStrategy") == "Paused",
        cpu=_cpu(spec, subject),
        memory=_memory(spec, subject),
        resources=_resources(spec),
        io_threads=IoThreads(
            policy=_IO_POLICIES.get(spec.text("domain.ioThreadsPolicy")),
            pool=spec.number("domain.ioThreads.supplementalPoolThreadCount"),
        ),
        disks=disks(spec),
        interfaces=interfaces(spec, subject.wishes.sockets),
        kernel_boot=_kernel_boot(spec),
        firmware=_firmware(spec),
        architecture=spec.text("architecture"),
        machine_type=spec.text("domain.machine.type"),
        clock_offset=_clock_offset(spec),
        graphics=devices.flag("autoattachGraphicsDevice", default=True),
        serial_console=devices.flag("autoattachSerialConsole", default=True),
        memory_balloon=devices.flag("autoattachMemBalloon", default=True),
        rng=devices.has("rng"),
        block_multiqueue=devices.flag("blockMultiQueue"),
        network_multiqueue=devices.flag("networkInterfaceMultiqueue"),
        hostname=spec.text("hostname"),
        termination_grace_seconds=spec.number("terminationGracePeriodSeconds", 30),
        sidecars=subject.wishes.sidecars,
        strategy=subject.strategy,
        node_selector=MappingProxyType(dict(spec.mapping("nodeSelector"))),
        labels=MappingProxyType(dict(subject.labels)),
        annotations=MappingProxyType(dict(subject.annotations)),
    )


def _cpu(spec: Tree, subject: Subject) -> CpuSpec:
    cpu, wishes = spec.child("domain.cpu"), subject.wishes
    # KubeVirt's converter makes 1 of those that are 0
    topology = GuestTopology(sockets=cpu.number("sockets") or 1, cores=cpu.number("cores") or 1, threads=cpu.number("threads") or 1)
    realtime = None
    if cpu.has("realtime"):
        mask = cpu.text("realtime.mask")
        realtime = Realtime(
            mask=mask,
            vcpus=select(mask, topology.vcpus),
            priority=wishes.priority or 1,
            allow_inversion=wishes.allow_inversion,
        )
    return CpuSpec(
        topology=topology,
        max_sockets=cpu.number("maxSockets"),
        model=cpu.text("model"),
        features=tuple(CpuFeature(name=one.text("name"), policy=_POLICIES[one.text("policy")]) for one in cpu.items("features")),
        dedicated=cpu.flag("dedicatedCpuPlacement"),
        dedicated_vcpus=wishes.dedicated_vcpus,
        isolate_emulator=cpu.flag("isolateEmulatorThread"),
        even_parity=PARITY in subject.annotations,
        numa_passthrough=cpu.has("numa.guestMappingPassthrough"),
        realtime=realtime,
        thread_policy=wishes.thread_policy,
        single_l3=wishes.single_l3,
    )


def _memory(spec: Tree, subject: Subject) -> MemorySpec:
    memory = spec.child("domain.memory")
    page = Quantity.parse(memory.text("hugepages.pageSize")).value if memory.has("hugepages") else None
    return MemorySpec(
        guest_bytes=(memory.quantity("guest") or ZERO).value,
        hugepage_bytes=page,
        # KubeVirt lifts the lock limit for real-time VMs and where memLock asks for it; locking is what the limit is for
        locked=spec.has("domain.cpu.realtime") or memory.text("reservedOverhead.memLock") == "Required",
        max_guest_bytes=(memory.quantity("maxGuest") or ZERO).value,
        memfd=subject.wishes.memfd,
        overhead_bytes=(memory.quantity("reservedOverhead.addedOverhead") or ZERO).value,
    )


def _resources(spec: Tree) -> Resources:
    resources = spec.child("domain.resources")
    return Resources(
        cpu_request=resources.quantity("requests.cpu"),
        cpu_limit=resources.quantity("limits.cpu"),
        memory_request=resources.quantity("requests.memory"),
        memory_limit=resources.quantity("limits.memory"),
        overcommit_guest_overhead=resources.flag("overcommitGuestOverhead"),
    )


def _kernel_boot(spec: Tree) -> KernelBoot | None:
    boot = spec.child("domain.firmware.kernelBoot")
    if not boot.has("container"):
        return None
    return KernelBoot(
        image=boot.text("container.image"),
        kernel_path=boot.text("container.kernelPath"),
        initrd_path=boot.text("container.initrdPath"),
        args=boot.text("kernelArgs"),
    )


def _clock_offset(spec: Tree) -> str:
    seconds = spec.number("domain.clock.utc.offsetSeconds")
    return spec.text("domain.clock.timezone") or (str(seconds) if seconds else "utc")


def _firmware(spec: Tree) -> Firmware:
    firmware = spec.child("domain.firmware")
    efi = firmware.has("bootloader.efi")
    return Firmware(
        efi=efi,
        secure_boot=efi and firmware.flag("bootloader.efi.secureBoot", default=True),
        uuid=firmware.text("uuid").lower(),
        serial=firmware.text("serial"),
    )
