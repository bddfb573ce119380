"""Connects the lab's plugin: the outer side boots labs, the inner side runs there."""

import pytest

from lab.plugin import INSIDE, Inside, Outside, rows_of


def pytest_configure(config):
    config.pluginmanager.register(Inside(config) if INSIDE else Outside(), "quietcore-lab")


def pytest_generate_tests(metafunc):
    wanted = rows_of(metafunc.definition)
    if wanted:
        metafunc.parametrize("row", [str(row) for row in wanted], indirect=True, scope="session")


@pytest.fixture(autouse=True, scope="session")
def row(request):
    """The row that a lab test runs on, such as "2s4n16c-6.12"; "" for a test that runs outside."""
    return getattr(request, "param", "")


@pytest.fixture(scope="session")
def hypervisor():
    """A connection to a libvirtd that runs inside the lab; below systemd with machined, as on a real host."""
    import libvirt

    from lab.hypervisor import libvirtd, start_machined
    from lab.looking import read

    libvirt.registerErrorHandler(lambda *_: None, None)
    if read("/proc/1/comm") == "systemd":
        start_machined()
    with libvirtd():
        connection = libvirt.open("qemu:///system")
        yield connection
        connection.close()


@pytest.fixture(scope="session")
def nothing_is_left(hypervisor):
    """Asserts that no VM is there any more: no domain, and no CPU that one keeps."""
    from lab import product

    def check():
        product.cpus_are_everybodys()
        assert hypervisor.listAllDomains() == []

    return check


@pytest.fixture(scope="session")
def trace():
    """A tracer of the scheduler, armed once per lab: each arming patches the kernel's code, which emulation sometimes spoils."""
    import subprocess

    from quietcore.host.fs import HostFs
    from quietcore.host.tracing import tracefs, tracer

    if not tracefs(HostFs()):
        subprocess.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], check=True)
    with tracer(HostFs(), tracefs(HostFs()), "quietcore-tests") as armed:
        yield armed
