"""libvirt as quietcore needs it: transient domains created paused, their threads by QEMU's own answer, their end.

libvirt's exceptions are translated here and nowhere else. The binding is the distribution's python3-libvirt.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias, TypeVar

from quietcore.errors import OperationFailed, PermissionProblem, QuietcoreError
from quietcore.model import CpuSet, VmName
from quietcore.virt.events import DomainEvent, DomainEvents, lifecycle

DomainState: TypeAlias = Literal["running", "paused", "shutdown", "crashed", "other"]
_EMBED_SETTLE_S: Final = 2.0
_GUEST_S: Final = 5
"""A guest agent answers within a moment or not at all."""
_ALIVE_EVERY_S, _ALIVE_MISSES = 10, 3
"""A libvirt that does not answer for half a minute counts as gone."""
_Result = TypeVar("_Result")
LibvirtObject: TypeAlias = Any  # libvirt ships no types


class HypervisorError(OperationFailed):
    """libvirt refused or failed; the message is its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainView:
    """One domain as libvirt lists it."""

    name: str
    uuid: str
    state: DomainState
    persistent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QemuThreads:
    """QEMU's answer about its threads: thread id -> vCPU, thread id -> I/O thread number (from 1, as libvirt counts)."""

    vcpus: Mapping[int, int]
    iothreads: Mapping[int, int]


