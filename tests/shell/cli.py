"""The command line in this process, on a fake host: what it prints, and its exit code."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quietcore.cli.context import App
from quietcore.cli.main import run_cli
from tests.shell.fake_host import FakeHost

VMI = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata:
  name: {name}
  namespace: {namespace}
spec:
  terminationGracePeriodSeconds: 0
  domain:
    cpu:
      cores: {cores}
      dedicatedCpuPlacement: {dedicated}
    memory:
      guest: 64Mi
    resources:
      requests:
        memory: 64Mi
      limits:
        memory: 64Mi
    devices: {{}}
"""


@dataclass(frozen=True)
class Answer:
    """What one command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one object that it is."""
        return json.loads(self.out)


@dataclass
class CommandLine:
    """Runs `quietcore` with a state folder of its own."""

    folder: Path
    capsys: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: str, stdin: str | bytes | None = None) -> Answer:
        if stdin is not None:
            content = stdin.encode() if isinstance(stdin, str) else stdin
            self.monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: False))
        self.capsys.readouterr()
        code = run_cli([str(one) for one in arguments])
        captured = self.capsys.readouterr()
        return Answer(code=int(code), out=captured.out, err=captured.err)

    def manifest(self, name: str = "one", *, cores: int = 1, dedicated: bool = True, namespace: str = "default") -> str:
        """A file with one VM, in a folder of manifests."""
        path = self.folder / "manifests" / f"{name}-{cores}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(VMI.format(name=name, cores=cores, dedicated=str(dedicated).lower(), namespace=namespace))
        return str(path)

    def on(self, host: FakeHost) -> FakeHost:
        """From now on commands act on this host."""
        self.monkeypatch.setattr(App, "world", property(lambda app: _told(app, host)))
        return host


def _told(app: App, host: FakeHost) -> Any:
    return replace(host.program().world, config=app.config, report=app.tell)


@pytest.fixture
def quietcore(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A command line whose configuration names nothing but its own state folder."""
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\nstate = "{tmp_path}/state"\n[agent]\nsocket = "{tmp_path}/agent.sock"\n')
    monkeypatch.setenv("QUIETCORE_CONFIG", str(config))
    monkeypatch.delenv("NO_COLOR", raising=False)
    return CommandLine(tmp_path, capsys, monkeypatch)
