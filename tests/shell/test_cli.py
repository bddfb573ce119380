"""The command line: help, usage, input, output, exit codes; and its verbs on a fake host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from quietcore.cli.context import App
from quietcore.cli.main import cli
from quietcore.host.fs import HostFs
from tests.shell.fake_host import FakeHost

MANIFESTS = Path(__file__).parents[1] / "data" / "manifests"
SERVER = "sockets=2,nodes=4,cores=32,threads=2,mem=512Gi"
FIT = str(MANIFESTS / "kubevirt-example-vmi-fedora-isolated.yaml")


def commands(group: click.Group = cli, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command and subcommand."""
    found = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.fixture
def host(quietcore, tmp_path):
    root = tmp_path / "host"
    root.mkdir()
    return quietcore.on(FakeHost(root, cpus=6))


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help_with_an_example(quietcore, command):
    answer = quietcore(*command, "--help")
    assert answer.code == 0
    text = " ".join(answer.out.split())
    assert re.search(rf"quietcore {' '.join(command[:1])}\b", text.partition("Usage:")[2].partition("]")[2]), "no example"
    assert max(len(line) for line in answer.out.splitlines()) <= 120


@pytest.mark.parametrize(
    "arguments",
    [
        ("frobnicate",),
        ("get",),
        ("get", "pods"),
        ("run",),
        ("run", "-f"),
        ("run", "-f", "a.yaml", "-o", "wide"),
        ("plan", "-f", FIT, "--machine", "sockets=two"),
        ("plan", "-f", FIT, "--machine", "/no/such/machine"),
        ("plan", "-f", FIT, "--surprise"),
        ("describe",),
        ("describe", "nobody"),
        ("verify", "nobody"),
        ("console", "nobody"),
        ("delete",),
        ("delete", "nobody"),
        ("delete", "nobody", "--grace-period", "-1"),
        ("repin", "nobody"),
        ("repin", "nobody", "--cpus", "x"),
        ("repin", "nobody", "--cpus", "1", "--better"),
        ("defrag", "-f", FIT),
        ("defrag", "-f", FIT, "--yes", "--dry-run"),
        ("defrag", "--yes"),
        ("completion", "tcsh"),
        ("migrate", "one"),
        ("snapshot", "one"),
        ("save", "one"),
        ("restore",),
        ("import",),
        ("image", "frobnicate"),
        ("machine", "show", "sockets=0"),
    ],
    ids=" ".join,
)
def test_wrong_use_is_answered_in_words_and_in_json(quietcore, host, arguments):
    told = quietcore(*arguments)
    assert (told.code, told.out) == (2, "")
    assert all(line.startswith(("error: ", "note: ")) for line in told.err.splitlines())
    as_json = quietcore(*arguments, "-o", "json")
    assert as_json.code == 2
    assert (as_json.json["apiVersion"], as_json.json["kind"], as_json.json["code"]) == ("quietcore.io/v1alpha1", "Error", 2)
    assert as_json.json["errors"]
    assert all({"file", "line", "column", "field", "message", "hint"} <= error.keys() for error in as_json.json["errors"])


def test_what_is_refused_says_why(quietcore):
    assert "migrate of one is refused: the target host would have to give the same CPUs" in quietcore("migrate", "one").err


def test_every_fault_of_every_file_is_told_with_its_place(quietcore, tmp_path):
    (tmp_path / "bad.yaml").write_text("kind: VirtualMachineInstance\nspec: [}\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").mkdir()
    answer = quietcore("validate", "-f", tmp_path / "none.yaml", "-f", tmp_path / "binary.yaml", "-f", tmp_path / "empty")
    assert answer.code == 2
    assert answer.err.splitlines() == [
        f"error: {tmp_path}/none.yaml: No such file or directory",
        f"error: {tmp_path}/binary.yaml: is not UTF-8 text (invalid start byte at byte 0)",
        f"error: {tmp_path}/empty: holds no .yaml, .yml or .json file",
    ]
    (error,) = quietcore("validate", "-f", tmp_path / "bad.yaml", "--output=json").json["errors"]
    assert (error["file"], error["line"]) == (f"{tmp_path}/bad.yaml", 2)


