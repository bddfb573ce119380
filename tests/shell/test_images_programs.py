"""The image store with the real programs: qemu-img, skopeo against a registry on loopback, and the seeds as the kernel's tools see them."""

import hashlib
import http.server
import io
import json
import subprocess
import tarfile
import threading
from types import MappingProxyType

import pytest

from lab.looking import PATIENCE_S
from quietcore.errors import InputError, OperationFailed, TimedOut
from quietcore.images import ImageStore, SubprocessRunner, prepare
from quietcore.images.seeds import write_seed
from quietcore.model import CloudInit, ContainerDisk, Disk, EmptyDisk, VmName
from tests.prerequisites import need_programs
from tests.vm_specs import vm

RUN = SubprocessRunner()


def disk_info(path):
    return json.loads(subprocess.run(["qemu-img", "info", "--output=json", path], capture_output=True, check=True, text=True).stdout)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_real_images_are_told_apart_and_get_overlays_that_name_their_format(tmp_path, kind):
    need_programs("qemu-img")
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, tmp_path / "x", "8M"], check=True)
    store = ImageStore(tmp_path / "images", RUN)
    assert store.import_path("q.io/x:1", tmp_path / "x").disk()[1] == kind
    disks = (Disk(name="root", source=ContainerDisk(image="q.io/x:1")), Disk(name="empty", source=EmptyDisk(capacity_bytes=1 << 24)))
    prepared = prepare(vm(disks=disks), store, tmp_path / "vms/x", RUN)
    info = disk_info(prepared.disks["root"].path)
    assert (info["format"], info["virtual-size"], info["backing-filename-format"]) == ("qcow2", 8 << 20, kind)
    assert info["backing-filename"] == str(tmp_path / f"vms/x/root-base.{kind}")
    assert disk_info(prepared.disks["empty"].path)["virtual-size"] == 1 << 24


def test_qemus_own_overlays_and_foreign_formats_are_refused(tmp_path):
    need_programs("qemu-img")
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", tmp_path / "base", "1M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", tmp_path / "base", tmp_path / "backed"], check=True)
    data = f"data_file={tmp_path / 'data'}"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", data, tmp_path / "external", "1M"], check=True)
    for kind in ("vmdk", "vdi", "vhdx", "qed"):
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, tmp_path / kind, "1M"], check=True)
    store = ImageStore(tmp_path / "images", RUN)
    said = {}
    for name in ("backed", "external", "vmdk", "vdi", "vhdx", "qed"):
        with pytest.raises(InputError) as caught:
            store.import_path("x", tmp_path / name)
        said[name] = caught.value.message.removeprefix(f"{tmp_path / name} is a ")
    assert said == {
        "backed": "qcow2 image that names a backing file",
        "external": "qcow2 image that keeps its data in another file",
        "vmdk": "vmdk image",
        "vdi": "vdi image",
        "vhdx": "vhdx image",
        "qed": "qed image",
    }


@pytest.mark.parametrize(
    ("kind", "label", "files"),
    [
        ("nocloud", "cidata", {"user-data": "#cloud-config\nhostname: ä\n", "network-config": "version: 2\n"}),
        ("configdrive", "config-2", {"openstack/latest/user_data": "#cloud-config\nhostname: ä\n"}),
    ],
)
def test_a_seed_is_an_iso_that_other_tools_read(tmp_path, kind, label, files):
    need_programs("blkid", "bsdtar")
    network = files.get("network-config", "")
    seed = CloudInit(kind=kind, user_data="#cloud-config\nhostname: ä\n", network_data=network)
    write_seed(seed, VmName(name="web"), "", tmp_path / "seed.iso")
    found = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "LABEL", "-s", "TYPE", tmp_path / "seed.iso"], capture_output=True, check=True, text=True
    )
    assert sorted(found.stdout.split()) == sorted([label, "iso9660"])
    (tmp_path / "out").mkdir()
    subprocess.run(["bsdtar", "-xf", tmp_path / "seed.iso", "-C", tmp_path / "out"], check=True)
    assert {name: (tmp_path / "out" / name).read_text() for name in files} == files


class Registry(http.server.BaseHTTPRequestHandler):
    """The reading half of the distribution API for the blobs and manifests that it was given."""

    content = MappingProxyType({})

    def do_GET(self):
        kind, body = self.content.get(self.path, ("application/json", b""))
        known = self.path in self.content or self.path == "/v2/"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if "/manifests/" in self.path:
            self.send_header("Docker-Content-Digest", digest(body))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

    def log_message(self, *_):
        pass


def digest(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def packed(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def registry():
    """A registry on loopback with the image demo/disk:1 of two layers; the upper one hides a file of the lower one."""
    layers = [
        packed({"disk/old.img": bytes(512), "boot/vmlinuz": b"kernel"}),
        packed({"disk/.wh.old.img": b"", "disk/new.img": b"x" * 1024}),
    ]
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(b"%d" % n) for n in (1, 2)]}}
    ).encode()
    described = [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "size": len(one), "digest": digest(one)} for one in layers]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": len(config), "digest": digest(config)},
            "layers": described,
        }
    ).encode()
    blobs = {f"/v2/demo/disk/blobs/{digest(one)}": ("application/octet-stream", one) for one in (*layers, config)}
    manifests = {
        f"/v2/demo/disk/manifests/{name}": ("application/vnd.oci.image.manifest.v1+json", manifest) for name in ("1", digest(manifest))
    }
    handler = type("Loaded", (Registry,), {"content": blobs | manifests})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_image_is_pulled_from_a_registry(tmp_path, registry):
    need_programs("skopeo")
    store = ImageStore(tmp_path / "images", RUN)
    image = store.pull(f"{registry}/demo/disk:1", tls_verify=False, timeout_s=PATIENCE_S)
    assert sorted(image.files) == ["/boot/vmlinuz", "/disk/new.img"]
    path, kind = image.disk()
    assert (path.read_bytes(), kind) == (b"x" * 1024, "raw")
    assert store.list() == (image,)
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [".lock", "content", "refs"]


def test_what_the_registry_does_not_have_is_an_error_with_skopeos_words(tmp_path, registry):
    need_programs("skopeo")
    with pytest.raises(OperationFailed, match="skopeo failed with exit code 1") as caught:
        ImageStore(tmp_path / "images", RUN).pull(f"{registry}/demo/disk:2", tls_verify=False, timeout_s=PATIENCE_S)
    assert f"skopeo inspect docker://{registry}/demo/disk:2" in caught.value.hint
    assert [path.name for path in (tmp_path / "images/content").iterdir()] == []


def test_a_program_that_is_absent_fails_or_hangs_is_reported_in_words():
    with pytest.raises(OperationFailed, match="no-such-program is not installed"):
        RUN.run(["no-such-program"])
    with pytest.raises(OperationFailed, match="cat failed with exit code 1: cat: /no/such: No such file or directory"):
        RUN.run(["cat", "/no/such"], hint="h")
    with pytest.raises(TimedOut, match="sleep did not end within"):
        RUN.run(["sleep", "30"], timeout_s=0.1)
