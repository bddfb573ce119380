"""`validate`, `pod` and `plan` on manifests alone: every cause and warning is told, and the KubeVirt resource of the input counts."""

from __future__ import annotations

import json

import pytest
import yaml

from quietcore.cli.main import run_cli
from quietcore.engine import domain_xml

KUBEVIRT = """\
apiVersion: kubevirt.io/v1
kind: KubeVirt
metadata: {name: kubevirt}
spec: {configuration: {developerConfiguration: {cpuAllocationRatio: 4}}}
---
"""
VM = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: one}
spec:
  domain:
    cpu: {cores: 3, dedicatedCpuPlacement: DEDICATED}
    memory: {guest: 1Gi, hugepages: {pageSize: 1Gi}}
    devices: {disks: [{name: root}]}
  volumes: [{name: root, containerDisk: {image: "registry/disk:1"}}]
"""
DEDICATED, SHARED = VM.replace("DEDICATED", "true"), VM.replace("DEDICATED", "false")
ODD = "spec.domain.cpu: 3 vCPUs make 3 CPUs, an odd number"
MARK = "[a rule of quietcore, not of KubeVirt]"


@pytest.fixture
def quietcore(capsys, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("QUIETCORE_CONFIG", str(tmp_path / "config.toml"))

    def call(command, text, *arguments):
        (tmp_path / "vm.yaml").write_text(text)
        code = run_cli([command, "-f", str(tmp_path / "vm.yaml"), *arguments])
        out, err = capsys.readouterr()
        return int(code), out, err.replace(f"{tmp_path}/", "").splitlines()

    return call


def test_a_good_manifest_is_valid_and_its_warnings_are_told_apart(quietcore, tmp_path):
    code, out, err = quietcore("validate", DEDICATED)
    assert (code, out) == (0, f"{tmp_path}/vm.yaml: default/one is valid\n")
    assert [(ODD in line, line.startswith("warning: vm.yaml:6:5: "), line.endswith(MARK)) for line in err] == [(True, True, True)]


def test_every_cause_is_told_and_the_warnings_beside_them(quietcore):
    broken = DEDICATED.replace("3, ded", "3, realtime: {}, ded").replace("1Gi, huge", "1Gi, maxGeust: 1, huge")
    code, out, err = quietcore("validate", broken)
    assert (code, out) == (2, "")
    assert [line.partition(" ")[0] for line in err] == ["warning:", "error:", "error:"]
    assert "guestMappingPassthrough must be defined when spec.domain.cpu.realtime is used" in err[1]
    assert err[2] == "error: vm.yaml:7:26: spec.domain.memory.maxGeust: unknown field (did you mean maxGuest?)"


def test_faults_are_one_json_object_that_says_which_rules_are_ours(quietcore):
    code, out, _ = quietcore("validate", DEDICATED.replace('"registry/disk:1"', '"-"').replace("cores: 3", "cores: -3"), "-o", "json")
    answer = json.loads(out)
    assert (code, answer["kind"]) == (2, "Error")
    assert [(one["field"], one["ours"]) for one in answer["errors"]] == [("spec.domain.cpu.cores", False)]
    code, out, _ = quietcore("validate", DEDICATED.replace('"registry/disk:1"', '"-"'), "-o", "json")
    assert [(one["field"], one["ours"]) for one in json.loads(out)["errors"]] == [("spec.volumes[0].containerDisk.image", True)]


def test_warnings_are_in_the_json_of_a_good_manifest(quietcore):
    answer = json.loads(quietcore("validate", DEDICATED, "-o", "json")[1])
    assert (answer["ok"], answer["vms"], answer["errors"]) == (True, [{"namespace": "default", "name": "one"}], [])
    assert [(one["field"], one["ours"]) for one in answer["warnings"]] == [("spec.domain.cpu", True)]


@pytest.mark.parametrize(
    ("machine", "code"), [("sockets=1,cores=4,threads=2,mem=8Gi", 3), ("sockets=1,cores=4,threads=2,mem=8Gi,hugepages-1Gi=2", 0)]
)
def test_hugepages_that_no_node_can_hold_are_found_on_a_named_machine(quietcore, machine, code):
    answered, _, err = quietcore("validate", DEDICATED, "--machine", machine)
    assert answered == code
    found = [line for line in err if line.startswith("error: vm.yaml:1: default/one can never run on ") and line.endswith(MARK)]
    assert len(found) == (1 if code else 0)
    assert all("hugepages-1Gi are wanted and 0 are free" in line for line in found)


def test_the_pod_follows_the_kubevirt_resource_of_the_input_and_names_its_images(quietcore):
    def compute(text):
        (pod,) = yaml.safe_load_all(quietcore("pod", text)[1])
        return pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], pod["spec"]["containers"][1]["image"]

    assert compute(SHARED) == ("300m", "registry/disk:1")
    assert compute(KUBEVIRT + SHARED) == ("750m", "registry/disk:1")


def test_where_the_pod_is_not_kubevirts_is_told(quietcore):
    err = quietcore("pod", DEDICATED)[2]
    assert err[-1].startswith("note: default/one: the CPUs stand on the placeholder container")


def test_a_plan_follows_the_kubevirt_resource_of_the_input(quietcore):
    heavy = KUBEVIRT.replace("developerConfiguration: {cpuAllocationRatio: 4}", 'additionalGuestMemoryOverheadRatio: "100"')
    small = DEDICATED.replace(", hugepages: {pageSize: 1Gi}", "")
    machine = ("--machine", "sockets=1,cores=4,threads=1,mem=8Gi")
    assert quietcore("plan", small, *machine)[0] == 0
    code, out, _ = quietcore("plan", heavy + small, *machine)
    assert (code, "bytes of memory are wanted" in out) == (3, True)


def test_the_pods_table_shows_what_every_container_weighs(quietcore):
    rows = [line.split() for line in quietcore("pod", DEDICATED, "-o", "table")[1].splitlines()[1:]]
    assert [(row[2], row[3], row[-2], row[-1]) for row in rows] == [
        ("compute", "200m", "204", "29"),
        ("dedicated", "3", "3072", "240"),
        ("volumeroot", "10m", "10", "4"),
    ]
    assert {row[1] for row in rows} == {"Guaranteed"}


NO_CLOCK = """\
<grammar xmlns='http://relaxng.org/ns/structure/1.0'>
  <start>
    <element name='domain'>
      <zeroOrMore><attribute><anyName/></attribute></zeroOrMore>
      <zeroOrMore><element><anyName><except><name>clock</name></except></anyName><ref name='any'/></element></zeroOrMore>
    </element>
  </start>
  <define name='any'>
    <zeroOrMore>
      <choice><attribute><anyName/></attribute><text/><element><anyName/><ref name='any'/></element></choice>
    </zeroOrMore>
  </define>
</grammar>
"""


def test_a_domain_that_the_installed_schema_does_not_accept_names_the_element(quietcore, tmp_path, monkeypatch):
    """A schema that knows no <clock> stands for a libvirt that lacks what we write."""
    (tmp_path / "domain.rng").write_text(NO_CLOCK)
    monkeypatch.setattr(domain_xml, "SCHEMA", str(tmp_path / "domain.rng"))
    text = SHARED.replace(", hugepages: {pageSize: 1Gi}", "")
    code, out, err = quietcore("domain", text, "--machine", "sockets=1,cores=4,threads=1,mem=8Gi")
    assert (code, out.startswith("<domain ")) == (1, True)
    named = [line for line in err if line.startswith("error: ")]
    assert [line.partition(": libvirt's schema")[0] for line in named] == ["error: default_one:26: domain.clock"]
