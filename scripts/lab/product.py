"""quietcore itself inside a lab: its command line, called in this process to save its start, and the VMs that it is given."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final
from warnings import catch_warnings, simplefilter

from lab.inside import CGROUP_ROOT, CPUS, Cgroup, allowed
from lab.looking import eventually, lasting_threads, read
from quietcore.cli.main import run_cli
from quietcore.model import CpuSet

CONFIGURATION: Final = Path("/etc/quietcore/config.toml")
HERE: Final = '[hypervisor]\nacceleration = "tcg"\nqemu_user = "root"\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one command answered."""

    code: int
    out: str
    err: str

    @property
    def value(self) -> dict[str, Any]:  # JSON as the command prints it
        """The JSON object on standard output."""
        found: dict[str, Any] = json.loads(self.out)
        return found


def quietcore(*words: str) -> Answer:
    """Run one command line."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_cli(list(words))
    return Answer(code=int(code), out=out.getvalue(), err=err.getvalue())


def kill_at(step: str, *words: str) -> None:
    """Run one command line in a process of its own and end it with SIGKILL as soon as it tells of a step."""
    reader, writer = os.pipe()
    with catch_warnings():
        simplefilter("ignore", DeprecationWarning)  # of Python 3.12, should libvirt have threads here: the child never asks them
        pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            with os.fdopen(writer, "w", buffering=1) as told, redirect_stderr(told), redirect_stdout(StringIO()):
                run_cli(list(words))
        finally:
            os._exit(0)  # a fork of the test must never go on with it
    os.close(writer)
    with os.fdopen(reader) as told:
        reached = any(step in line for line in told)
        os.kill(pid, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert reached, f"{step} was not reached"
    assert ended == -signal.SIGKILL


def delete(name: str) -> None:
    """Delete a VM if there is one."""
    deleted = quietcore("delete", name, "--now", "--ignore-not-found")
    assert deleted.code == 0, deleted.err


def delete_all(folder: Path) -> None:
    """Delete the VMs whose manifests (NAME.yaml) lie in a folder; then every CPU must be everybody's again."""
    for file in sorted(folder.glob("*.yaml")):
        delete(file.stem)
    cpus_are_everybodys()


def cpus_are_everybodys() -> None:
    """Wait until no CPU is kept from the first process."""
    eventually(lambda: allowed(1) == CpuSet.parse(read(CPUS / "online")), "a deleted VM keeps CPUs")


def configure(text: str = HERE) -> None:
    """Write the host's configuration."""
    CONFIGURATION.parent.mkdir(parents=True, exist_ok=True)
    CONFIGURATION.write_text(text)


def manifest(
    name: str,
    *,
    topology: tuple[int, int, int] = (1, 2, 1),
    guest: str = "64Mi",
    strategy: str = "",
    cpu: dict[str, Any] | None = None,  # KubeVirt's own fields, of any type
    domain: dict[str, Any] | None = None,
    hugepages: bool = False,
    scratch_disk: bool = False,
) -> str:
    """A VirtualMachineInstance with dedicated CPUs; `cpu` and `domain` add KubeVirt's fields to these two objects."""
    sockets, cores, threads = topology
    memory: dict[str, Any] = {"guest": guest} | ({"hugepages": {"pageSize": "2Mi"}} if hugepages else {})
    shape = {"sockets": sockets, "cores": cores, "threads": threads, "dedicatedCpuPlacement": True, **(cpu or {})}
    devices: dict[str, Any] = {"autoattachGraphicsDevice": False}
    volumes = []
    if scratch_disk:
        devices["disks"] = [{"name": "scratch", "disk": {"bus": "virtio"}, "dedicatedIOThread": True}]
        volumes = [{"name": "scratch", "emptyDisk": {"capacity": "16Mi"}}]
    return json.dumps(
        {
            "apiVersion": "kubevirt.io/v1",
            "kind": "VirtualMachineInstance",
            "metadata": {"name": name, "annotations": {"quietcore.io/strategy": strategy} if strategy else {}},
            "spec": {"domain": {"cpu": shape, "memory": memory, "devices": devices, **(domain or {})}, "volumes": volumes},
        }
    )


