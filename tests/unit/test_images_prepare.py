"""A VM's files: made in its own directory, all of what is missing named at once, nothing left after a failure."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.vm_specs import vm

from quietcore.errors import OperationFailed
from quietcore.images import ImageStore, discard, prepare, references, undo
from quietcore.images.seeds import seed_files
from quietcore.model import CloudInit, ContainerDisk, Disk, EmptyDisk, HostDisk, KernelBoot, VmName

RAW = b"boot".ljust(512, b"\0") + bytes(4096 - 512)


class FakeImg:
    """qemu-img's place: writes the file that it was asked for, and fails for names in `broken`."""

    def __init__(self, *broken):
        self.broken, self.ran = broken, []

    def run(self, argv, *, timeout_s=60, hint=""):
        self.ran.append(tuple(argv))
        target = next(part for part in argv if part.endswith(".qcow2"))
        if any(name in target for name in self.broken):
            raise OperationFailed("qemu-img failed with exit code 1: no space left")
        Path(target).touch(exist_ok=False)
        return ""


@pytest.fixture
def store(tmp_path):
    found = ImageStore(tmp_path / "images", FakeImg())
    (tmp_path / "root.img").write_bytes(RAW)
    found.import_path("q.io/root:1", tmp_path / "root.img")
    (tmp_path / "k/boot").mkdir(parents=True)
    (tmp_path / "k/boot/vmlinuz").write_bytes(b"kernel")
    (tmp_path / "k/boot/initrd").write_bytes(b"initrd")
    found.import_path("q.io/kernel:1", tmp_path / "k")
    return found


BOOT = KernelBoot(image="q.io/kernel:1", kernel_path="/boot/vmlinuz", initrd_path="/boot/initrd")


def disk(name, source, **fields):
    return Disk(name=name, source=source, **fields)


def test_every_kind_of_disk_is_made_in_the_vms_own_directory(store, tmp_path):
    spec = vm(
        "web",
        kernel_boot=BOOT,
        disks=(
            disk("root", ContainerDisk(image="q.io/root:1")),
            disk("cd", ContainerDisk(image="q.io/root:1"), device="cdrom"),
            disk("scratch", EmptyDisk(capacity_bytes=1 << 20)),
            disk("data", HostDisk(path=str(tmp_path / "new/deep/data.img"), create=True, capacity_bytes=8192)),
            disk("seed", CloudInit(kind="nocloud", user_data="#cloud-config\n")),
        ),
    )
    run, directory = FakeImg(), tmp_path / "vms/default_web"
    prepared = prepare(spec, store, directory, run)
    shown = {name: (one.path, one.format, one.readonly) for name, one in prepared.disks.items()}
    assert shown == {
        "root": (directory / "root.qcow2", "qcow2", False),
        "cd": (store.resolve("q.io/root:1").disk()[0], "raw", True),
        "scratch": (directory / "scratch.qcow2", "qcow2", False),
        "data": (tmp_path / "new/deep/data.img", "raw", False),
        "seed": (directory / "seed.iso", "raw", True),
    }
    base, overlay = directory / "root-base.raw", directory / "root.qcow2"
    assert run.ran == [
        ("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base), str(overlay)),
        ("qemu-img", "create", "-q", "-f", "qcow2", str(directory / "scratch.qcow2"), "1048576"),
    ]
    assert (base.read_bytes(), (tmp_path / "new/deep/data.img").stat().st_size) == (RAW, 8192)
    assert (prepared.kernel.read_bytes(), prepared.initrd.read_bytes()) == (b"kernel", b"initrd")
    assert (directory / "seed.iso").stat().st_mode & 0o777 == 0o600
    undo(prepared.created)
    assert not directory.exists()
    assert not (tmp_path / "new").exists()


def test_a_new_directory_of_a_host_disk_that_others_use_by_now_stays(store, tmp_path):
    spec = vm(disks=(disk("data", HostDisk(path=str(tmp_path / "new/data.img"), create=True, capacity_bytes=512)),))
    prepared = prepare(spec, store, tmp_path / "vms/x", FakeImg())
    (tmp_path / "new/other.img").write_bytes(b"other")
    undo(prepared.created)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["other.img"]


def test_everything_that_is_missing_is_named_at_once_and_nothing_is_made(store, tmp_path):
    spec = vm(
        "web",
        kernel_boot=replace(BOOT, initrd_path="/boot/nothing"),
        disks=(
            disk("a", ContainerDisk(image="q.io/absent:1")),
            disk("b", ContainerDisk(image="q.io/absent:2")),
            disk("c", ContainerDisk(image="q.io/root:1", path="/disk/other")),
            disk("d", HostDisk(path=str(tmp_path / "file/disk.img"), create=True, capacity_bytes=1)),
            disk("e", HostDisk(path="relative.img")),
            disk("f", HostDisk(path=str(tmp_path / "absent.img"))),
            disk("g", HostDisk(path=str(tmp_path / "big.img"), create=True, capacity_bytes=1 << 60)),
        ),
    )
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OperationFailed) as caught:
        prepare(spec, store, tmp_path / "vms/x", FakeImg())
    assert [problem.message.replace(str(tmp_path), "") for problem in caught.value.problems[:6]] == [
        "image q.io/absent:1 is not in the image store",
        "image q.io/absent:2 is not in the image store",
        "image q.io/root:1 has no file /disk/other",
        "host disk d: /file/disk.img: /file is no directory",
        "host disk e: relative.img is no absolute path",
        "host disk f: /absent.img does not exist",
    ]
    assert "needs 1152921504606846976 bytes" in caught.value.problems[6].message
    assert caught.value.problems[7].message == "image q.io/kernel:1 has no file /boot/nothing"
    assert "quietcore image pull q.io/absent:1" in caught.value.problems[0].hint
    assert not (tmp_path / "vms").exists()


