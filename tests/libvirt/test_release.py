"""Every CPU back in an emergency, on a real kernel: by the script without Python, then by the command, which tells the books."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.libvirt.test_quietcore import ONE, vmi

from lab.looking import lasting_threads

pytestmark = pytest.mark.libvirt
SCRIPT = Path(__file__).parents[2] / "packaging" / "release-cpus.sh"


def test_the_script_and_then_the_command_free_every_cpu_and_the_vm_runs_on(quietcore, tmp_path):
    quietcore("run", "-f", vmi(tmp_path))
    described = quietcore.json("describe", ONE)
    everyone, vcpu = os.sched_getaffinity(0), described["vcpus"][0]
    assert os.sched_getaffinity(vcpu["tid"]) == {vcpu["pcpu"]}
    done = subprocess.run(["sh", SCRIPT, "", quietcore.state / "ledger.json"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    tids = lasting_threads(described["pid"])
    assert [os.sched_getaffinity(tid) for tid in tids] == [everyone] * len(tids)
    assert quietcore("release", "--all").startswith(f"vm/{ONE} shares the pool")
    after = quietcore.json("describe", ONE)
    assert (after["pid"], after["phase"], after["vcpus"][0]["pcpu"]) == (described["pid"], "Running", None)
    assert [os.sched_getaffinity(tid) for tid in tids] == [everyone] * len(tids)
    quietcore("verify", ONE)
