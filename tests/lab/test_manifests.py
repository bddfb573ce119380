"""The real manifests that need dedicated CPUs, NUMA, hugepages or real time, through `quietcore run` as the table says."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.manifest_outcomes import COMPLETED, FOLDER, LAB, OUTCOMES, changed, spec_of, tried

from lab import product
from lab.inside import allowed, restored, write
from lab.looking import read
from quietcore.images import references
from quietcore.model import CpuSet

pytestmark = pytest.mark.lab
AS_THEY_STAND = tried(LAB, OUTCOMES)
FILLED_IN = tried(LAB, COMPLETED)
PAGES = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"


@pytest.fixture
def run(hypervisor, tmp_path):
    """Run one manifest with an empty disk under each of its image names; its VM is deleted at the end."""
    product.configure()
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    with ExitStack() as stack:

        def start(text, outcome):
            spec = spec_of(text)
            for reference in references(spec):
                assert product.quietcore("image", "import", reference, str(disk)).code == 0
            if outcome.pages:
                write(stack.enter_context(restored(PAGES)), str(outcome.pages))
                assert read(PAGES) == str(outcome.pages)
            stack.callback(product.quietcore, "delete", spec.vm.name, "--now", "--ignore-not-found")
            file = tmp_path / "vm.yaml"
            file.write_text(text)
            answer = product.quietcore("run", "-f", str(file))
            assert answer.code == outcome.code, answer.err + answer.out
            assert outcome.answer in answer.out + answer.err
            return spec

        yield start
    assert hypervisor.listAllDomains() == []


def as_promised(spec):
    """The running VM, checked: each dedicated vCPU on a CPU of its own, no other thread there, nothing that `verify` finds."""
    vm = product.RunningVm.of(spec.vm.name)
    assert vm.described["phase"] == "Running"
    assert product.quietcore("verify", spec.vm.name).code == 0
    if spec.cpu.dedicated:
        assert len(vm.dedicated) == spec.cpu.topology.vcpus
        assert vm.vcpus_allowed() == {vcpu: CpuSet.of(pcpu) for vcpu, pcpu in vm.pcpus.items()}
        assert all(allowed(tid).isdisjoint(vm.dedicated) for tid in vm.other_tids)
    return vm


@pytest.mark.parametrize(
    "name", [name for name, outcome in AS_THEY_STAND.items() if outcome.result == "runs" and name != "kubevirt-e2e-realtime-mask"]
)
def test_a_manifest_runs_as_it_stands(name, run):
    if name.endswith("host-disk"):
        assert not Path("/var/data").exists()
    as_promised(run((FOLDER / f"{name}.yaml").read_text(), AS_THEY_STAND[name]))
    if name.endswith("host-disk"):
        assert Path("/var/data/disk.img").stat().st_size == 1 << 30
        shutil.rmtree("/var/data")


@pytest.mark.lab("1s1n4c")
def test_kubevirts_own_real_time_test_has_fifo_for_vcpu_0_and_not_for_vcpu_1(run):
    name = "kubevirt-e2e-realtime-mask"
    vm = as_promised(run((FOLDER / f"{name}.yaml").read_text(), AS_THEY_STAND[name]))
    policies = {vcpu: (os.sched_getscheduler(tid), os.sched_getparam(tid).sched_priority) for vcpu, tid in vm.vcpu_tids.items()}
    assert policies == {0: (os.SCHED_FIFO, 1), 1: (os.SCHED_OTHER, 0)}


@pytest.mark.parametrize("name", [name for name, outcome in AS_THEY_STAND.items() if outcome.result != "runs"])
def test_a_manifest_that_this_machine_cannot_hold_is_refused_with_the_reason(name, run):
    run((FOLDER / f"{name}.yaml").read_text(), AS_THEY_STAND[name])


@pytest.mark.parametrize("name", FILLED_IN)
def test_a_fragment_runs_with_what_its_source_leaves_out(name, run):
    as_promised(run(changed(name, FILLED_IN[name]), FILLED_IN[name]))
