"""libvirt domains become manifests that the manifest reader takes, with a sentence for everything that is lost."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.vm_specs import GI, MI, UID, dedicated, plan_for, root_disk, vm

from quietcore import domain, manifest
from quietcore.model import (
    ClusterConfig,
    CpuSet,
    GuestCell,
    GuestTopology,
    Interface,
    IoThreads,
    Realtime,
)


def imported(xml):
    """The spec that the manifest reader makes of the import, and the notes."""
    made, notes = domain.to_manifest(xml)
    text = json.dumps(made)
    (document,) = manifest.load([manifest.SourceText(file="import.json", text=text)], ClusterConfig()).documents
    return document.spec, notes


def rendered(spec, plan, **fields):
    files = {disk.name: domain.DiskFile(path=f"/images/{disk.name}.img") for disk in spec.disks}
    return domain.render(spec, plan, domain.Build(uuid=UID, disks=files, **fields))


def test_our_own_domain_comes_back_as_it_was():
    spec = dedicated(
        cpu={
            "topology": GuestTopology(sockets=1, cores=2, threads=2),
            "model": "host-passthrough",
            "isolate_emulator": True,
            "numa_passthrough": True,
            "realtime": Realtime(vcpus=frozenset({1, 2, 3})),
        },
        memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI, "locked": True},
        disks=(root_disk(boot_order=1, serial="R1"),),
        interfaces=(
            Interface(name="lan", binding="bridge", source="br0", mac="02:00:00:00:00:01"),
            Interface(name="fast", binding="vhostuser", source="/run/fast.sock"),
        ),
        io_threads=IoThreads(policy="shared"),
    )
    cells = (GuestCell(cell=0, node=0, vcpus=(0, 1, 2, 3), memory_bytes=GI),)
    live = "<emulatorpin cpuset='0-1'/><vcpusched vcpus='1-3' scheduler='fifo' priority='2'/>"
    xml = rendered(spec, plan_for(spec, [2, 3, 4, 5], cells=cells)).replace('<emulatorpin cpuset="0-5"/>', live)
    back, notes = imported(xml)
    assert back.vm == spec.vm
    assert back.strategy == "dedicated"
    assert back.cpu.realtime == Realtime(mask="1-3", vcpus=frozenset({1, 2, 3}), priority=2)
    assert replace(back.cpu, realtime=None, features=(), max_sockets=0) == replace(spec.cpu, realtime=None)
    assert back.memory.hugepage_bytes == 2 * MI
    assert back.memory.guest_bytes == GI
    assert back.io_threads.policy == "shared"
    assert (back.graphics, back.memory_balloon, back.serial_console) == (False, False, True)
    assert [(one.binding, one.source, one.mac) for one in back.interfaces] == [
        ("bridge", "br0", "02:00:00:00:00:01"),
        ("vhostuser", "/run/fast.sock", ""),
    ]
    assert [(disk.source.path, disk.bus, disk.serial, disk.boot_order) for disk in back.disks] == [("/images/root.img", "virtio", "R1", 1)]
    assert notes == (
        "the pins to CPUs 2-5 are not carried over: placement chooses the CPUs; adopt the running VM to keep them",
        "the guest's NUMA cells follow from the placement, with memory split evenly by cell; their sizes are not carried over",
    )


def test_a_mix_of_dedicated_and_shared_vcpus_is_kept():
    spec = dedicated(cpu={"dedicated_vcpus": frozenset({1, 2})})
    back, notes = imported(rendered(spec, plan_for(spec, [None, 4, 5, None])))
    assert back.cpu.dedicated_vcpus == frozenset({1, 2})
    assert "vCPUs 0, 3 are pinned to several CPUs each; they become shared vCPUs" in notes


def test_io_threads_with_a_cpu_each_are_a_supplemental_pool():
    spec = dedicated(vcpus=2, disks=(root_disk(),), io_threads=IoThreads(policy="supplementalPool", pool=2))
    back, _ = imported(rendered(spec, plan_for(spec, [2, 3], io={1: CpuSet.of(4), 2: CpuSet.of(5)})))
    assert back.io_threads == IoThreads(policy="supplementalPool", pool=2)


def test_disks_with_a_thread_of_their_own_say_so():
    spec = vm(disks=(root_disk(dedicated_iothread=True), root_disk("data")), io_threads=IoThreads(policy="shared"))
    back, _ = imported(rendered(spec, plan_for(spec, [None, None])))
    assert back.io_threads.policy == "shared"
    assert [disk.dedicated_iothread for disk in back.disks] == [True, True]


WORKSTATION = """<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
  <name>Win 10 (audio)</name><uuid>AAAAAAAA-2222-3333-4444-555555555555</uuid>
  <memory unit="KiB">4194304</memory><currentMemory unit="KiB">2097152</currentMemory>
  <vcpu placement="static">6</vcpu>
  <cputune>
    <vcpupin vcpu="0" cpuset="2"/><vcpupin vcpu="1" cpuset="2"/><vcpupin vcpu="2" cpuset="4"/><vcpupin vcpu="3" cpuset="5"/>
    <emulatorpin cpuset="4,7"/><shares>2048</shares><quota>50000</quota>
    <vcpusched vcpus="2" scheduler="rr" priority="3"/><vcpusched vcpus="3" scheduler="fifo" priority="3"/>
  </cputune>
  <os><type arch="x86_64" machine="pc-i440fx-7.2">hvm</type><loader readonly="yes" type="pflash">/fw</loader><nvram>/vars</nvram></os>
  <features><acpi/><hyperv mode="custom"><relaxed state="on"/></hyperv></features>
  <cpu mode="host-passthrough"><topology sockets="1" dies="1" cores="3" threads="2"/></cpu>
  <clock offset="localtime"/>
  <devices>
    <disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="/images/win.qcow2"/><target dev="hda" bus="ide"/></disk>
    <disk type="block" device="disk"><source dev="/dev/vg/win"/><target dev="sdb" bus="scsi"/></disk>
    <disk type="file" device="cdrom"><target dev="sdc" bus="sata"/></disk>
    <interface type="network"><mac address="52:54:00:00:00:01"/><source network="default"/><model type="virtio"/></interface>
    <hostdev mode="subsystem" type="pci"><source><address domain="0" bus="1" slot="0" function="0"/></source></hostdev>
    <tpm model="tpm-crb"/><graphics type="spice"/><sound model="ich9"/>
  </devices>
  <qemu:commandline><qemu:arg value="-foo"/></qemu:commandline>