def test_a_step_that_fails_takes_back_the_ones_before_it(store, tmp_path):
    spec = vm(
        disks=(
            disk("data", HostDisk(path=str(tmp_path / "data.img"), create=True, capacity_bytes=512)),
            disk("root", ContainerDisk(image="q.io/root:1")),
            disk("scratch", EmptyDisk(capacity_bytes=1)),
        )
    )
    with pytest.raises(OperationFailed, match="no space left"):
        prepare(spec, store, tmp_path / "vms/x", FakeImg("scratch"))
    assert not (tmp_path / "vms/x").exists()
    assert not (tmp_path / "data.img").exists()


def test_a_second_start_begins_with_new_disks_and_the_same_host_disk(store, tmp_path):
    spec = vm(
        disks=(
            disk("root", ContainerDisk(image="q.io/root:1")),
            disk("data", HostDisk(path=str(tmp_path / "data.img"), create=True, capacity_bytes=512)),
        )
    )
    prepare(spec, store, tmp_path / "vms/x", FakeImg())
    (tmp_path / "data.img").write_bytes(b"kept".ljust(512))
    second = prepare(spec, store, tmp_path / "vms/x", FakeImg())
    assert second.created == (tmp_path / "vms/x",)
    discard(tmp_path / "vms/x")
    discard(tmp_path / "vms/x")
    assert (tmp_path / "data.img").read_bytes().startswith(b"kept")


def test_a_vms_disk_outlives_the_image_in_the_store(store, tmp_path):
    prepare(vm(disks=(disk("root", ContainerDisk(image="q.io/root:1")),)), store, tmp_path / "vms/x", FakeImg())
    store.remove("q.io/root:1")
    assert (tmp_path / "vms/x/root-base.raw").read_bytes() == RAW


def test_a_disk_name_cannot_leave_the_directory(store, tmp_path):
    spec = vm(disks=(disk("../../x", EmptyDisk(capacity_bytes=512)),))
    prepared = prepare(spec, store, tmp_path / "vms/x", FakeImg())
    assert prepared.disks["../../x"].path == tmp_path / "vms/x/..%2F..%2Fx.qcow2"


def test_the_images_of_a_vm_are_named_once_in_full(store):
    spec = vm(
        kernel_boot=BOOT,
        disks=(disk("a", ContainerDisk(image="fedora")), disk("b", ContainerDisk(image="docker.io/library/fedora:latest"))),
    )
    assert references(spec) == ("docker.io/library/fedora:latest", "q.io/kernel:1")


def test_seeds_hold_the_files_that_cloud_init_reads():
    name = VmName(namespace="lab", name="web")
    label, files = seed_files(CloudInit(kind="nocloud", user_data="u", network_data="n"), name, "")
    assert (label, files) == (
        "cidata",
        {"meta-data": b'{\n "instance-id": "web.lab",\n "local-hostname": "web"\n}\n', "user-data": b"u", "network-config": b"n"},
    )
    label, files = seed_files(CloudInit(kind="configdrive", user_data="u"), name, "host1")
    assert (label, sorted(files)) == ("config-2", ["openstack/latest/meta_data.json", "openstack/latest/user_data"])
    assert b'"hostname": "host1"' in files["openstack/latest/meta_data.json"]