class LibvirtHypervisor:
    """One connection, opened at the first use.

    `uri` is libvirt's; "qemu:///embed?root=DIR" needs no daemon, but an event loop of ours, which runs in a thread.
    Every method raises HypervisorError with libvirt's own text.
    """

    def __init__(self, uri: str = "qemu:///system") -> None:
        self.uri = uri
        self._connection: LibvirtObject = None
        self._opened_at = 0.0
        self._opening = threading.Lock()
        self._lost = threading.Event()
        self._events: DomainEvents | None = None

    @property
    def embedded(self) -> bool:
        """Whether libvirt's driver runs inside this process."""
        return ":///embed" in self.uri

    def version(self) -> int:
        """libvirt's own number of its version (9000000 is 9.0.0)."""
        return int(self._call(lambda connection: connection.getLibVersion(), "libvirt does not tell its version"))

    def create_paused(self, xml: str) -> DomainView:
        """Create a transient domain whose vCPUs do not run yet.

        Without VIR_DOMAIN_START_VALIDATE, for which libvirt reads its whole schema again: 25 ms for each VM. Tests hold our XML against
        the schema, and `quietcore domain` does so on a host.
        """
        flags = _libvirt().VIR_DOMAIN_START_PAUSED
        return self._view(self._call(lambda connection: connection.createXML(xml, flags), "libvirt could not create the VM"))

    def find(self, name: str) -> DomainView | None:
        """The domain of this name, or None."""
        libvirt = _libvirt()
        try:
            domain = self._open().lookupByName(name)
            return self._view(domain)
        except libvirt.libvirtError as err:
            if err.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise _translated(err, f"libvirt could not look up {name}") from err

    def domains(self) -> tuple[DomainView, ...]:
        """Every active domain, by name."""
        found = self._call(
            lambda connection: connection.listAllDomains(_libvirt().VIR_CONNECT_LIST_DOMAINS_ACTIVE), "libvirt lists no domains"
        )
        views = (self._view_or_none(domain) for domain in found)
        return tuple(sorted((view for view in views if view is not None), key=lambda one: one.name))

    def resume(self, name: str) -> None:
        """Let the vCPUs run."""
        self._on(name, lambda domain: domain.resume(), "libvirt could not resume")

    def suspend(self, name: str) -> None:
        """Stop the vCPUs."""
        self._on(name, lambda domain: domain.suspend(), "libvirt could not pause")

    def shutdown(self, name: str) -> None:
        """Ask the guest to power off (ACPI); it may not obey."""
        self._on(name, lambda domain: domain.shutdown(), "libvirt could not ask the guest to power off")

    def destroy(self, name: str) -> None:
        """End the domain now; one that is already gone is fine."""
        self._settle()
        libvirt = _libvirt()
        try:
            self._open().lookupByName(name).destroy()
        except libvirt.libvirtError as err:
            if err.get_error_code() not in {libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID}:
                raise _translated(err, f"libvirt could not end {name}") from err

    def xml(self, name: str) -> str:
        """The live XML of a domain."""
        return str(self._on(name, lambda domain: domain.XMLDesc(0), "libvirt gives no XML"))

    def threads(self, name: str) -> QemuThreads:
        """Ask QEMU's monitor which thread runs which vCPU and I/O thread (names are unreliable and change)."""
        cpus = self._monitor(name, "query-cpus-fast")
        threads = self._monitor(name, "query-iothreads")
        return QemuThreads(
            vcpus={int(cpu["thread-id"]): int(cpu["cpu-index"]) for cpu in cpus},
            iothreads={
                int(thread["thread-id"]): int(thread["id"].removeprefix("iothread"))
                for thread in threads
                if thread["id"].removeprefix("iothread").isdigit()
            },
        )

    def write_guest_file(self, name: str, path: str, text: str) -> None:
        """Write a file inside the guest by the QEMU guest agent that runs there; it fails at once where none is connected."""
        handle = self._guest(name, "guest-file-open", {"path": path, "mode": "w"})
        try:
            self._guest(name, "guest-file-write", {"handle": handle, "buf-b64": base64.b64encode(text.encode()).decode()})
        finally:
            self._guest(name, "guest-file-close", {"handle": handle})

    def pin_vcpu(self, name: str, vcpu: int, cpus: CpuSet) -> None:
        """Tell libvirt's books of the running domain where a vCPU is; libvirt sets its cpuset and affinity to the same again."""
        flags = _libvirt().VIR_DOMAIN_AFFECT_LIVE
        self._on(name, lambda domain: domain.pinVcpuFlags(vcpu, self._cpu_map(cpus), flags), f"libvirt could not pin vCPU {vcpu}")

    def pin_emulator(self, name: str, cpus: CpuSet) -> None:
        """The same for QEMU's other threads."""
        flags = _libvirt().VIR_DOMAIN_AFFECT_LIVE
        self._on(name, lambda domain: domain.pinEmulator(self._cpu_map(cpus), flags), "libvirt could not pin the emulator")

    def pin_iothread(self, name: str, thread: int, cpus: CpuSet) -> None:
        """The same for one I/O thread."""
        flags = _libvirt().VIR_DOMAIN_AFFECT_LIVE
        self._on(name, lambda domain: domain.pinIOThread(thread, self._cpu_map(cpus), flags), f"libvirt could not pin I/O thread {thread}")

    def _cpu_map(self, cpus: CpuSet) -> tuple[bool, ...]:
        """libvirt's form of a CPU set: one truth for each CPU of the host, offline ones included."""
        count = int(self._call(lambda connection: connection.getCPUMap()[0], "libvirt does not count the host's CPUs"))
        return tuple(cpu in cpus for cpu in range(max(count, cpus.highest + 1)))

    def listen(self) -> DomainEvents:
        """Hear of every domain's life from now on. A connection that breaks is opened again at the next use, and heard again."""
        _start_event_loop(_libvirt())
        self._events = DomainEvents()
        if self._connection is not None:
            self._register(self._events)
        return self._events

    def _register(self, events: DomainEvents) -> None:
        libvirt, connection = _libvirt(), self._connection

        def on_life(_connection: LibvirtObject, domain: LibvirtObject, event: int, detail: int, _opaque: object) -> None:
            events.put(DomainEvent(name=domain.name(), change=lifecycle(event, detail)))

        def on_tuning(_connection: LibvirtObject, domain: LibvirtObject, _parameters: object, _opaque: object) -> None:
            events.put(DomainEvent(name=domain.name(), change="changed"))

        def on_close(_connection: LibvirtObject, _reason: int, _opaque: object) -> None:
            self._lost.set()
            events.put(DomainEvent(name="", change="disconnected"))

        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, on_life, None)
        connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_TUNABLE, on_tuning, None)
        with suppress(libvirt.libvirtError):  # a driver in this process has no connection that could break
            connection.registerCloseCallback(on_close, None)
            connection.setKeepAlive(_ALIVE_EVERY_S, _ALIVE_MISSES)

    def open_console(self, name: str) -> LibvirtObject:
        """A blocking stream to the guest's serial console; refused while somebody else has it open."""
        libvirt = _libvirt()

        def connect(domain: LibvirtObject) -> LibvirtObject:
            stream = self._open().newStream(0)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_SAFE)
            return stream

        return self._on(name, connect, "libvirt could not open the console")

    def _monitor(self, name: str, command: str) -> list[dict[str, Any]]:  # QMP answers are JSON objects
        import libvirt_qemu  # noqa: PLC0415  # only needed once a VM runs

        answer = self._on(
            name,
            lambda domain: libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": command}), 0),
            f"QEMU did not answer {command}",
        )
        found: list[dict[str, Any]] = json.loads(answer)["return"]
        return found

    def _guest(self, name: str, command: str, arguments: Mapping[str, object]) -> LibvirtObject:
        import libvirt_qemu  # noqa: PLC0415  # only sandboxes speak to their guests

        request = json.dumps({"execute": command, "arguments": arguments})
        failure = f"the guest's agent did not do {command}"
        answer = self._on(name, lambda domain: libvirt_qemu.qemuAgentCommand(domain, request, _GUEST_S, 0), failure)
        return json.loads(answer)["return"]

    def _on(self, name: str, action: Callable[[LibvirtObject], _Result], failure: str) -> _Result:
        return self._call(lambda connection: action(connection.lookupByName(name)), f"{failure}: {name}")

    def _call(self, action: Callable[[LibvirtObject], _Result], failure: str) -> _Result:
        libvirt = _libvirt()
        try:
            return action(self._open())
        except libvirt.libvirtError as err:
            raise _translated(err, failure) from err

    def _open(self) -> LibvirtObject:
        with self._opening:
            return self._opened()

    def _opened(self) -> LibvirtObject:
        if self._lost.is_set():
            self._lost.clear()
            self._connection = None
        if self._connection is None:
            libvirt = _libvirt()
            if self.embedded:
                os.environ.setdefault("LIBVIRT_DEBUG", "4")  # the driver in our process would log its warnings to our stderr
                _start_event_loop(libvirt)
            try:
                self._connection = libvirt.open(self.uri)
            except libvirt.libvirtError as err:
                raise _unreachable(err, self.uri) from err
            self._opened_at = time.monotonic()
            if self._events is not None:
                self._register(self._events)
        return self._connection

    def close(self) -> None:
        """Close the connection; the next use opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(_libvirt().libvirtError):
                connection.close()

    def _settle(self) -> None:
        """The embedded driver reconnects to running VMs in a thread of its own; a destroy before that kills QEMU yet reports an error."""
        self._open()
        if self.embedded:
            time.sleep(max(0.0, _EMBED_SETTLE_S - (time.monotonic() - self._opened_at)))

    def _view_or_none(self, domain: LibvirtObject) -> DomainView | None:
        libvirt = _libvirt()
        try:
            return self._view(domain)
        except libvirt.libvirtError:
            return None  # it ended between the list and the question

    def _view(self, domain: LibvirtObject) -> DomainView:
        libvirt = _libvirt()
        states: dict[int, DomainState] = {
            libvirt.VIR_DOMAIN_RUNNING: "running",
            libvirt.VIR_DOMAIN_BLOCKED: "running",
            libvirt.VIR_DOMAIN_PAUSED: "paused",
            libvirt.VIR_DOMAIN_SHUTDOWN: "shutdown",
            libvirt.VIR_DOMAIN_SHUTOFF: "shutdown",
            libvirt.VIR_DOMAIN_CRASHED: "crashed",
        }
        return DomainView(
            name=domain.name(),
            uuid=domain.UUIDString(),
            state=states.get(domain.state()[0], "other"),
            persistent=bool(domain.isPersistent()),
        )


def vm_of(view: DomainView) -> VmName | None:
    """The VM that a domain's name stands for, or None for a domain that is not named by us."""
    try:
        return VmName.from_domain(view.name)
    except ValueError:
        return None


