"""Manifest in; launcher pod, plan and domain XML out, byte by byte, on four machines (`--regen` writes them anew)."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import kubernetes_validate
import pytest
from tests.libvirt_schema import domain_schema
from tests.vm_specs import UID

from quietcore import domain, machines, manifest, placement, pod
from quietcore.engine.codec import encode
from quietcore.model import Ledger, Options, Refusal

HERE = Path(__file__).parent
MANIFESTS = sorted((HERE / "manifests").glob("*.yaml"))
MACHINES = {
    "flat": machines.parse_spec("sockets=1,cores=8,mem=16Gi,hugepages-2Mi=2048,name=flat"),
    "smt": machines.parse_spec("sockets=1,cores=8,threads=2,mem=32Gi,hugepages-2Mi=2048,hugepages-1Gi=4,name=smt"),
    "hybrid": machines.parse_spec("sockets=1,cores=6,threads=2,efficiency=8,mem=32Gi,hugepages-2Mi=4096,name=hybrid"),
    "numa": machines.parse_spec("sockets=2,nodes=2,cores=16,threads=2,mem=64Gi,hugepages-2Mi=2048,hugepages-1Gi=16,name=numa"),
}


def as_text(value):
    return json.dumps(value, indent=1, sort_keys=True) + "\n"


def spec_of(file):
    (document,) = manifest.load([manifest.SourceText(file=file.name, text=file.read_text(encoding="utf-8"))]).documents
    return document.spec


def launcher(spec):
    return pod.launcher_pod(spec, strategy=spec.strategy or "dedicated", uid=UID)


def build(spec, machine):
    files = {disk.name: domain.DiskFile(path=f"/vm/{disk.name}.img") for disk in spec.disks}
    kernel = {"kernel": "/vm/vmlinuz", "initrd": "/vm/initrd"} if spec.kernel_boot else {}
    nodes = {node.node: machine.cpus_of_node(node.node) for node in machine.nodes}
    return domain.Build(uuid=UID, disks=files, console_log="/vm/console.log", node_cpus=nodes, **kernel)


@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_the_manifests_pod(file, golden):
    made = launcher(spec_of(file))
    kubernetes_validate.validate(pod.manifest(made), "1.36", strict=True)
    golden(f"pod/{file.stem}.json", as_text({"pod": encode(made), "kubernetes": pod.manifest(made)}))


@pytest.mark.parametrize(("machine", "file"), list(itertools.product(MACHINES, MANIFESTS)), ids=lambda one: getattr(one, "stem", one))
def test_the_manifests_domain_on_a_machine(machine, file, golden):
    spec = spec_of(file)
    plan = placement.admit(launcher(spec), MACHINES[machine], Ledger(), Options())
    if isinstance(plan, Refusal):
        golden(f"domain/{file.stem}.{machine}.refusal.json", as_text(encode(plan)))
        return
    golden(f"domain/{file.stem}.{machine}.plan.json", as_text(encode(plan)))
    made = domain.compose(spec, plan, build(spec, MACHINES[machine]))
    assert domain.validate(made.xml, domain_schema()) == ()
    notes = "".join(f"<!-- {note} -->\n" for note in made.notes)
    golden(f"domain/{file.stem}.{machine}.xml", made.xml + notes)
