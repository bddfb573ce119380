"""The command line as a process of its own, with its own state, against a private libvirtd."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import libvirt

from lab.looking import PATIENCE_S


class Program:
    """The installed `quietcore` with a state directory and a libvirt of its own."""

    def __init__(self, folder, uri):
        self.uri = uri
        self.state = folder / "state"
        self.environment = {**os.environ, "QUIETCORE_CONFIG": str(folder / "config.toml"), "PYTHONUNBUFFERED": "1"}
        lines = ["[paths]", f'state = "{self.state}"', "[hypervisor]", f'uri = "{uri}"', 'acceleration = "tcg"', ""]
        (folder / "config.toml").write_text("\n".join(lines))

    def start(self, *arguments):
        argv = [sys.executable, "-m", "quietcore", *map(str, arguments)]
        return subprocess.Popen(
            argv, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments, expect=0):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == expect, f"{arguments}: exit {process.returncode}\n{out}\n{err}"
        return out

    def json(self, *arguments, expect=0):
        return json.loads(self(*arguments, "-o", "json", expect=expect))

    def domains(self):
        connection = libvirt.open(self.uri)
        try:
            return sorted(domain.name() for domain in connection.listAllDomains())
        finally:
            connection.close()

    def xml(self, name):
        connection = libvirt.open(self.uri)
        try:
            return connection.lookupByName(name).XMLDesc()
        finally:
            connection.close()

    def is_creating(self):
        """Whether the ledger on disk has a VM on its way; read here, because a process of ours takes longer than that way."""
        ledger = self.state / "ledger.json"
        return ledger.exists() and '"creating"' in ledger.read_text()

    def owners(self):
        """VM -> phase and CPUs, as the ledger on disk says."""
        entries = json.loads(self("ledger", "show", "-o", "json"))["entries"]
        return {entry["spec"]["vm"]["name"]: entry["phase"] for entry in entries}
