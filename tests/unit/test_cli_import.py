"""`quietcore import` prints manifests that the reader takes, tells what is lost, and refuses what contradicts itself."""

from __future__ import annotations

import json

import pytest

from quietcore import manifest
from quietcore.cli.main import run_cli
from quietcore.model import CpuSet

DOMAIN = """\
<domain type='kvm'>
  <name>Web</name><memory unit='GiB'>1</memory><vcpu>2</vcpu>
  <cputune><vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='3'/></cputune>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><serial type='pty'/><graphics type='vnc'/>{more}</devices>
</domain>
"""
FLAVOR = {"name": "rt", "vcpus": 4, "ram": 1024, "properties": {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "1-3"}}


@pytest.fixture
def quietcore(capsys, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("QUIETCORE_CONFIG", str(tmp_path / "config.toml"))

    def call(*arguments):
        code = run_cli(["import", *map(str, arguments)])
        return int(code), *capsys.readouterr()

    return call


def written(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def spec_of(text):
    return manifest.load([manifest.SourceText(file="out", text=text)]).documents[0].spec


@pytest.mark.parametrize("option", [[], ["--domain"]])
def test_a_domain_in_a_file_becomes_a_manifest_and_what_is_lost_is_told_apart(quietcore, tmp_path, option):
    code, out, err = quietcore(*option, written(tmp_path, "web.xml", DOMAIN.format(more="<tpm model='tpm-crb'/>")))
    assert (code, str(spec_of(out).vm), spec_of(out).cpu.dedicated) == (0, "default/web", True)
    assert err.splitlines() == [
        "note: the pins to CPUs 2-3 are not carried over: placement chooses the CPUs; adopt the running VM to keep them",
        "note: the device <tpm type='tpm-crb'> has no equivalent",
        "note: the name 'Web' becomes 'web': Kubernetes allows lower case letters, digits and dashes",
    ]


def test_what_the_manifest_still_lacks_is_told_with_its_field(quietcore, tmp_path):
    disk = "<disk type='file'><source file='relative.img'/><target dev='vda' bus='virtio'/></disk>"
    code, _, err = quietcore(written(tmp_path, "web.xml", DOMAIN.format(more=disk)))
    assert code == 0
    assert "note: before it can run: the manifest:" in err
    assert "spec.volumes[0].hostDisk.path: 'relative.img' is no absolute path" in err


def test_a_flavor_becomes_a_manifest_in_json_too(quietcore, tmp_path):
    code, out, err = quietcore("--flavor", written(tmp_path, "f.json", json.dumps(FLAVOR)), "-o", "json")
    spec = spec_of(json.dumps(json.loads(out)))
    assert (code, spec.cpu.topology.vcpus, spec.cpu.dedicated_vcpus) == (0, 4, frozenset(CpuSet.parse("1-3")))
    assert "note: a flavor names no image: add disks and volumes" in err.splitlines()


def test_a_flavor_that_contradicts_itself_is_refused_in_novas_words(quietcore, tmp_path):
    flavor = FLAVOR | {"properties": {"hw:cpu_policy": "shared", "hw:cpu_thread_policy": "require"}}
    code, out, err = quietcore("--flavor", written(tmp_path, "f.json", json.dumps(flavor)))
    assert (code, out) == (2, "")
    assert err == "error: hw:cpu_thread_policy: Cannot set cpu thread pinning policy in a non dedicated cpu pinning policy\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name one domain, one XML file or one flavor"),
        (["a.xml", "--flavor", "b"], "name one domain, one XML file or one flavor"),
        (["/nowhere/a.xml"], "/nowhere/a.xml: No such file or directory"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_and_exit_code_2(quietcore, arguments, sentence):
    code, out, err = quietcore(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sentence}")


def test_text_that_is_no_domain_is_refused(quietcore, tmp_path):
    code, _, err = quietcore(written(tmp_path, "pool.xml", "<pool/>"))
    assert (code, err) == (2, "error: the XML describes a 'pool', not a domain\n")