def test_manifests_come_from_files_folders_and_standard_input(quietcore, tmp_path):
    path = quietcore.manifest("one")
    quietcore.manifest("two")
    answer = quietcore("validate", "-f", path, "-f", tmp_path / "manifests", "-f", "-", "-ojson", stdin=Path(path).read_text())
    assert answer.code in {0, 2}
    folder = quietcore("validate", "-f", tmp_path / "manifests")
    assert [line.split(": ")[1] for line in folder.out.splitlines()] == ["default/one is valid", "default/two is valid"]
    piped = quietcore("validate", "-f", "-", stdin=Path(path).read_text())
    assert piped.out == "<stdin>: default/one is valid\n"
    garbage = quietcore("validate", "-f", "-", stdin=b"\xff\xff")
    assert (garbage.code, garbage.err) == (2, "error: <stdin>: is not UTF-8 text (invalid start byte at byte 0)\n")
    huge = quietcore("validate", "-f", "-", stdin=b"#" * (16 << 20) + b"##")
    assert (huge.code, huge.err) == (2, "error: <stdin>: is larger than 16 MiB\n")


def test_a_configuration_that_cannot_be_used_is_named(quietcore, tmp_path):
    for content, message in ((None, "No such file"), (b"\xff", "can't decode"), (b"[paths]\nstate = 1\n", "paths.state: must be a text")):
        path = tmp_path / "other.toml"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        answer = quietcore("--config", path, "get", "vms")
        assert answer.code == 2
        assert str(path) in answer.err
        assert message in answer.err
    assert quietcore("--config", tmp_path, "version").code == 2


CHANGES = [
    ("run", "-f", FIT),
    ("apply", "-f", FIT),
    ("delete", "one"),
    ("agent", "--once"),
    ("repin", "one"),
    ("defrag", "--yes", "-f", FIT),
    ("adopt", "one"),
    ("release", "one"),
    ("sandbox", "create", "one", "--container", "web=2"),
    ("sandbox", "update", "one"),
    ("sandbox", "delete", "one"),
    ("image", "import", "a/b:1", __file__),
    ("image", "pull", "a/b:1"),
    ("image", "rm", "a/b:1"),
]


@pytest.mark.parametrize("arguments", CHANGES, ids=lambda arguments: " ".join(arguments[:2]))
def test_without_root_nothing_is_begun_and_the_way_is_told(quietcore, tmp_path, monkeypatch, arguments):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for touching in ("engine.ledger_file.LedgerFile.locked", "host.fs.HostFs.write", "virt.hypervisor.LibvirtHypervisor._open"):
        monkeypatch.setattr(f"quietcore.{touching}", lambda *_args, **_options: pytest.fail("the host was touched"))
    answer = quietcore(*arguments)
    assert (answer.code, answer.out) == (4, "")
    assert "needs root (run it with sudo, or as root)" in answer.err
    assert not (tmp_path / "state").exists()
    assert quietcore(*arguments, "-o", "json").json["code"] == 4 if arguments[0] in {"run", "apply", "repin", "defrag"} else True


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(quietcore, shell, tmp_path):
    answer = quietcore("completion", shell)
    assert answer.code == 0
    assert "_QUIETCORE_COMPLETE" in answer.out
    if shell == "bash":
        script = tmp_path / "completion.bash"
        script.write_text(answer.out)
        assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).returncode == 0


MANIFEST_FILES = sorted(path.name for path in MANIFESTS.glob("*.yaml"))


