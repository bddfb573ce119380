"""What lab tests share: a VM that one of them left wrong is replaced; a command that shall be killed half way is."""

import json
import signal
import sys

import pytest

from lab import product
from quietcore.model import CpuSet


class Host:
    """A pretended quietcore: what was asked of it, which VMs it finds fault with, and the CPUs of their one vCPU, promised and real."""

    def __init__(self):
        self.asked = []
        self.wrong = set()
        self.promised = self.real = 2

    def quietcore(self, *words):
        verb, name, *_ = words
        self.asked.append(f"{verb} {name}")
        described = {"vm": {"name": name}, "phase": "Running", "vcpus": [{"vcpu": 0, "tid": 1, "pcpu": self.promised}]}
        return product.Answer(code=int(verb == "verify" and name in self.wrong), out=json.dumps(described), err="")

    def start(self, name, **shape):
        del shape
        self.asked.append(f"run {name}")
        return product.RunningVm.of(name)

    def ended(self):
        self.asked.append("as before")

    @property
    def changes(self):
        """What was started, deleted and checked since the last look."""
        seen, self.asked = [one for one in self.asked if not one.startswith(("describe", "verify"))], []
        return seen


@pytest.fixture
def host(monkeypatch):
    one = Host()
    monkeypatch.setattr(product, "quietcore", one.quietcore)
    monkeypatch.setattr(product, "allowed", lambda _: CpuSet.of(one.real))
    return one


@pytest.fixture
def standing(host):
    return product.Standing(host.start, ended=host.ended)


def test_one_vm_serves_tests_of_the_same_name_and_shape_and_no_other(host, standing):
    for _ in range(2):
        with standing.lent("a", vcpus=1):
            pass
    assert host.changes == ["run a"]
    with standing.lent("a", vcpus=2):
        pass
    assert host.changes == ["delete a", "as before", "run a"]
    with standing.lent("b", vcpus=2):
        pass
    standing.end()
    standing.end()
    assert host.changes == ["delete a", "as before", "run b", "delete b", "as before"]


def test_a_test_that_leaves_the_vm_wrong_fails_and_the_next_gets_a_new_one(host, standing):
    with pytest.raises(AssertionError), standing.lent("a"):
        host.wrong.add("a")
    host.wrong.clear()
    with standing.lent("a"):
        pass
    assert host.changes == ["run a", "delete a", "as before", "run a"]


def test_a_vm_that_did_not_start_to_the_end_is_deleted(host, monkeypatch):
    def fails(name):
        host.asked.append(f"run {name}")
        raise AssertionError("it does not start")

    standing = product.Standing(fails, ended=host.ended)
    with pytest.raises(AssertionError, match="does not start"), standing.lent("a"):
        pass
    standing.end()
    assert host.changes == ["run a", "delete a", "as before"]


def test_a_test_that_leaves_the_vm_elsewhere_fails(host, standing):
    with pytest.raises(AssertionError), standing.lent("a"):
        host.real = 3
    with pytest.raises(AssertionError), standing.lent("a"):
        host.promised = 3


def test_a_vm_is_brought_home_before_it_is_checked(host):
    def home(vm):
        host.promised = host.real = vm.dedicated.lowest

    standing = product.Standing(host.start, home=home)
    with standing.lent("a"):
        host.promised = host.real = 3
    with standing.lent("a") as vm:
        assert vm.dedicated == CpuSet.of(2)
    assert host.changes == ["run a"]


def test_a_command_is_killed_where_it_tells_of_the_step(monkeypatch, tmp_path):
    def run_cli(words):
        print(f"default/a: {words}: paused", file=sys.stderr)
        signal.pause()
        (tmp_path / "went on").touch()

    monkeypatch.setattr(product, "run_cli", run_cli)
    product.kill_at("paused", "run")
    assert not (tmp_path / "went on").exists()


def test_a_command_that_ends_before_the_step_is_told(monkeypatch):
    monkeypatch.setattr(product, "run_cli", lambda _: 0)
    with pytest.raises(AssertionError, match="paused was not reached"):
        product.kill_at("paused", "run")
