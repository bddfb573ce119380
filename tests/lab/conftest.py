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
    """A connection to a libvirtd that runs inside the lab."""
    import libvirt

    from lab.hypervisor import libvirtd

    libvirt.registerErrorHandler(lambda *_: None, None)
    with libvirtd():
        connection = libvirt.open("qemu:///system")
        yield connection
        connection.close()


@pytest.fixture(scope="session")
def bus():
    """The system bus and machined, started by systemd without the rest of the host's boot; for the machine with systemd."""
    import subprocess
    from pathlib import Path

    Path("/run/dbus").mkdir(exist_ok=True)
    units = ["dbus.socket", "dbus.service", "systemd-machined.service"]
    subprocess.run(["systemctl", "start", "--job-mode=ignore-dependencies", *units], check=True)