@pytest.mark.parametrize("name", MANIFEST_FILES)
def test_a_plan_of_any_manifest_is_one_object_with_the_promised_fields(quietcore, name):
    answer = quietcore("plan", "-f", MANIFESTS / name, "--machine", SERVER, "-o", "json")
    assert answer.code in {0, 2, 3}
    value = answer.json
    assert value["apiVersion"] == "quietcore.io/v1alpha1"
    if answer.code == 2:
        assert (value["kind"], bool(value["errors"])) == ("Error", True)
        return
    assert value["kind"] == "PlanList"
    assert (answer.code == 3) == any(item["outcome"] == "refusal" for item in value["items"])
    for item in value["items"]:
        assert item["vm"].keys() == {"namespace", "name"}
        assert {"strategy", "housekeeping", "memory", "reasons", "nearest"} <= item.keys()
        assert item["housekeeping"].keys() >= {"list", "cpus"}
        assert all(vcpu.keys() >= {"vcpu", "pcpu", "node", "core", "realtime", "rule"} for vcpu in item["vcpus"])
        assert all(block.keys() >= {"node", "type", "bytes"} for block in item["memory"])
        assert all(reason.keys() >= {"constraint", "node", "wanted", "free", "message"} for reason in item["reasons"])
        assert item["nearest"] is None or item["nearest"].keys() >= {"change", "vm"}


def test_a_plan_is_told_in_words_pictures_and_names(quietcore):
    words = quietcore("plan", "-f", FIT, "--machine", SERVER, "--explain")
    assert (words.code, words.out.splitlines()[0].split(": ")[1].split(",")[0]) == (0, "fits")
    assert "RULE" in words.out
    assert quietcore("plan", "-f", FIT, "--machine", SERVER, "-o", "svg").out.startswith("<svg")
    assert yaml.safe_load(quietcore("plan", "-f", FIT, "--machine", SERVER, "-o", "yaml").out)["kind"] == "PlanList"


def test_what_would_be_made_is_printed(quietcore):
    assert yaml.safe_load(quietcore("pod", "-f", FIT).out)["kind"] == "Pod"
    listed = quietcore("pod", "-f", FIT, "-o", "json").json
    assert (listed["kind"], [pod["kind"] for pod in listed["items"]]) == ("List", ["Pod"])
    assert "<domain type=" in quietcore("domain", "-f", FIT, "--machine", SERVER).out
    assert quietcore("domain", "-f", FIT, "--machine", "sockets=1,cores=1,mem=1Gi").code == 3


def test_machines_are_shown_and_drawn(quietcore, tmp_path):
    made = quietcore("machine", "show", "sockets=1,cores=2,threads=2,mem=4Gi")
    path = tmp_path / "m.yaml"
    path.write_text(made.out)
    assert quietcore("machine", "show", path).out == made.out
    assert quietcore("topology", "--machine", path, "-o", "json").json["kind"] == "Topology"


def test_owners_are_coloured_where_that_is_asked_for(quietcore, host):
    quietcore("run", "-f", quietcore.manifest("one"))
    plain, coloured = (quietcore("topology", flag).out for flag in ("--no-color", "--color"))
    assert ("\x1b[" in plain, "\x1b[" in coloured) == (False, True)
    assert quietcore("topology").out == plain  # captured output is no terminal


@pytest.mark.parametrize(
    ("variables", "expected"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)]
)
def test_colours_on_a_terminal_unless_somebody_says_no(monkeypatch, variables, expected):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    app = App(config=None)
    assert (app.colored(None), app.colored(True), app.colored(False)) == (expected, True, False)