def run(folder: Path, name: str, **shape: Any) -> Answer:  # noqa: ANN401  # as `manifest` takes it
    """Write a manifest (NAME.yaml) and run it, with JSON as the answer."""
    file = folder / f"{name}.yaml"
    file.write_text(manifest(name, **shape))
    return quietcore("run", "-f", str(file), "-o", "json")


def start(folder: Path, name: str, **shape: Any) -> RunningVm:  # noqa: ANN401  # as `manifest` takes it
    """As `run`, and it must start."""
    answer = run(folder, name, **shape)
    assert answer.code == 0, answer.err + answer.out
    return RunningVm.of(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningVm:
    """A VM as `describe -o json` shows it, with what the kernel says about the same threads."""

    described: dict[str, Any]  # JSON as the command prints it

    @classmethod
    def of(cls, name: str) -> RunningVm:
        """Ask now."""
        answer = quietcore("describe", name, "-o", "json")
        assert answer.code == 0, answer.err
        return cls(described=answer.value)

    @property
    def pid(self) -> int:
        """QEMU's process id."""
        return int(self.described["pid"])

    @property
    def mechanism(self) -> str:
        """How its threads are kept apart."""
        return str(self.described["mechanism"])

    @property
    def dedicated(self) -> CpuSet:
        """The CPUs of its vCPUs."""
        return CpuSet.from_iterable(one["pcpu"] for one in self.described["vcpus"] if one["pcpu"] is not None)

    @property
    def vcpu_tids(self) -> dict[int, int]:
        """vCPU -> thread id."""
        return {one["vcpu"]: one["tid"] for one in self.described["vcpus"]}

    @property
    def pcpus(self) -> dict[int, int]:
        """vCPU -> the CPU that was promised."""
        return {one["vcpu"]: one["pcpu"] for one in self.described["vcpus"]}

    @property
    def other_tids(self) -> list[int]:
        """Every thread of QEMU that is no vCPU and lasts, as /proc lists them now."""
        return sorted(lasting_threads(self.pid).keys() - self.vcpu_tids.values())

    def vcpus_allowed(self) -> dict[int, CpuSet]:
        """vCPU -> the CPUs that the kernel lets it use."""
        return {vcpu: allowed(tid) for vcpu, tid in self.vcpu_tids.items()}

    def group_of_vcpu(self, vcpu: int) -> Cgroup:
        """The cgroup v2 group of a vCPU's thread."""
        line = Path(f"/proc/{self.vcpu_tids[vcpu]}/cgroup").read_text().strip()
        return Cgroup(CGROUP_ROOT / line.removeprefix("0::/"))


class Standing:
    """At most one VM that tests use one after the other, since a start costs seconds. Each of them must leave it right.

    `start` starts a VM of a name and a shape, `home` undoes what a test may leave behind, `ended` asserts that the host is as before.
    """

    def __init__(
        self,
        start: Callable[..., RunningVm],
        *,
        home: Callable[[RunningVm], None] = lambda _: None,
        ended: Callable[[], None] = cpus_are_everybodys,
    ) -> None:
        self._start, self._home, self._ended = start, home, ended
        self._wanted: tuple[str, dict[str, Any]] | None = None  # a shape is what `start` takes
        self._right: RunningVm | None = None

    @contextmanager
    def lent(self, name: str, **shape: Any) -> Iterator[RunningVm]:  # noqa: ANN401  # as `start` takes it
        """The VM of this name and shape for one test: the one that stands, or a new one where that is another or was left wrong."""
        vm, self._right = self._right, None
        if vm is None or self._wanted != (name, shape):
            self.end()
            self._wanted = (name, shape)
            vm = self._start(name, **shape)
        yield vm
        self._home(vm)
        now = RunningVm.of(name)
        assert (now.described["phase"], now.dedicated) == ("Running", vm.dedicated)
        assert now.vcpus_allowed() == {vcpu: CpuSet.of(pcpu) for vcpu, pcpu in now.pcpus.items()}
        verified = quietcore("verify", name)
        assert verified.code == 0, verified.out + verified.err
        self._right = now

    def end(self) -> None:
        """Delete the VM, if there is one; also one that did not start to the end."""
        if self._wanted is not None:
            name, self._wanted, self._right = self._wanted[0], None, None
            delete(name)
            self._ended()