def _libvirt() -> ModuleType:
    try:
        import libvirt  # noqa: PLC0415  # everything that needs no hypervisor works without the binding
    except ImportError as err:
        raise QuietcoreError(
            "the libvirt binding for Python is missing",
            hint="apt-get install python3-libvirt and use /usr/bin/python3 with --system-site-packages",
        ) from err
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # else libvirt prints every error to stderr as well
    module: ModuleType = libvirt
    return module


def _translated(err: LibvirtObject, failure: str) -> QuietcoreError:
    libvirt = _libvirt()
    if err.get_error_code() in {libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_OPERATION_DENIED}:
        return PermissionProblem(f"{failure}: {err.get_error_message()}", hint="run it as root, or join the group libvirt")
    return HypervisorError(f"{failure}: {err.get_error_message()}")


def _unreachable(err: LibvirtObject, uri: str) -> QuietcoreError:
    translated = _translated(err, f"cannot connect to {uri}")
    if isinstance(translated, PermissionProblem) or "ermission denied" in translated.message:
        return PermissionProblem(translated.message, hint="run it as root, or join the group libvirt")
    return HypervisorError(translated.message, hint="start libvirtd (systemctl start libvirtd, or libvirtd -d where no systemd runs)")


_loop_started = threading.Event()


def _start_event_loop(libvirt: ModuleType) -> None:
    if _loop_started.is_set():
        return
    _loop_started.set()
    libvirt.virEventRegisterDefaultImpl()

    def spin() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=spin, name="libvirt-events", daemon=True).start()
