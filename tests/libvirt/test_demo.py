"""`make demo`'s script as a user runs it, in a mount namespace with empty folders of libvirt's and quietcore's."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from tests.prerequisites import need_programs, need_root

from lab.looking import PATIENCE_S

CLONE = Path(__file__).parents[2]
COMMANDS = """\
status=0
bash scripts/demo.sh || status=$?
echo "== first demo: $status"
bash scripts/demo.sh || status=$?
echo "== second demo: $status"
.venv/bin/quietcore delete quickstart; echo "== delete: $?"
.venv/bin/quietcore get vms -o name; find /var/lib/quietcore/vms -mindepth 1
echo "== pids: $(cat /run/libvirtd.pid) $(cat /run/virtlogd.pid)"
"""


def end(pids):
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGTERM)


@pytest.fixture
def demo(tmp_path_factory):
    """What two demos and a delete printed, split at the steps' titles: title -> lines."""
    need_root()
    need_programs("libvirtd", "virtlogd", "qemu-system-x86_64", "unshare", "apt-get")
    from tests.libvirt.daemon import PRIVATE, folders, machine_cgroups, remove_cgroups

    root = tmp_path_factory.mktemp("demo")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o755)  # QEMU's user has to come through
    before = machine_cgroups()
    state = root / "quietcore"
    state.mkdir()
    folders(root)
    own = "mount -t tmpfs -o mode=755 run /run\n" + PRIVATE.format(root=root)
    own += "chown libvirt-qemu:kvm /var/lib/libvirt/qemu /var/cache/libvirt/qemu\n"
    if Path("/etc/quietcore").is_dir():
        own += "mount -t tmpfs none /etc/quietcore\n"
    made_here = not Path("/var/lib/quietcore").exists()
    Path("/var/lib/quietcore").mkdir(exist_ok=True)
    own += f"mount --bind {state} /var/lib/quietcore\nset +e\n"
    try:
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "bash", "-c", own + COMMANDS],
            cwd=CLONE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=3 * PATIENCE_S,
        )
        parts = {title: lines for title, *lines in (part.splitlines() for part in done.stdout.split("== ")[1:])}
        end(next((title for title in parts if title.startswith("pids: ")), "pids: ").split()[1:])
        yield parts, done.stderr
    finally:
        end(file.read_text() for file in (root / "run/qemu").glob("*.pid"))  # only there when the delete failed
        if made_here:
            Path("/var/lib/quietcore").rmdir()
        remove_cgroups(machine_cgroups() - before)


def test_the_demo_runs_a_vm_and_leaves_it_running_until_it_is_deleted(demo):
    parts, talk = demo
    assert [title for title in parts if title.startswith(("first", "second", "delete"))] == [
        "first demo: 0",
        "second demo: 0",
        "delete: 0",
    ], talk
    assert parts["delete: 0"] == []
    said = [line for title, lines in parts.items() if title.startswith("the guest, on") for line in lines]
    assert any(line.startswith("quietcore demo guest: Linux") and "CPUs 0," in line for line in said)
    assert any(line.startswith("quietcore demo guest: up after") for line in said)
    verified = next(lines for title, lines in parts.items() if title.startswith("quietcore verify"))
    assert any(line.startswith("default/quickstart: PASS") for line in verified)
    assert "vm/quickstart unchanged" in parts["quietcore run -f examples/quickstart.yaml"]  # of the second demo
