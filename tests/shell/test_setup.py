"""scripts/setup.sh against a small fake of apt and dpkg: what it installs, when it renews the lists, and when it does nothing."""

import subprocess
from pathlib import Path

import pytest

from lab.looking import PATIENCE_S

SETUP = Path(__file__).parents[2] / "scripts/setup.sh"
HOST = ["libvirt-daemon-system", "ovmf", "python3-libvirt", "qemu-system-x86", "qemu-utils", "skopeo", "util-linux", "zstd"]

DPKG_QUERY = 'for last; do :; done; [ -e "$STATE/installed/$last" ] && printf installed'
APT_CACHE = """case $1 in
policy) [ -e "$STATE/offered/$2" ] && printf '%s:\\n  Candidate: 1.0\\n' "$2" || printf '%s:\\n  Candidate: (none)\\n' "$2" ;;
pkgnames) ls "$STATE/offered" | grep "^$2" ;;
esac"""
APT_GET = """for word; do case $word in install|update) what=$word ;; esac; done
echo "$what" >> "$STATE/calls"
[ "$what" = update ] && { cp "$STATE"/archive/* "$STATE/offered/"; exit 0; }
ls "$POLICY_RC_D" >> "$STATE/policy" 2>&1
for word; do [ -e "$STATE/archive/$word" ] || continue; [ -e "$STATE/offered/$word" ] || exit 100; touch "$STATE/installed/$word"; done
[ ! -e "$STATE/stale" ] || { rm "$STATE/stale"; exit 100; }"""
IDENTITY = 'echo "${FAKE_UID:-0}"'


class Machine:
    """A pretended machine: which packages are installed, which the lists offer, which the archive has."""

    def __init__(self, root):
        self.root = root
        programs = {"dpkg-query": DPKG_QUERY, "apt-cache": APT_CACHE, "apt-get": APT_GET, "id": IDENTITY}
        for folder in ("bin", "installed", "offered", "archive"):
            (root / folder).mkdir()
        for name, text in programs.items():
            (root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
            (root / "bin" / name).chmod(0o755)

    def put(self, folder, *packages):
        for package in packages:
            (self.root / folder / package).touch()
        return self

    def setup(self, *parts, uid="0"):
        path = f"{self.root / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin"
        env = {"PATH": path, "STATE": str(self.root), "POLICY_RC_D": str(self.root / "policy-rc.d"), "FAKE_UID": uid}
        return subprocess.run(["bash", SETUP, *parts], env=env, capture_output=True, text=True, check=False, timeout=PATIENCE_S)

    @property
    def installed(self):
        return sorted(path.name for path in (self.root / "installed").iterdir())

    @property
    def calls(self):
        calls = self.root / "calls"
        return calls.read_text().split() if calls.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_a_machine_that_has_everything_is_left_alone(machine):
    machine.put("installed", *HOST)
    done = machine.setup("host")
    assert (done.returncode, done.stdout, done.stderr, machine.calls) == (0, "", "", [])


def test_only_what_is_missing_is_installed(machine):
    machine.put("installed", "ovmf", *HOST[3:]).put("archive", *HOST).put("offered", *HOST)
    done = machine.setup("host")
    assert (done.returncode, done.stdout) == (0, "setup: installing python3-libvirt libvirt-daemon-system\n")
    assert (machine.calls, machine.installed) == (["install"], HOST)


def test_a_fresh_machine_renews_its_lists_once(machine):
    machine.put("archive", *HOST)
    done = machine.setup("host")
    assert done.returncode == 0, done.stderr
    assert (machine.calls, machine.installed) == (["update", "install", "install"], HOST)  # the binding comes in a second step


def test_old_lists_are_renewed_when_an_installation_fails(machine):
    machine.put("archive", *HOST).put("offered", *HOST)
    (machine.root / "stale").touch()
    done = machine.setup("host")
    assert "setup: that failed; the package lists may be old: apt-get update" in done.stdout
    assert (done.returncode, machine.calls) == (0, ["install", "update", "install"])


def test_without_root_it_says_what_is_missing(machine):
    machine.put("installed", *HOST[1:]).put("offered", *HOST)
    done = machine.setup("host", uid="1000")
    assert (done.returncode, done.stderr) == (4, "setup: missing packages: libvirt-daemon-system: this needs root; run it once as root\n")
    assert machine.calls == []


def test_without_root_and_with_nothing_missing_it_is_content(machine):
    machine.put("installed", *HOST)
    assert machine.setup("host", uid="1000").returncode == 0


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="systemd starts the services of packages as it should")
def test_outside_systemd_no_service_is_started_and_the_policy_is_taken_back(machine):
    machine.put("archive", *HOST).put("offered", *HOST)
    assert machine.setup("host").returncode == 0
    assert (machine.root / "policy").read_text() == f"{machine.root / 'policy-rc.d'}\n"
    assert not (machine.root / "policy-rc.d").exists()


def test_the_administrators_own_policy_stays(machine):
    machine.put("archive", *HOST).put("offered", *HOST)
    (machine.root / "policy-rc.d").write_text("mine")
    assert machine.setup("host").returncode == 0
    assert (machine.root / "policy-rc.d").read_text() == "mine"


@pytest.mark.parametrize("words", [[], ["everything"]])
def test_an_unknown_part_is_a_usage_error(machine, words):
    done = machine.setup(*words)
    assert (done.returncode, done.stderr) == (2, "usage: setup.sh PART...   with the parts python, host, test, lab\n")


def test_the_units_that_are_installed_start_the_command_that_is_installed():
    clone = Path(__file__).parents[2]
    script = (clone / "scripts" / "install.sh").read_text()
    command = next(line.partition("=")[2] for line in script.splitlines() if line.startswith("COMMAND="))
    units = {unit.name: unit.read_text() for unit in (clone / "packaging" / "systemd").glob("*.service")}
    assert f"\nExecStart={command} agent\n" in units["quietcore-agent.service"]
    assert f"enable --now {' '.join(sorted(units, reverse=True))}\n" in script