def test_the_life_of_a_vm(quietcore, host):
    path = quietcore.manifest("one", cores=2)
    started = quietcore("run", "-f", path)
    assert (started.code, started.out) == (0, "vm/one created\n")
    steps = [line.removeprefix("default/one: ").split("  ")[0] for line in started.err.splitlines() if line.startswith("default/one: ")]
    expected = ["placed", "created", "paused", "threads found", "moved", "checked", "running"]
    assert [step for step in steps if step != "note"] == expected
    assert quietcore("--quiet", "apply", "-f", path).err == ""
    assert quietcore("apply", "-f", path).out == "vm/one unchanged\n"
    listed = quietcore("get", "vms")
    assert [line.split() for line in listed.out.splitlines()] == [
        ["NAME", "PHASE", "STRATEGY", "VCPUS", "CPUS"],
        ["one", "Running", "dedicated", "2", "1-2"],
    ]
    assert quietcore("get", "vm", "default/one", "-o", "name").out == "vm/one\n"
    assert quietcore("get", "vms", "-n", "elsewhere").err == "no VMs in namespace elsewhere\n"
    assert "THREAD" in quietcore("describe", "one").out
    assert quietcore("verify", "one").out.splitlines()[-1].startswith("default/one: PASS")
    assert quietcore("diff", "-f", path).code == 0
    assert quietcore("diff", "-f", quietcore.manifest("one", cores=3)).code == 1
    changed = quietcore("apply", "-f", quietcore.manifest("one", cores=3))
    assert (changed.code, "runs with another manifest" in changed.err) == (2, True)
    moved = quietcore("repin", "one", "--cpus", "3-4")
    assert (moved.code, moved.out.splitlines()[0]) == (0, "vm/one moved")
    ended = quietcore("delete", "one", "two", "three")
    assert (ended.code, ended.out) == (2, "vm/one deleted\n")
    assert re.findall(r"there is no VM (\S+)", ended.err) == ["default/two", "default/three"]
    assert quietcore("delete", "one", "--ignore-not-found").code == 0


def test_what_does_not_fit_exits_3_and_the_rest_is_still_tried(quietcore, host):
    answer = quietcore("run", "-f", quietcore.manifest("big", cores=9), "-f", quietcore.manifest("one"))
    assert answer.code == 3
    assert [line for line in answer.out.splitlines() if line.startswith("vm/")] == ["vm/big refused", "vm/one created"]
    items = quietcore("run", "-f", quietcore.manifest("big", cores=9), "-f", quietcore.manifest("one"), "-o", "json").json["items"]
    assert [(item["vm"]["name"], item["outcome"]) for item in items] == [("big", "refusal"), ("one", "plan")]


def test_a_dry_run_changes_nothing(quietcore, host, monkeypatch):
    before = host.state()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    path = quietcore.manifest("one")
    assert quietcore("run", "-f", path, "--dry-run").out.startswith("default/one: fits")
    assert quietcore("run", "-f", path, "--dry-run", "-o", "name").out == "vm/one\n"
    assert quietcore("run", "-f", path, "--dry-run", "-o", "json").json["kind"] == "PlanList"
    assert host.state() == before


def test_a_vm_is_described_with_the_promised_fields(quietcore, host):
    quietcore("run", "-f", quietcore.manifest("one", cores=2))
    value = quietcore("describe", "one", "-o", "json").json
    promised = {"apiVersion", "kind", "vm", "phase", "strategy", "mechanism", "limits", "domain", "pid", "vcpus", "threads"}
    assert promised <= value.keys()
    assert (value["kind"], value["phase"], value["mechanism"]) == ("VirtualMachine", "Running", "partition")
    assert all(vcpu.keys() >= {"vcpu", "tid", "pcpu", "policy", "priority"} for vcpu in value["vcpus"])
    assert all(one.keys() >= {"tid", "comm", "role", "allowed", "cgroup", "policy", "priority"} for one in value["threads"])
    assert value["threads"][0]["allowed"].keys() == {"list", "cpus"}
    listed = quietcore("get", "vms", "-o", "json").json
    assert (listed["kind"], [item["vm"]["name"] for item in listed["items"]]) == ("VirtualMachineList", ["one"])
    assert quietcore("ledger", "show", "-o", "json").json["kind"] == "Ledger"
    assert quietcore("get", "vms", "-o", "wide").out.splitlines()[1].split()[-2:] == ["partition", "default_one"]


