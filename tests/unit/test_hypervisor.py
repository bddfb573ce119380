"""The parts of the libvirt border that need no libvirt: names, threads, errors in our words."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from quietcore.errors import PermissionProblem, QuietcoreError
from quietcore.model import VmName
from quietcore.virt import HypervisorError, LibvirtHypervisor
from quietcore.virt.hypervisor import DomainView, QemuThreads, vm_of


class LibvirtError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def get_error_code(self) -> int:
        return self.code

    def get_error_message(self) -> str:
        return self.message


@pytest.fixture
def libvirt(monkeypatch):
    """A stand-in for the binding: its error codes, and `open` as a test sets it."""
    module = ModuleType("libvirt")
    module.libvirtError = LibvirtError
    module.registerErrorHandler = lambda *_args: None
    for number, name in enumerate(("NO_DOMAIN", "OPERATION_INVALID", "AUTH_FAILED", "ACCESS_DENIED", "OPERATION_DENIED", "INTERNAL_ERROR")):
        setattr(module, f"VIR_ERR_{name}", number)
    for number, name in enumerate(("RUNNING", "BLOCKED", "PAUSED", "SHUTDOWN", "SHUTOFF", "CRASHED")):
        setattr(module, f"VIR_DOMAIN_{name}", number)
    monkeypatch.setitem(sys.modules, "libvirt", module)
    return module


def domain(state: int = 0):
    return SimpleNamespace(name=lambda: "default_a", UUIDString=lambda: "u", state=lambda: (state, 0), isPersistent=lambda: 0)


def raising(error: Exception):
    def call(*_arguments: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(("name", "vm"), [("default_a", VmName(name="a")), ("web", None), ("a_b_c", None)])
def test_a_domain_is_ours_by_its_name(name, vm):
    assert vm_of(DomainView(name=name, uuid="", state="running", persistent=False)) == vm


@pytest.mark.parametrize(
    ("state", "word"), [(0, "running"), (1, "running"), (2, "paused"), (3, "shutdown"), (4, "shutdown"), (5, "crashed"), (9, "other")]
)
def test_states_are_told_in_our_words(libvirt, state, word):
    libvirt.open = lambda _uri: SimpleNamespace(lookupByName=lambda _name: domain(state))
    assert LibvirtHypervisor().find("default_a") == DomainView(name="default_a", uuid="u", state=word, persistent=False)


def test_threads_are_numbered_by_qemu_and_foreign_iothreads_left_out(monkeypatch):
    answers = {
        "query-cpus-fast": [{"cpu-index": 1, "thread-id": 12, "qom-path": "/x"}, {"cpu-index": 0, "thread-id": 11}],
        "query-iothreads": [{"id": "iothread2", "thread-id": 21}, {"id": "mon_iothread", "thread-id": 22}, {"id": "7", "thread-id": 23}],
    }
    monkeypatch.setattr(LibvirtHypervisor, "_monitor", lambda _self, _name, command: answers[command])
    assert LibvirtHypervisor().threads("default_a") == QemuThreads(vcpus={12: 1, 11: 0}, iothreads={21: 2, 23: 7})


def test_a_domain_that_is_not_there_is_none_and_its_end_no_failure(libvirt):
    libvirt.open = lambda _uri: SimpleNamespace(lookupByName=raising(LibvirtError(0, "no domain")))
    hypervisor = LibvirtHypervisor()
    assert hypervisor.find("default_a") is None
    hypervisor.destroy("default_a")


def test_a_connection_that_was_closed_is_opened_again_at_the_next_use(libvirt):
    said = []
    libvirt.open = lambda _uri: (
        said.append("open") or SimpleNamespace(lookupByName=lambda _name: domain(), close=lambda: said.append("close"))
    )
    hypervisor = LibvirtHypervisor()
    hypervisor.close()
    for _ in range(2):
        hypervisor.find("default_a")
    hypervisor.close()
    hypervisor.find("default_a")
    assert said == ["open", "close", "open"]


def test_libvirts_refusals_come_out_with_its_own_words(libvirt):
    libvirt.open = lambda _uri: SimpleNamespace(lookupByName=raising(LibvirtError(5, "it broke")))
    for call in (LibvirtHypervisor().find, LibvirtHypervisor().resume, LibvirtHypervisor().shutdown, LibvirtHypervisor().destroy):
        with pytest.raises(HypervisorError, match=r"libvirt could not .*default_a: it broke"):
            call("default_a")


@pytest.mark.parametrize(
    ("error", "kind", "hint"),
    [
        (LibvirtError(2, "authentication failed"), PermissionProblem, "run it as root, or join the group libvirt"),
        (LibvirtError(5, "Failed to connect socket: Permission denied"), PermissionProblem, "run it as root, or join the group libvirt"),
        (LibvirtError(5, "Failed to connect socket: No such file"), HypervisorError, "start libvirtd"),
    ],
)
def test_a_daemon_that_does_not_answer_is_told_with_what_to_do(libvirt, error, kind, hint):
    libvirt.open = raising(error)
    with pytest.raises(kind, match="cannot connect to qemu:///system") as refusal:
        LibvirtHypervisor().domains()
    assert hint in refusal.value.hint


def test_without_the_binding_the_way_to_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(QuietcoreError, match="the libvirt binding for Python is missing") as refusal:
        LibvirtHypervisor().domains()
    assert "apt-get install python3-libvirt" in refusal.value.hint


@pytest.mark.parametrize(("uri", "embedded"), [("qemu:///system", False), ("qemu:///embed?root=/x", True), ("qemu+ssh://h/system", False)])
def test_the_embedded_driver_is_known_by_its_uri(uri, embedded):
    assert LibvirtHypervisor(uri).embedded is embedded
