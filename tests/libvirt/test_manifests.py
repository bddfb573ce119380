"""Every real manifest through `quietcore run`: what the table says of it is what happens."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.manifest_outcomes import (
    COMPLETED,
    FOLDER,
    INPUTS,
    OUTCOMES,
    PLAIN_HOST,
    as_it_stands,
    changed,
    examined,
    refused,
    spec_of,
    tried,
)
from tests.prerequisites import need_root

from quietcore.cli.main import run_cli
from quietcore.images import references

pytestmark = [pytest.mark.libvirt, pytest.mark.timeout(900)]
HERE = tried(PLAIN_HOST, OUTCOMES)
CHANGED = tried(PLAIN_HOST, COMPLETED)


def import_stand_ins(quietcore, folder, names):
    """Store an empty disk under every image name that these manifests use."""
    disk = folder / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    for reference in sorted({one for name in names for one in references(as_it_stands(name))}):
        quietcore("image", "import", reference, disk)


def written(folder, name, outcome):
    file = folder / f"{name}.yaml"
    file.write_text(changed(name, outcome))
    return file


def phases(quietcore):
    return {one["vm"]["name"]: one["phase"] for one in quietcore.json("get", "vms")["items"]}


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """`run` on manifests in their folder, in this process; for those that are refused before libvirt or the host is touched."""
    need_root()
    (tmp_path / "config.toml").write_text(f'[paths]\nstate = "{tmp_path}/state"\n[hypervisor]\nuri = "test:///nowhere"\n')
    monkeypatch.setenv("QUIETCORE_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.chdir(FOLDER)

    def call(name):
        code = run_cli(["--quiet", "run", *(word for file in INPUTS[name] for word in ("-f", f"{file}.yaml"))])
        return int(code), *capsys.readouterr()

    yield call
    assert not (tmp_path / "state").exists()


def test_the_table_has_every_manifest_that_the_reader_takes():
    taken = {name for name in INPUTS if not examined(name).problems and examined(name).loaded.documents}
    assert set(OUTCOMES) == taken
    assert not set(COMPLETED) & taken


@pytest.mark.parametrize("name", refused())
def test_what_the_reader_refuses_is_refused_with_all_its_reasons(name, run_here):
    reasons = [f"error: {problem.marked}" for problem in examined(name).problems]
    code, out, err = run_here(name)
    assert (code, out) == (2, "")
    assert [line for line in err.splitlines() if line.startswith("error: ")] == reasons


@pytest.mark.parametrize("name", [name for name in INPUTS if name not in refused() and name not in OUTCOMES])
def test_what_holds_no_vm_starts_none(name, run_here):
    assert run_here(name) == (0, "", "note: there is no VM in the input\n")


def test_an_image_that_the_host_does_not_have_is_named_with_the_way_to_get_it(quietcore):
    error = quietcore.json("run", "-f", FOLDER / "kubevirt-example-vmi-migratable.yaml", expect=2)["errors"][0]
    assert error["message"] == "image registry:5000/kubevirt/alpine-container-disk-demo:devel is not in the image store"
    assert "quietcore image pull registry:5000/kubevirt/alpine-container-disk-demo:devel" in error["hint"]


def test_manifests_that_a_plain_host_can_hold_run_on_it(quietcore, tmp_path):
    import_stand_ins(quietcore, tmp_path, HERE)
    answers = {name: quietcore("run", "-f", FOLDER / f"{name}.yaml") for name in HERE}
    assert answers == {name: outcome.answer or f"vm/{as_it_stands(name).vm.name} created\n" for name, outcome in HERE.items()}
    for name, outcome in HERE.items():
        if outcome.changes:
            assert quietcore("run", "-f", written(tmp_path, name, outcome)) == f"vm/{as_it_stands(name).vm.name} started\n"
    assert phases(quietcore) == {as_it_stands(name).vm.name: "Running" for name in HERE}
    quietcore("verify")


def test_manifests_that_lack_what_their_source_leaves_out_run_when_it_is_filled_in(quietcore, tmp_path):
    specs = {name: spec_of(changed(name, outcome)) for name, outcome in CHANGED.items()}
    files = [word for name, outcome in CHANGED.items() for word in ("-f", written(tmp_path, name, outcome))]
    assert quietcore("run", *files) == "".join(f"vm/{spec.vm.name} created\n" for spec in specs.values())
    assert phases(quietcore) == {spec.vm.name: "Running" for spec in specs.values()}
    quietcore("verify")


def test_the_default_graphics_device_listens_on_a_socket_of_libvirts_own(quietcore, tmp_path):
    name = "kubevirt-example-vmi-migratable"
    import_stand_ins(quietcore, tmp_path, [name])
    quietcore("run", "-f", FOLDER / f"{name}.yaml")
    (line,) = (line for line in quietcore.xml("default_vmi-migratable").splitlines() if "<listen type='socket'" in line)
    assert Path(line.split("'")[3]).name == "vnc.sock"
