"""Rendered domains in the real QEMU driver of libvirt: it takes them, starts them, and says of them what we said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree
from tests.prerequisites import missing, need_programs, need_root
from tests.unit.test_domain_schema import SPECS, plan
from tests.vm_specs import GI, MI, UID, dedicated, plan_for, root_disk, vm

from lab.looking import PATIENCE_S
from quietcore import domain
from quietcore.model import CpuSet, GuestTopology, Interface, IoThreads

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    need_root()
    need_programs("qemu-system-x86_64")
    if importlib.util.find_spec("libvirt") is None:
        missing("the Python binding of libvirt (python3-libvirt)")
    return tmp_path_factory.mktemp("qemu")


def ask_libvirt(root: Path, xmls: dict[str, str]) -> dict[str, dict[str, str]]:
    root.mkdir()
    files = []
    for name, xml in xmls.items():
        file = root / name
        file.write_text(xml)
        files.append(str(file))
    script = Path(__file__).with_name("embedded.py")
    done = subprocess.run(
        [sys.executable, str(script), str(root / "driver"), *files],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    return json.loads(done.stdout)


def build(root: Path, spec, **fields):
    files = {}
    for disk in spec.disks:
        image = root / f"{spec.vm.name}-{disk.name}.img"
        with image.open("wb") as empty:
            empty.truncate(MI)
        files[disk.name] = domain.DiskFile(path=str(image))
    return domain.Build(uuid=UID, disks=files, domain_type="qemu", kernel="/boot/none", **fields)


def test_the_qemu_driver_takes_every_domain_and_reads_it_as_we_do(root):
    rendered = {f"{name}.xml": domain.render(spec, plan(spec), build(root, spec)) for name, spec in SPECS.items()}
    answers = ask_libvirt(root / "defined", rendered)
    assert {name: answer.get("error") for name, answer in answers.items()} == dict.fromkeys(rendered)
    for name, xml in rendered.items():
        assert domain.facts(answers[name]["xml"]) == domain.facts(xml), name


def without_kvm(file: Path) -> str:
    """A golden domain as a host without KVM could define it."""
    root = etree.parse(file).getroot()
    root.set("type", "qemu")
    for hint in root.findall("features/kvm"):
        hint.getparent().remove(hint)
    if root.find("cpu").get("mode") in {"host-model", "host-passthrough"}:
        root.find("cpu").set("mode", "maximum")
    return etree.tostring(root, encoding="unicode")


def test_the_qemu_driver_takes_every_golden_domain(root):
    files = sorted((Path(__file__).parents[1] / "golden" / "domain").glob("*.xml"))
    assert len(files) > 50
    answers = ask_libvirt(root / "golden", {file.name: without_kvm(file) for file in files})
    assert {name: answer["error"] for name, answer in answers.items() if "error" in answer} == {}
    # libvirt itself puts the vCPUs that may be plugged in later into cell 0, as KubeVirt's XML leaves it to
    assert domain.facts(answers["numa.numa.xml"]["xml"]).cell_vcpus[0] == CpuSet.parse("0-3,20-79")


def test_domains_start_and_have_the_pins_that_were_asked_for(root):
    shared = vm(
        "shared", memory={"guest_bytes": 64 * MI}, disks=(root_disk(bus="sata"),), interfaces=(Interface(name="default"),), rng=True
    )
    owner = dedicated(
        "owner",
        cpu={"topology": GuestTopology(), "model": "host-passthrough"},
        memory={"guest_bytes": 64 * MI},  # not locked: a container may not raise its memlock limit
        disks=(root_disk(), replace(root_disk("data"), dedicated_iothread=True)),
        io_threads=IoThreads(policy="shared"),
        block_multiqueue=True,
    )
    plans = {"shared": plan_for(shared, [None, None], shared="0"), "owner": plan_for(owner, [1], shared="0")}
    rendered = {
        f"{spec.vm.name}.start.xml": domain.render(
            spec,
            plans[spec.vm.name],
            build(root, spec, console_log=str(root / f"{spec.vm.name}.log")),
        )
        for spec in (shared, owner)
    }
    answers = ask_libvirt(root / "started", rendered)
    assert {name: answer.get("error") for name, answer in answers.items()} == dict.fromkeys(rendered)
    for name, xml in rendered.items():
        live = domain.facts(answers[name]["xml"])
        assert live.console_tty.startswith("/dev/pts/")
        assert replace(live, console_tty="", cpu_mode="") == replace(domain.facts(xml), cpu_mode="")  # a live CPU is spelled out
    assert domain.facts(answers["owner.start.xml"]["xml"]).iothreads == (1, 2)
    assert domain.facts(rendered["shared.start.xml"]).memory_bytes < GI