def test_findings_are_one_object_exit_1_and_readable_at_120_columns(quietcore, host):
    quietcore("run", "-f", quietcore.manifest("one", cores=2), "-f", quietcore.manifest("two"))
    tid = host.hypervisor.pids["default_one"] + 2
    host.fs.set_group(host.hypervisor.pids["default_one"], tid, "/")
    host.threads.affinities[tid] = host.threads.everyone
    answer = quietcore("verify", "one", "-o", "json")
    assert (answer.code, answer.json["kind"], answer.json["ok"]) == (1, "Verification", False)
    for finding in answer.json["findings"]:
        assert finding.keys() >= {"code", "severity", "subject", "expected", "actual", "hint"}
        assert finding["subject"].keys() == {"kind", "id"}
    both = quietcore("verify", "-o", "json")
    assert (both.code, both.json["kind"], both.json["ok"]) == (1, "VerificationList", False)
    assert [(item["vm"]["name"], item["ok"]) for item in both.json["items"]] == [("one", False), ("two", True)]
    words = quietcore("verify")
    assert words.code == 1
    assert max(len(line) for line in words.out.splitlines()) <= 120
    assert [line for line in words.out.splitlines() if re.match(r"default/\w+: (PASS|FAIL)", line)] == [
        "default/one: FAIL (2 error)",
        "default/two: PASS (no findings)",
    ]


def test_without_vms_there_is_nothing_to_verify(quietcore, host):
    answer = quietcore("verify", "-o", "json")
    assert (answer.code, answer.json["ok"], answer.json["items"]) == (0, True, [])


def test_a_console_needs_a_running_guest(quietcore, host):
    quietcore("run", "-f", quietcore.manifest("one"))
    host.hypervisor.end("default_one")
    answer = quietcore("console", "one")
    assert (answer.code, answer.err) == (2, "error: default/one does not run: it is Stopped\n")


def test_what_failed_and_was_undone_exits_5_and_a_defect_70(quietcore, host, monkeypatch):
    path = quietcore.manifest("one")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(HostFs, "mkdir", full)
        patch.setattr("quietcore.engine.start.images.prepare", full)
        answer = quietcore("run", "-f", path, "-o", "json")
    assert (answer.code, answer.json["code"]) == (5, 5)
    assert "what had been done was undone" in answer.json["errors"][0]["message"]
    monkeypatch.setattr("quietcore.cli.placing.fill", lambda *_args: 1 / 0)
    defect = quietcore("run", "-f", path, "--dry-run", "-o", "json")
    assert (defect.code, defect.json["code"]) == (70, 70)
    assert "ZeroDivisionError" in defect.err


def test_an_interrupt_exits_130(quietcore, host, monkeypatch):
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quietcore.cli.vms.time.sleep", interrupted)
    answer = quietcore("get", "vms", "--watch")
    assert (answer.code, answer.err.splitlines()[-1]) == (130, "interrupted; a change that had been begun was undone")


def process(*arguments: str, script: str = 'exec "$@"', **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "quietcore", *arguments]
    environment = {**os.environ, "QUIETCORE_CONFIG": os.devnull, **variables}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, stdin=subprocess.DEVNULL)


def test_a_reader_that_leaves_is_no_failure():
    for size in ("sockets=1,cores=2,mem=1Gi", "sockets=8,cores=512,threads=2,mem=512Gi"):
        done = process("machine", "show", size, script='"$@" | head -1; exit "${PIPESTATUS[0]}"')
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == 1
    for words in (["version"], ["--help"], ["run", "--help"], ["machine", "show", "cores=1,mem=1Gi"]):
        for unbuffered in ("", "1"):
            done = process(*words, script='"$@" | true; exit "${PIPESTATUS[0]}"', PYTHONUNBUFFERED=unbuffered)
            assert (done.returncode, done.stderr) == (0, ""), words


def test_the_program_says_its_version_and_uses_no_colours_in_a_pipe():
    done = process("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "quietcore,")
    drawn = process("topology", "--machine", "sockets=1,cores=2,mem=1Gi")
    assert (drawn.returncode, "\x1b" in drawn.stdout) == (0, False)
