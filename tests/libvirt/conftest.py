"""The real thing for tests: a private libvirtd, once with libvirt's own cgroups and once without any."""

import shutil

import pytest
from tests.prerequisites import missing, need_programs, need_root

from lab.looking import groups_below


@pytest.fixture(scope="session", params=["libvirt's own cgroups", "no cgroups"])
def libvirt_daemon(request, tmp_path_factory):
    """A running private libvirtd: `.uri`, `.pid`, `.root`. The tests that use it run once for each way of its cgroups."""
    need_root()
    need_programs("libvirtd", "qemu-system-x86_64", "unshare")
    try:
        from tests.libvirt.daemon import ROOT_QEMU, private_libvirtd
    except ImportError:
        missing("python3-libvirt is not installed (bash scripts/setup.sh host)")
    root = tmp_path_factory.mktemp("libvirtd", numbered=True)
    shutil.rmtree(root)
    controllers = "cgroup_controllers = []\n" if request.param == "no cgroups" else ""
    with private_libvirtd(root, ROOT_QEMU + controllers) as daemon:
        yield daemon


@pytest.fixture
def libvirt_uri(libvirt_daemon):
    """The address of the private libvirtd."""
    return libvirt_daemon.uri


@pytest.fixture
def quietcore(tmp_path, libvirt_uri):
    """The command line with its own state; at the end its VMs are deleted, and no domain, file or cgroup of them may be left."""
    from tests.libvirt.program import Program

    program = Program(tmp_path, libvirt_uri)
    yield program
    names = program.domains()
    for name in program.owners():
        program("delete", name, "--now")
    assert program.domains() == []
    assert not list((program.state / "vms").glob("*"))
    assert [group for group in groups_below("/sys/fs/cgroup") if any(name in group.name for name in names)] == []
