"""The image store: what comes in, how it is named, and that damage and crashes leave the old state or the new one."""

import io
import json
import os
import struct
import tarfile
from pathlib import Path

import pytest

from quietcore.errors import InputError, OperationFailed
from quietcore.images import ImageStore
from quietcore.images.content import ContentWriter
from quietcore.images.formats import disk_format
from quietcore.images.layers import unpack


class NoRunner:
    """Stands where no program may be run."""

    def run(self, argv, *, timeout_s=60, hint=""):
        raise AssertionError(f"ran {argv}")


@pytest.fixture
def store(tmp_path):
    return ImageStore(tmp_path / "images", NoRunner())


def qcow2(*, backing=0, version=3, features=0):
    head = b"QFI\xfb" + struct.pack(">IQI", version, backing, 0)
    return head.ljust(72, b"\0") + struct.pack(">Q", features) + bytes(1024)


RAW = b"boot".ljust(512, b"\0") + bytes(1 << 20)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(RAW, "raw"), (qcow2(), "qcow2"), (qcow2(version=2), "qcow2"), (bytes(0x8001) + b"CD001" + bytes(2042), "iso")],
)
def test_the_format_is_told_by_the_first_bytes(tmp_path, content, expected):
    (tmp_path / "x").write_bytes(content)
    assert disk_format(tmp_path / "x") == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (qcow2(backing=0x200), "names a backing file"),
        (qcow2(features=4), "keeps its data in another file"),
        (qcow2(version=9), "unknown version 9"),
        (b"\x1f\x8b" + bytes(510), "compressed with gzip"),
        (b"KDMV" + bytes(508), "vmdk image"),
        (b"", "no disk image: 0 bytes"),
        (b"hello\n", "no disk image: 6 bytes"),
    ],
)
def test_an_image_that_is_no_disk_or_reaches_outside_itself_is_refused(store, tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=reason):
        store.import_path("demo:1", tmp_path / "x")
    assert store.list() == ()
    assert list((tmp_path / "images").glob("content/*")) == []


def test_a_disk_is_stored_below_disk_and_found_by_any_form_of_its_name(store, tmp_path):
    (tmp_path / "root.img").write_bytes(RAW)
    stored = store.import_path("demo", tmp_path / "root.img")
    assert stored == store.resolve("docker.io/library/demo:latest")
    path, kind = stored.disk()
    assert (path.read_bytes(), kind, stored.disks, stored.size_bytes) == (RAW, "raw", ("/disk/root.img",), len(RAW))
    assert path.stat().st_blocks * 512 < len(RAW)  # holes stay holes
    assert stat_mode(path) == 0o644


def stat_mode(path):
    return path.stat().st_mode & 0o777


def test_the_umask_does_not_hide_an_image_from_qemus_user(store, tmp_path):
    (tmp_path / "root.img").write_bytes(RAW)
    old = os.umask(0o077)
    try:
        path, _ = store.import_path("demo", tmp_path / "root.img").disk()
    finally:
        os.umask(old)
    inside = [parent for parent in path.parents if parent.is_relative_to(tmp_path / "images")]
    assert all(stat_mode(parent) & 0o001 for parent in inside)
    assert stat_mode(path) == 0o644


def test_a_directory_keeps_its_paths_and_its_links_stay_inside(store, tmp_path):
    tree = tmp_path / "tree"
    (tree / "boot").mkdir(parents=True)
    (tree / "boot/vmlinuz-6").write_bytes(b"kernel")
    (tree / "boot/vmlinuz").symlink_to("vmlinuz-6")
    (tree / "passwd").symlink_to("/etc/passwd")
    (tree / "up").symlink_to("../../../../../../etc")
    image = store.import_path("q.io/kernel:1", tree)
    assert image.file("/boot/vmlinuz").read_bytes() == b"kernel"
    for path in ("/passwd", "/up/passwd", "../../etc/passwd", "/etc/passwd"):
        with pytest.raises(OperationFailed, match="has no file"):
            image.file(path)
    assert [path for path in image.directory.rglob("*") if path.is_symlink()] == []


def test_a_single_file_may_go_to_a_place_of_its_own(store, tmp_path):
    (tmp_path / "bzImage").write_bytes(b"kernel")
    assert (
        store.import_path("q.io/kernel:1", tmp_path / "bzImage", member="../boot/vmlinuz").file("/boot/vmlinuz").read_bytes() == b"kernel"
    )


