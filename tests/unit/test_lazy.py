"""Packages that import their names late, and what a command therefore does not import."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from tests.vm_specs import dedicated

import quietcore
from quietcore.engine import LedgerFile
from quietcore.lazy import names_of
from quietcore.model import Entry, Ledger

SOURCE = Path(quietcore.__file__).parent
LAZY = sorted(path.parent.name for path in SOURCE.glob("*/__init__.py") if "names_of" in path.read_text())


def test_there_are_lazy_packages():
    assert {"engine", "images", "isolation", "machines", "placement"} <= set(LAZY)


@pytest.mark.parametrize("name", LAZY)
def test_the_table_of_a_lazy_package_says_what_its_imports_say(name):
    tree = ast.parse((SOURCE / name / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = {node.module: " ".join(alias.name for alias in node.names) for node in block.body}
    (assignment,) = block.orelse
    table = {f"quietcore.{name}.{keyword.arg}": keyword.value.value for keyword in assignment.value.keywords}
    assert table == imports


@pytest.mark.parametrize("name", LAZY)
def test_every_name_of_a_lazy_package_is_there_and_no_module_takes_its_place(name):
    package = import_module(f"quietcore.{name}")
    modules = {path.stem for path in (SOURCE / name).glob("*.py")}
    late = {late for late in package.__all__ if late not in eager(name)}
    assert late.isdisjoint(modules)
    assert all(getattr(package, one) is not None for one in package.__all__)


def eager(name):
    """What the package imports at once."""
    tree = ast.parse((SOURCE / name / "__init__.py").read_text())
    return {alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_a_name_is_imported_once_and_an_unknown_one_is_no_attribute(monkeypatch):
    package = import_module("quietcore.machines")
    load = names_of("quietcore.machines", short="parse_spec")
    monkeypatch.delattr(package, "parse_spec", raising=False)
    assert load("parse_spec") is package.__dict__["parse_spec"]
    with pytest.raises(AttributeError, match=r"module 'quietcore\.machines' has no attribute 'parse'"):
        load("parse")


def test_a_process_that_stays_imports_packages_whole():
    code = "import sys; from quietcore.lazy import import_whole; import_whole('quietcore.images', 'quietcore.pod'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    there = {f"quietcore.{path.parent.name}.{path.stem}" for name in ("images", "pod") for path in (SOURCE / name).glob("[a-z]*.py")}
    assert there <= set(done.stdout.split())


MODULES_OF = """
import sys
from quietcore.cli.main import run_cli
code = run_cli(sys.argv[1:])
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""
ACTING = {"adopt", "apply", "observe", "pool", "rebuild", "reconcile", "release", "repin", "settle", "start", "teardown"}
"""What the engine needs to change a host or to read its threads back."""


def modules_of(folder, *arguments):
    """What a whole process has imported after one command on a host with one stopped VM."""
    state = folder / "state"
    state.mkdir()
    LedgerFile(state).save(Ledger(entries=(Entry(spec=dedicated("one"), digest="", manifest="", phase="stopped"),)))
    config = folder / "config.toml"
    config.write_text(f'[paths]\nstate = "{state}"\n[agent]\nsocket = "{folder}/agent.sock"\n')
    command = [sys.executable, "-c", MODULES_OF, "--config", str(config), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, set(done.stderr.split())


def packages(modules):
    return {module.split(".")[1] for module in modules if module.startswith("quietcore.")}


def test_the_version_needs_the_command_line_and_the_configuration_only(tmp_path):
    out, modules = modules_of(tmp_path, "version")
    assert out.startswith("quietcore ")
    assert packages(modules) == {"cli", "config", "errors", "lazy", "model"}
    assert modules.isdisjoint({"rich", "yaml", "lxml", "libvirt", "pycdlib", "pydantic", "traceback"})


def test_a_listing_imports_nothing_that_starts_a_vm(tmp_path):
    out, modules = modules_of(tmp_path, "get", "vms")
    assert "one" in out
    assert packages(modules).isdisjoint({"manifest", "pod", "domain", "agent"})
    assert modules.isdisjoint(f"quietcore.engine.{name}" for name in ACTING)
    assert modules.isdisjoint({"quietcore.placement.admission", "quietcore.images.preparing", "quietcore.isolation.verifying"})
    assert modules.isdisjoint({"rich", "yaml", "lxml", "pycdlib", "pydantic", "tarfile", "ctypes"})


def test_a_client_of_the_agent_imports_no_engine():
    code = "import sys, quietcore.cli.vms, quietcore.cli.remote; print(*sys.modules)"
    modules = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert packages(modules).isdisjoint({"manifest", "pod", "placement", "isolation", "domain", "host", "images", "machines"})
    assert modules.isdisjoint({"quietcore.engine.engine", "quietcore.agent.agent", "http.client", "libvirt", "lxml", "yaml"})


def test_a_dry_run_imports_no_other_verb_and_no_other_form_of_a_machine(tmp_path):
    _out, modules = modules_of(tmp_path, "run", "-f", str(SOURCE.parents[1] / "examples/quickstart.yaml"), "--dry-run")
    assert "quietcore.placement.admission" in modules
    assert modules.isdisjoint(f"quietcore.engine.{name}" for name in ("adopt", "rebuild", "release", "repin", "reconcile"))
    assert modules.isdisjoint(f"quietcore.machines.{name}" for name in ("lstopo", "yamlfile", "recording"))
    assert modules.isdisjoint({"rich", "pycdlib", "pydantic", "libvirt"})
