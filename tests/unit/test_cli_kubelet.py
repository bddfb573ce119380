"""A kubelet's state file on the command line."""

import json

import pytest

from quietcore.cli.main import run_cli

# A real V1 file, from Kubernetes issue 87249.
V1 = {
    "policyName": "static",
    "defaultCpuSet": "0-1,6-17",
    "entries": {"cdc2c5cc531dd48bceb064e5411259a46bd8b8e70974fce10a3620b5b5da2c05": "2-5"},
    "checksum": 148873334,
}
VM = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: one}
spec:
  domain:
    cpu: {cores: 2, dedicatedCpuPlacement: true}
    memory: {guest: 64Mi}
    resources: {limits: {memory: 64Mi}}
    devices: {}
"""


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("QUIETCORE_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text(f'[paths]\nstate = "{tmp_path}/state"\n')
    path = tmp_path / "cpu_manager_state"
    path.write_text(json.dumps(V1))
    return path


def test_the_state_is_shown(state, capsys):
    assert run_cli(["kubelet", "state", str(state), "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["shared"]["list"] == "0-1,6-17"
    assert [item["cpus"]["list"] for item in shown["items"]] == ["2-5"]


def test_a_damaged_state_is_refused_with_the_kubelets_words(state, capsys):
    state.write_text(json.dumps(V1 | {"checksum": 1}))
    assert run_cli(["kubelet", "state", str(state)]) == 2
    assert "checkpoint is corrupted" in capsys.readouterr().err


def test_what_a_kubelet_gave_away_is_not_planned_again(state, tmp_path, capsys):
    manifest = tmp_path / "vm.yaml"
    manifest.write_text(VM)
    assert run_cli(["plan", "-f", str(manifest), "--machine", "cores=18", "--cpu-manager-state", str(state), "-o", "json"]) == 0
    placed = json.loads(capsys.readouterr().out)["items"][0]
    assert [vcpu["pcpu"] for vcpu in placed["vcpus"]] == [1, 6]


def test_a_state_of_another_machine_is_refused(state, tmp_path, capsys):
    manifest = tmp_path / "vm.yaml"
    manifest.write_text(VM)
    assert run_cli(["plan", "-f", str(manifest), "--machine", "cores=4", "--cpu-manager-state", str(state)]) == 2
    assert "names CPUs 4-17" in capsys.readouterr().err