def test_a_source_that_is_neither_file_nor_directory_is_refused(store, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="neither a file nor a directory"):
        store.import_path("x", tmp_path / "pipe")
    with pytest.raises(InputError, match="No such file"):
        store.import_path("x", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no files"):
        store.import_path("x", tmp_path / "empty")


def test_importing_again_replaces_and_equal_content_is_kept(store, tmp_path):
    source = tmp_path / "root.img"
    source.write_bytes(RAW)
    first = store.import_path("demo", source)
    assert store.import_path("demo", source) == first
    source.write_bytes(RAW + bytes(512))
    second = store.import_path("demo", source)
    assert second != first
    assert store.list() == (second,)
    assert [path.name for path in (tmp_path / "images/content").iterdir()] == [second.directory.name]


def test_an_image_in_use_is_not_removed(store, tmp_path):
    (tmp_path / "root.img").write_bytes(RAW)
    store.import_path("demo", tmp_path / "root.img")
    with pytest.raises(OperationFailed, match="in use by a VM"):
        store.remove("demo", used=("docker.io/library/demo:latest",))
    store.remove("demo", used=("other",))
    assert store.list() == ()
    assert list((tmp_path / "images/content").iterdir()) == []
    with pytest.raises(OperationFailed, match="is not in the image store") as caught:
        store.remove("demo")
    assert "quietcore image pull docker.io/library/demo:latest" in caught.value.hint


def test_a_crash_before_the_record_is_written_leaves_the_old_image(store, tmp_path, monkeypatch):
    source = tmp_path / "root.img"
    source.write_bytes(RAW)
    old = store.import_path("demo", source)
    source.write_bytes(RAW + RAW)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.import_path("demo", source)
    assert store.resolve("demo") == old
    assert old.disk()[0].read_bytes() == RAW


def test_a_damaged_record_is_named_with_what_to_do(store, tmp_path):
    (tmp_path / "root.img").write_bytes(RAW)
    store.import_path("demo", tmp_path / "root.img")
    (record,) = (tmp_path / "images/refs").glob("*.json")
    record.write_text(json.dumps({"schema": 99}))
    with pytest.raises(OperationFailed, match="schema 99") as caught:
        store.resolve("demo")
    assert str(record) in caught.value.hint


def test_a_record_cannot_name_content_outside_the_store(store, tmp_path):
    (tmp_path / "root.img").write_bytes(RAW)
    store.import_path("demo", tmp_path / "root.img")
    (record,) = (tmp_path / "images/refs").glob("*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"content": "../../../etc"}))
    assert store.resolve("demo").directory == tmp_path / "images/content/etc"


def layer(*entries):
    """One layer as tar: (name, content) for a file, (name, "link", target), (name, "hard", target), (name, "dir")."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, what, *target in entries:
            member = tarfile.TarInfo(name)
            if isinstance(what, bytes):
                member.size = len(what)
                archive.addfile(member, io.BytesIO(what))
                continue
            member.type = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "dir": tarfile.DIRTYPE, "device": tarfile.CHRTYPE}[what]
            member.linkname = target[0] if target else ""
            archive.addfile(member)
    return out.getvalue()


def oci_image(directory, *layers):
    """An OCI image directory whose blobs are named by made-up digests: the store trusts skopeo to have checked them."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    names = [f"{number:064x}" for number in range(1, len(layers) + 1)]
    for name, content in zip(names, layers, strict=True):
        (blobs / name).write_bytes(content)
    media = "application/vnd.oci.image.layer.v1.tar+gzip"
    (blobs / ("f" * 64)).write_text(json.dumps({"layers": [{"mediaType": media, "digest": f"sha256:{name}"} for name in names]}))
    (directory / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:" + "f" * 64}]}))
    return directory


def unpacked(tmp_path, *layers):
    writer = ContentWriter(tmp_path / "out")
    (tmp_path / "out").mkdir()
    unpack(oci_image(tmp_path / "oci", *layers), writer, NoRunner())
    image = writer.finish("x")
    return {path: image.file(path).read_bytes() for path in image.files}, dict(image.links)


def test_upper_layers_win_and_whiteouts_hide(tmp_path):
    files, links = unpacked(
        tmp_path,
        layer(("a/one", b"1"), ("a/two", b"2"), ("b/three", b"3"), ("b/four", b"4"), ("keep", b"k"), ("was-file", b"x")),
        layer(("a/.wh.one", b""), ("b/.wh..wh..opq", b""), ("b/five", b"5"), ("a/two", b"22"), ("was-file", "dir"), ("was-file/in", b"y")),
    )
    assert files == {"/a/two": b"22", "/b/five": b"5", "/keep": b"k", "/was-file/in": b"y"}
    assert links == {}


def test_links_in_layers_are_kept_as_text_and_files_land_where_they_lead(tmp_path):
    files, links = unpacked(
        tmp_path,
        layer(("usr/lib/x", b"x"), ("lib", "link", "usr/lib"), ("etc/mtab", "link", "/proc/mounts"), ("same", "hard", "usr/lib/x")),
        layer(("lib/y", b"y"), ("lib/.wh.x", b""), ("dev/null", "device")),
    )
    assert files == {"/same": b"x", "/usr/lib/y": b"y"}
    assert links == {"/lib": "usr/lib", "/etc/mtab": "/proc/mounts"}


def test_names_that_would_leave_the_image_stay_inside(tmp_path):
    files, _ = unpacked(
        tmp_path,
        layer(
            ("../../escape", b"1"),
            ("/etc/absolute", b"2"),
            ("out", "link", "../../../.."),
            ("out/below", b"3"),
            ("h", "hard", "/etc/passwd"),
        ),
    )
    assert files == {"/escape": b"1", "/etc/absolute": b"2", "/below": b"3"}
    assert not (tmp_path / "escape").exists()


@pytest.mark.parametrize("damage", ["index.json", "blobs/sha256/" + "f" * 64, "blobs/sha256/" + f"{1:064x}"])
def test_a_damaged_image_is_refused(tmp_path, damage):
    oci = oci_image(tmp_path / "oci", layer(("a", b"1" * 5000)))
    (oci / damage).write_bytes((oci / damage).read_bytes()[:20])
    (tmp_path / "out").mkdir()
    with pytest.raises(OperationFailed, match="damaged or of an unknown kind"):
        unpack(oci, ContentWriter(tmp_path / "out"), NoRunner())


def test_a_container_disk_holds_exactly_one_file(store, tmp_path):
    (tmp_path / "t/disk").mkdir(parents=True)
    (tmp_path / "t/other").write_bytes(b"x")
    with pytest.raises(OperationFailed, match="has no disk"):
        store.import_path("x", tmp_path / "t").disk()
    for name in ("a.img", "b.img"):
        (tmp_path / "t/disk" / name).write_bytes(RAW)
    image = store.import_path("x", tmp_path / "t")
    with pytest.raises(OperationFailed, match="has 2 files below /disk") as caught:
        image.disk()
    assert "/disk/a.img, /disk/b.img" in caught.value.hint
    assert image.disk("/disk/b.img")[1] == "raw"
