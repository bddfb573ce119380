"""The domain XML, one concern after the other, and the facts read back from it."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from lxml import etree
from tests.vm_specs import GI, MI, UID, asking, dedicated, plan_for, root_disk, vm

from quietcore import domain
from quietcore.domain.disks import letters
from quietcore.errors import InputError
from quietcore.model import (
    Assignment,
    CloudInit,
    CpuFeature,
    CpuSet,
    Disk,
    DomainDisk,
    DomainFacts,
    EmptyDisk,
    Firmware,
    GuestCell,
    GuestTopology,
    Interface,
    IoThreads,
    KernelBoot,
    MemoryBinding,
    Realtime,
    VmName,
)

FILES = {name: domain.DiskFile(path=f"/images/{name}.qcow2", format="qcow2") for name in ("root", "data", "more", "seed", "key")}


def build(**fields):
    return domain.Build(**({"uuid": UID, "disks": MappingProxyType(FILES)} | fields))


def tree(spec, plan=None, **fields):
    made = plan or plan_for(spec, [2, 3, 4, 5][: spec.cpu.topology.vcpus] if spec.cpu.dedicated else [None] * spec.cpu.topology.vcpus)
    return etree.fromstring(domain.render(spec, made, build(**fields)))


def notes(spec, plan, **fields):
    return domain.compose(spec, plan, build(**fields)).notes


def attributes(root, path):
    return [dict(one.attrib) for one in root.findall(path)]


def test_dedicated_vcpus_have_one_cpu_each_and_everything_else_starts_on_the_shared_pool():
    spec = dedicated(vcpus=2, disks=(root_disk(),), io_threads=IoThreads(policy="shared"))
    root = tree(spec)
    assert (root.find("vcpu").text, dict(root.find("vcpu").attrib)) == ("2", {"placement": "static", "cpuset": "0-1"})
    assert attributes(root, "cputune/*") == [
        {"vcpu": "0", "cpuset": "2"},
        {"vcpu": "1", "cpuset": "3"},
        {"cpuset": "0-1"},
        {"iothread": "1", "cpuset": "0-1"},
    ]
    assert root.find("features/kvm/hint-dedicated").get("state") == "on"


def test_shared_vcpus_of_a_mix_are_pinned_to_the_shared_pool_and_the_kvm_hint_is_not_given():
    spec = dedicated(vcpus=3, cpu={"dedicated_vcpus": frozenset({1})})
    root = tree(spec, plan_for(spec, [None, 4, None]))
    assert [one["cpuset"] for one in attributes(root, "cputune/vcpupin")] == ["0-1", "4", "0-1"]
    assert root.find("features/kvm") is None


def test_neither_a_scheduler_nor_a_quota_is_ever_written():
    spec = dedicated(cpu={"realtime": Realtime(vcpus=frozenset({1}))}, resources=asking(cpu_limit="4"))
    assert {one.tag for one in tree(spec).find("cputune")} == {"vcpupin", "emulatorpin"}


def passed_through(**plan_fields):
    spec = dedicated(memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI}, cpu={"numa_passthrough": True})
    cells = (GuestCell(cell=0, node=1, vcpus=(0, 1, 2, 3), memory_bytes=GI),)
    plan = plan_for(spec, [8, 9, 10, 11], cells=cells, **plan_fields)
    return spec, plan


def test_for_preallocation_the_emulator_starts_on_the_guests_node_as_well():
    spec, plan = passed_through()
    plan_on_node = plan_for(spec, [8, 9, 10, 11], cells=plan.cells, vcpus=tuple(replace(one, node=1) for one in plan.vcpus))
    root = tree(spec, plan_on_node)
    assert root.find("cputune/emulatorpin").get("cpuset") == "0-1,8-11"
    assert notes(spec, plan_on_node) == (
        "QEMU starts on CPUs 0-1,8-11, to preallocate hugepages on the guest's nodes; before it runs, pin it to 0-1",
    )


def test_a_shared_pool_with_cpus_of_the_guests_node_needs_no_wider_pin():
    spec, plan = passed_through()
    root = tree(spec, plan, node_cpus={0: CpuSet.of(2, 3), 1: CpuSet.of(1, 8, 9, 10, 11)})
    assert root.find("cputune/emulatorpin").get("cpuset") == "0-1"
    assert notes(spec, plan, node_cpus={1: CpuSet.of(8)}) != ()


def test_where_the_vm_owns_no_cpu_of_the_hugepages_node_the_emulator_starts_without_a_pin():
    spec = vm(memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI})
    plan = plan_for(spec, [None, None], memory=(MemoryBinding(node=1, type="hugepages-2Mi", size_bytes=GI),))
    root = tree(spec, plan)
    assert root.find("cputune/emulatorpin") is None
    assert root.find("vcpu").get("cpuset") is None
    assert "before it runs, pin it to 0-1" in notes(spec, plan)[0]


def test_without_hugepages_a_bound_guest_keeps_its_emulator_pin():
    spec = dedicated()
    plan = plan_for(spec, [2, 3, 4, 5], memory=(MemoryBinding(node=1, type="memory", size_bytes=GI),))
    root = tree(spec, plan)
    assert root.find("cputune/emulatorpin").get("cpuset") == "0-1"
    assert dict(root.find("numatune/memory").attrib) == {"mode": "strict", "nodeset": "1"}
    assert tree(spec, plan, bind_memory=False).find("numatune") is None


def test_hugepages_without_passthrough_get_kubevirts_synthetic_cell():
    root = tree(vm(memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI}))
    assert attributes(root, "cpu/numa/cell") == [{"id": "0", "cpus": "0-1", "memory": str(GI // 1024), "unit": "KiB"}]
    assert attributes(root, "memoryBacking/source") == [{"type": "memfd"}]
    assert tree(vm(memory={"guest_bytes": GI, "hugepage_bytes": 2 * MI, "memfd": False})).find("cpu/numa") is None


def test_a_vhost_user_interface_shares_the_memory():
    root = tree(vm(interfaces=(Interface(name="fast", binding="vhostuser", source="/run/fast.sock"),)))
    assert [(one.tag, dict(one.attrib)) for one in root.find("memoryBacking")] == [
        ("source", {"type": "memfd"}),
        ("access", {"mode": "shared"}),
    ]
    assert attributes(root, "devices/interface/source") == [{"type": "unix", "path": "/run/fast.sock", "mode": "server"}]


def test_a_realtime_guest_has_nothing_that_disturbs_it():
    spec = dedicated(cpu={"realtime": Realtime(vcpus=frozenset({0}))}, memory={"guest_bytes": GI, "locked": True})
    root = tree(spec)
    assert [one.tag for one in root.find("memoryBacking")] == ["nosharepages", "locked"]
    assert root.find("features/pmu").get("state") == "off"
    assert root.find("devices/memballoon").get("model") == "none"
    assert root.find("devices/graphics") is None
    assert attributes(root, "cpu/feature") == [{"policy": "require", "name": "tsc-deadline"}]
    assert attributes(root, "clock/timer") == [{"name": "hpet", "present": "no"}]
    assert root.find("features").find("kvm") is not None


def test_without_kvm_host_models_become_the_maximum_and_a_note_says_so():
    spec = dedicated(cpu={"model": "host-passthrough", "features": (CpuFeature(name="tsc-deadline"), CpuFeature(name="x2apic"))})
    plan = plan_for(spec, [2, 3, 4, 5])
    cpu = tree(spec, plan, domain_type="qemu").find("cpu")
    assert (cpu.get("mode"), cpu.get("check")) == ("maximum", "none")
    assert attributes(cpu, "feature") == [{"policy": "require", "name": "x2apic"}]
    assert tree(spec, plan, domain_type="qemu").find("features/kvm") is None
    assert notes(spec, plan, domain_type="qemu") == (
        "CPU model host-passthrough needs KVM; without it the guest gets QEMU's maximum model",
        "CPU feature tsc-deadline needs KVM and is left out",
    )


def test_a_named_model_is_exact_and_loses_mpx():
    cpu = tree(vm(cpu={"model": "Haswell", "topology": GuestTopology(cores=2)})).find("cpu")
    assert (cpu.get("mode"), cpu.findtext("model"), attributes(cpu, "feature")) == (
        "custom",
        "Haswell",
        [{"policy": "disable", "name": "mpx"}],
    )


def test_sockets_for_later_are_listed_switched_off():
    root = tree(vm(cpu={"topology": GuestTopology(sockets=2), "max_sockets": 3}))
    assert (root.find("vcpu").text, root.find("vcpu").get("current")) == ("3", "2")
    assert attributes(root, "vcpus/vcpu") == [
        {"id": "0", "enabled": "yes", "hotpluggable": "no"},
        {"id": "1", "enabled": "yes", "hotpluggable": "yes"},
        {"id": "2", "enabled": "no", "hotpluggable": "yes"},
    ]
    assert attributes(root, "cpu/topology") == [{"sockets": "3", "cores": "1", "threads": "1"}]


def empty(name, **fields):
    return Disk(name=name, source=EmptyDisk(capacity_bytes=GI), **fields)


def threads(policy, disks, **fields):
    layout = domain.io_layout(vm(disks=disks, io_threads=IoThreads(policy=policy, pool=fields.pop("pool", 0)), **fields))
    return layout.total, dict(layout.of_disk), layout.scsi


def test_io_threads_are_counted_and_handed_out_as_in_kubevirt():
    own, plain = empty("own", dedicated_iothread=True), [empty("a"), empty("b"), empty("c")]
    assert threads(None, (root_disk(),)) == (0, {}, None)
    assert threads(None, (own, *plain)) == (2, {"own": 2, "a": 1, "b": 1, "c": 1}, None)
    assert threads("shared", (own, *plain)) == (2, {"own": 2, "a": 1, "b": 1, "c": 1}, None)
    assert threads("auto", (own, *plain), resources=asking(cpu_request="1500m")) == (4, {"own": 4, "a": 1, "b": 2, "c": 3}, None)
    assert threads("auto", (own, *plain)) == (2, {"own": 2, "a": 1, "b": 1, "c": 1}, None)
    assert threads("supplementalPool", tuple(plain), pool=2) == (2, {"a": 1, "b": 2, "c": 1}, None)
    assert threads("shared", ()) == (0, {}, None)
    assert threads("shared", (empty("s", bus="scsi", dedicated_iothread=True), *plain[:1]))[2] == 1


def test_under_the_strategy_whole_io_threads_share_the_vcpus_cpus():
    spec = dedicated(vcpus=4, disks=(root_disk(), empty("data")), io_threads=IoThreads(policy="auto"))
    plan = plan_for(spec, [2, 3, 4, 5], strategy="whole", emulator=CpuSet.parse("2-5"))
    assert attributes(tree(spec, plan), "cputune/iothreadpin") == [{"iothread": "1", "cpuset": "2-3"}, {"iothread": "2", "cpuset": "4-5"}]


def test_a_pool_serves_each_disk_with_all_threads_from_libvirt_10():
    spec = dedicated(disks=(root_disk(),), io_threads=IoThreads(policy="supplementalPool", pool=2), block_multiqueue=True)
    plan = plan_for(spec, [2, 3, 4, 5])
    old, new = tree(spec, plan), tree(spec, plan, libvirt_version=10_000_000)
    assert attributes(old, "devices/disk/driver")[0]["iothread"] == "1"
    assert "take turns" in notes(spec, plan)[0]
    assert attributes(new, "devices/disk/driver/iothreads/iothread") == [{"id": "1"}, {"id": "2"}]
    assert attributes(new, "devices/disk/driver")[0]["queues"] == "4"


def test_disks_of_every_bus_have_their_own_targets():
    spec = vm(
        disks=(
            root_disk(boot_order=1, serial="S1"),
            empty("data", bus="sata", cache="none", io="native"),
            Disk(name="seed", source=CloudInit(kind="nocloud"), bus="sata", device="cdrom"),
            empty("more"),
            empty("key", bus="usb"),
        )
    )
    root = tree(spec)
    assert attributes(root, "devices/disk/target") == [
        {"dev": "vda", "bus": "virtio"},
        {"dev": "sda", "bus": "sata"},
        {"dev": "sdb", "bus": "sata"},
        {"dev": "vdb", "bus": "virtio"},
        {"dev": "sdc", "bus": "usb"},
    ]
    assert [one.find("readonly") is not None for one in root.findall("devices/disk")] == [False, False, True, False, False]
    assert attributes(root, "devices/controller") == [{"type": "usb", "index": "0", "model": "qemu-xhci"}]
    assert (root.findtext("devices/disk/serial"), root.find("devices/disk/boot").get("order")) == ("S1", "1")


def test_disk_letters_go_on_after_z():
    assert [letters(number) for number in (0, 25, 26, 51, 52, 701, 702)] == ["a", "z", "aa", "az", "ba", "zz", "aaa"]


def test_everything_that_the_build_lacks_is_said_at_once():
    spec = vm(
        disks=(root_disk("one"), root_disk("two")),
        kernel_boot=KernelBoot(image="k", kernel_path="/k"),
        interfaces=(Interface(name="lan", binding="bridge"),),
    )
    with pytest.raises(InputError) as caught:
        tree(spec)
    assert [problem.message for problem in caught.value.problems] == [
        "the manifest boots a kernel from an image, and no kernel file was given",
        "no image file was given for disk one",
        "no image file was given for disk two",
        "interface lan is bound to a bridge, and no host bridge is named",
    ]


def test_a_bridge_of_the_pod_network_is_the_hosts_default():
    root = tree(vm(interfaces=(Interface(name="default", binding="bridge"),)), default_bridge="br0")
    assert attributes(root, "devices/interface/source") == [{"bridge": "br0"}]


def test_where_memory_cannot_be_locked_a_note_says_so():
    spec = vm(memory={"guest_bytes": GI, "locked": True})
    assert tree(spec, may_lock_memory=False).find("memoryBacking") is None
    assert notes(spec, plan_for(spec, [None, None]), may_lock_memory=False)[0].startswith("memory is not locked")


def test_ports_are_forwarded_by_passt_or_the_note_says_why_not():
    spec = vm(interfaces=(Interface(name="default", ports=(22, 80)),))
    assert attributes(tree(spec, passt=True), "devices/interface/portForward/range") == [{"start": "22"}, {"start": "80"}]
    assert notes(spec, plan_for(spec, [None, None])) == (
        "interface default: ports 22, 80 are not forwarded; that needs passt, which this host does not have",
    )


def test_a_kernel_of_its_own_and_smbios_values():
    spec = vm(
        kernel_boot=KernelBoot(image="k", kernel_path="/k", initrd_path="/i", args="console=ttyS0"),
        firmware=Firmware(uuid="11111111-2222-3333-4444-555555555555", serial="S-1"),
    )
    root = tree(spec, kernel="/files/k", initrd="/files/i")
    assert [(one.tag, one.text) for one in root.find("os")[1:4]] == [
        ("kernel", "/files/k"),
        ("initrd", "/files/i"),
        ("cmdline", "console=ttyS0"),
    ]
    assert root.findtext("uuid") == "11111111-2222-3333-4444-555555555555"
    assert root.findtext("sysinfo/system/entry") == "S-1"


def test_efi_takes_the_given_files_or_lets_libvirt_choose():
    spec = vm(firmware=Firmware(efi=True, secure_boot=True))
    given = tree(spec, loader="/fw/code.fd", nvram="/vm/vars.fd", nvram_template="/fw/vars.fd")
    assert attributes(given, "os/loader") == [{"readonly": "yes", "type": "pflash", "secure": "yes"}]
    assert attributes(given, "os/nvram") == [{"template": "/fw/vars.fd"}]
    assert given.find("features/smm") is not None
    chosen = tree(spec)
    assert (chosen.find("os").get("firmware"), attributes(chosen, "os/firmware/feature")) == (
        "efi",
        [{"enabled": "yes", "name": "secure-boot"}],
    )


@pytest.mark.parametrize(
    ("offset", "written"),
    [
        ("utc", {"offset": "utc"}),
        ("localtime", {"offset": "localtime"}),
        ("-3600", {"offset": "variable", "adjustment": "-3600", "basis": "utc"}),
        ("Europe/Berlin", {"offset": "timezone", "timezone": "Europe/Berlin"}),
    ],
)
def test_the_clock(offset, written):
    assert dict(tree(vm(clock_offset=offset)).find("clock").attrib) == written


def test_the_console_is_a_pty_with_a_log_and_graphics_are_a_socket():
    root = tree(vm(rng=True), console_log="/log/console")
    assert root.find("devices/serial").get("type") == "pty"
    assert attributes(root, "devices/serial/log") == [{"file": "/log/console", "append": "on"}]
    assert (attributes(root, "devices/graphics"), attributes(root, "devices/graphics/listen")) == ([{"type": "vnc"}], [{"type": "socket"}])
    assert attributes(root, "devices/rng/backend") == [{"model": "random"}]
    assert tree(vm(graphics=False)).find("devices/graphics") is None


def test_facts_read_back_what_was_rendered():
    spec, plan = passed_through(io=MappingProxyType({1: CpuSet.of(12)}))
    spec = replace(spec, disks=(root_disk(),), io_threads=IoThreads(policy="shared"))
    plan = replace(plan, assignments=(Assignment(container="dedicated", cpus=CpuSet.parse("8-12")),))
    assert domain.facts(domain.render(spec, plan, build())) == DomainFacts(
        name="default_rt",
        uuid=UID,
        domain_type="kvm",
        vcpus=4,
        max_vcpus=4,
        memory_bytes=GI,
        vm=VmName(name="rt"),
        uid=UID,
        strategy="dedicated",
        topology=GuestTopology(cores=4),
        cpu_mode="host-model",
        vcpu_pins={vcpu: CpuSet.of(8 + vcpu) for vcpu in range(4)},
        iothreads=(1,),
        iothread_pins={1: CpuSet.of(12)},
        numa_nodes=CpuSet.of(1),
        memnodes={0: CpuSet.of(1)},
        cell_vcpus={0: CpuSet.range(4)},
        hugepages=True,
        hugepage_bytes=(2 * MI,),
        disks=(DomainDisk(target="vda", source="/images/root.qcow2", format="qcow2", bus="virtio", iothread=1),),
        emulator="/usr/bin/qemu-system-x86_64",
        graphics=("vnc",),
    )


FOREIGN = """<domain type='kvm' id='3'><name>old</name><uuid>u</uuid><memory unit='GiB'>2</memory>
<vcpu placement='static' cpuset='0-7,^3' current='2'>4</vcpu><iothreads>3</iothreads><iothreadids><iothread id='2'/></iothreadids>
<cputune><vcpupin vcpu='1' cpuset='5'/><quota>50000</quota><vcpusched vcpus='0-1' scheduler='fifo' priority='2'/></cputune>
<cpu mode='host-passthrough'/><devices><console type='pty' tty='/dev/pts/4'/><graphics type='spice'/>
<disk type='block'><source dev='/dev/vg/old'/><target dev='sda' bus='scsi'/></disk></devices></domain>"""


def test_facts_of_a_foreign_domain():
    found = domain.facts(FOREIGN)
    assert (found.vm, found.strategy, found.vcpus, found.max_vcpus, found.memory_bytes) == (None, None, 2, 4, 2 * GI)
    assert found.default_cpus == CpuSet.parse("0-2,4-7")
    assert dict(found.vcpu_pins) == {1: CpuSet.of(5)}
    assert {vcpu: (one.policy, one.priority) for vcpu, one in found.vcpu_scheds.items()} == {0: ("fifo", 2), 1: ("fifo", 2)}
    assert (found.iothreads, found.quota, found.console_tty, found.graphics) == ((1, 2, 3), True, "/dev/pts/4", ("spice",))
    assert found.disks == (DomainDisk(target="sda", source="/dev/vg/old", bus="scsi"),)


@pytest.mark.parametrize(
    "text", ["", "<domain", "<network/>", "<domain><memory unit='parsec'>1</memory></domain>", "<domain><vcpu>x</vcpu></domain>"]
)
def test_text_that_is_no_domain_is_refused(text):
    with pytest.raises(InputError):
        domain.facts(text)
