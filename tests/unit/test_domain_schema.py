"""Rendered domains against libvirt's own schema, and what is said where one is not valid."""

from __future__ import annotations

import itertools

import pytest
from tests.libvirt_schema import domain_schema
from tests.vm_specs import GI, MI, UID, dedicated, plan_for, root_disk, vm

from quietcore import domain
from quietcore.model import (
    CloudInit,
    CpuFeature,
    CpuSet,
    Disk,
    EmptyDisk,
    Firmware,
    GuestCell,
    GuestTopology,
    Interface,
    IoThreads,
    KernelBoot,
    MemoryBinding,
    Realtime,
)

SEED = Disk(name="seed", source=CloudInit(kind="configdrive"), bus="sata", device="cdrom")
NETS = (
    Interface(name="default", ports=(22,), mac="02:00:00:00:00:01"),
    Interface(name="lan", binding="bridge", source="br0", model="e1000", boot_order=2),
    Interface(name="fast", binding="vhostuser", source="/run/fast.sock"),
)
SPECS = {
    "the least": vm(),
    "much": vm(
        disks=(
            root_disk(boot_order=1, serial="x", cache="writethrough"),
            SEED,
            Disk(name="key", source=EmptyDisk(capacity_bytes=GI), bus="usb"),
        ),
        interfaces=NETS,
        io_threads=IoThreads(policy="auto"),
        kernel_boot=KernelBoot(image="k", kernel_path="/k", args="quiet"),
        rng=True,
        block_multiqueue=True,
        network_multiqueue=True,
        firmware=Firmware(serial="s"),
        clock_offset="Europe/Berlin",
    ),
    "efi": vm(
        firmware=Firmware(efi=True, secure_boot=True), cpu={"model": "Haswell", "features": (CpuFeature(name="vmx", policy="forbid"),)}
    ),
    "hotplug": vm(cpu={"topology": GuestTopology(sockets=2), "max_sockets": 8}),
    "scsi": vm(disks=(root_disk(bus="scsi", dedicated_iothread=True, io="native"),)),
    "dedicated": dedicated(disks=(root_disk(dedicated_iothread=True), SEED), io_threads=IoThreads(policy="supplementalPool", pool=2)),
    "mixed": dedicated(cpu={"dedicated_vcpus": frozenset({1, 2})}),
    "real time": dedicated(
        memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI, "locked": True},
        cpu={"numa_passthrough": True, "realtime": Realtime(vcpus=frozenset({1})), "model": "host-passthrough"},
    ),
}
BUILDS = {
    "kvm": {"console_log": "/log/c", "passt": True},
    "tcg": {"domain_type": "qemu", "loader": "/fw/code", "nvram": "/fw/vars", "nvram_template": "/fw/template"},
}


def plan(spec):
    cells: tuple[GuestCell, ...] = ()
    if spec.cpu.numa_passthrough:
        cells = tuple(GuestCell(cell=n, node=n, vcpus=(n, n + 2), memory_bytes=GI // 2, distances={0: 10 + n, 1: 11 - n}) for n in (0, 1))
    memory = (MemoryBinding(node=0, type="memory", size_bytes=GI),)
    count = spec.cpu.topology.vcpus
    if not spec.cpu.dedicated:
        return plan_for(spec, [None] * count, memory=memory, assignments=())
    own = spec.cpu.dedicated_vcpus
    return plan_for(
        spec, [4 + n if own is None or n in own else None for n in range(count)], cells=cells, memory=memory, io={1: CpuSet.of(9)}
    )


@pytest.mark.parametrize(("name", "kind"), list(itertools.product(SPECS, BUILDS)))
def test_libvirts_own_schema_accepts_the_domain(name, kind):
    schema, spec = domain_schema(), SPECS[name]
    files = {disk.name: domain.DiskFile(path=f"/images/{disk.name}") for disk in spec.disks}
    xml = domain.render(spec, plan(spec), domain.Build(uuid=UID, disks=files, kernel="/k", initrd="/i", **BUILDS[kind]))
    assert domain.validate(xml, schema) == ()


def test_the_elements_that_the_schema_refuses_are_named():
    schema = domain_schema()
    spec = dedicated(disks=(root_disk(),), interfaces=NETS[:1])
    xml = domain.render(spec, plan(spec), domain.Build(uuid=UID, disks={"root": domain.DiskFile(path="/r")}))
    spoilt = (
        xml.replace("<acpi/>", "<acpj/>")
        .replace('vcpu="2" cpuset="6"', 'vcpu="2" cpuset="six"')
        .replace("<on_crash>destroy<", "<on_crash>explode<")
        .replace('discard="unmap"', 'discard="map"')
    )
    problems = domain.validate(spoilt, schema)
    assert [(one.field, one.message.removeprefix("libvirt's schema does not accept ")) for one in problems] == [
        ("domain.cputune.vcpupin", '<vcpupin vcpu="2" cpuset="six"/>'),
        ("domain.features.acpj", "<acpj/>"),
        ("domain.on_crash", "<on_crash>explode</on_crash>"),
        ("domain.devices.disk.driver", '<driver name="qemu" type="raw" error_policy="stop" discard="map"/>'),
    ]
    assert all(one.line for one in problems)


def test_a_domain_without_what_it_must_have_is_refused_as_a_whole():
    schema = domain_schema()
    assert [one.field for one in domain.validate("<domain type='kvm'><memory>1</memory></domain>", schema)] == ["domain"]
    assert [one.code for one in domain.validate("<domain", schema)] == ["xml-syntax"]