</domain>"""


def test_a_workstation_domain_says_what_is_lost():
    spec, notes = imported(WORKSTATION)
    assert (spec.vm.name, spec.cpu.topology, spec.memory.guest_bytes) == ("win-10-audio", GuestTopology(cores=3, threads=2), 4 * GI)
    assert spec.cpu.dedicated_vcpus == frozenset({2, 3})
    assert spec.firmware.uuid == "aaaaaaaa-2222-3333-4444-555555555555"
    assert notes == (
        "vCPUs 0, 1 share a CPU with another vCPU; they become shared vCPUs",
        "the pins to CPUs 4-5 are not carried over: placement chooses the CPUs; adopt the running VM to keep them",
        "the emulator is pinned to 4,7, the vCPUs' own CPUs; here it stays off them",
        "the scheduling policies rr have no equivalent; only SCHED_FIFO has one",
        "real-time vCPUs are not carried over: KubeVirt allows them only with dedicated CPUs, hugepages and NUMA passthrough",
        "CPU quotas are not carried over: a quota throttles vCPU threads in the middle of their work",
        "disk hda: /images/win.qcow2 is qcow2, and a hostDisk is raw: convert it (qemu-img convert -O raw) and change the path",
        "disk hda: the bus ide has no equivalent; sata takes its place",
        "disk sdb is not carried over: it is of type 'block', which needs a volume of the cluster",
        "disk sdc is not carried over: it is empty",
        "interface net0: libvirt's network 'default' has no equivalent; it becomes a masqueraded interface",
        "the device <hostdev type='pci'> has no equivalent",
        "the device <tpm type='tpm-crb'> has no equivalent",
        "the EFI variables of <nvram> are not carried over: the VM starts with new ones",
        "the machine type pc-i440fx-7.2 has no equivalent: KubeVirt allows q35 only, and the guest sees other hardware",
        "<commandline> has no equivalent",
        "the feature <hyperv> is not carried over",
        "the clock's offset 'localtime' is not carried over; the guest's clock is in UTC",
        "CPU shares follow from resources.requests.cpu in KubeVirt; add them there",
        "the guest gets the whole <memory>; ballooning to <currentMemory> and memory hotplug have no equivalent",
        "the name 'Win 10 (audio)' becomes 'win-10-audio': Kubernetes allows lower case letters, digits and dashes",
    )


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ("<vcpu>3</vcpu>", GuestTopology(sockets=3)),
        ("<vcpu current='2'>4</vcpu>", GuestTopology(sockets=2)),
        ("<vcpu current='3'>4</vcpu><cpu><topology sockets='2' cores='2' threads='1'/></cpu>", GuestTopology(sockets=3)),
        ("<vcpu current='2'>4</vcpu><cpu><topology sockets='2' cores='2' threads='1'/></cpu>", GuestTopology(cores=2)),
    ],
)
def test_the_number_of_vcpus_survives(extra, expected):
    spec, _ = imported(f"<domain type='kvm'><name>x</name><memory unit='MiB'>64</memory>{extra}<devices/></domain>")
    assert spec.cpu.topology == expected
