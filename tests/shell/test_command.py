"""The command as a process."""

import json
import subprocess
import sys


def test_without_a_verb_it_says_how_it_is_used():
    done = subprocess.run([sys.executable, "-m", "quietcore"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: quietcore [OPTIONS] COMMAND" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_that_was_said_comes_out_and_the_exit_code_with_it(tmp_path):
    manifest = tmp_path / "large.yaml"
    manifest.write_text(
        "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata: {name: large}\n"
        "spec: {domain: {devices: {}, memory: {guest: 1Gi}, cpu: {sockets: 900, dedicatedCpuPlacement: true}}}\n"
    )
    command = [sys.executable, "-m", "quietcore", "--config", "/dev/null", "plan", "-f", manifest, "-o", "json", "--machine"]
    placed = subprocess.run([*command, "cores=1000"], capture_output=True, text=True, check=False)
    assert placed.returncode == 0
    assert len(placed.stdout) > 2 * 65536  # more than a pipe holds
    assert len(json.loads(placed.stdout)["items"][0]["vcpus"]) == 900
    assert subprocess.run([*command, "cores=8"], capture_output=True, check=False).returncode == 3
