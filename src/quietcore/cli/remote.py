"""The agent's engine, reached over its socket: the same calls with the same values as the engine in this process.

Where no agent answers, or one that cares for other VMs than this command line would, the command does the work itself.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from quietcore import __version__
from quietcore.agent import wire
from quietcore.config import Config
from quietcore.engine import Event, Outcome, VmView
from quietcore.engine.codec import encode
from quietcore.errors import InputError, OperationFailed, PermissionProblem, QuietcoreError
from quietcore.model import KUBEVIRT_DEFAULTS, ClusterConfig, CpuSet, Entry, Ledger, Plan, Refusal, VmName, VmSpec
from quietcore.render.values import Care, Verification

if TYPE_CHECKING:
    from quietcore.engine.adopt import Wanted
    from quietcore.engine.observe import Observation
    from quietcore.engine.repin import Move

_CONNECT_S: Final = 2.0
_ANSWER_S: Final = 900.0
"""A start waits for the lock and for images; a deletion for the guest's grace period."""


class RemoteEngine:
    """What the verbs need of an engine. Every method raises the errors of the engine itself; `report` hears its steps."""

    def __init__(self, config: Config, report: Callable[[Event], None]) -> None:
        self._config = config
        self._report = report

    def views(self) -> tuple[VmView, ...]:
        """Every VM of the books."""
        found: tuple[VmView, ...] = self._value(tuple[VmView, ...], "GET", "/v1/vms")
        return found

    def view(self, vm: VmName) -> VmView | None:
        """One VM, or None."""
        found: VmView | None = None
        try:
            found = self._value(VmView, "GET", _path(vm))
        except InputError as err:
            if not any(problem.code == "not-found" for problem in err.problems):
                raise
        return found

    def observation(self, vm: VmName) -> Observation:
        """The threads and cgroups of a running VM."""
        from quietcore.engine.observe import Observation

        found: Observation = self._value(Observation, "GET", f"{_path(vm)}/observation")
        return found

    def verify(self, view: VmView) -> Verification:
        """Read the kernel back and compare it with the plan."""
        found: Verification = self._value(Verification, "GET", _path(view.entry.vm).replace("/vms/", "/verify/", 1))
        return found

    def apply(self, spec: VmSpec, text: str, cluster: ClusterConfig = KUBEVIRT_DEFAULTS) -> Outcome:
        """Make one VM be as its manifest says."""
        found: Outcome = self._value(Outcome, "POST", "/v1/apply", encode(wire.Wanted(spec=spec, text=text, cluster=cluster)))
        return found

    def delete(self, vm: VmName, *, grace_s: int | None = None) -> bool:
        """End a VM and remove all traces of it. False when there is no such VM."""
        found: bool = self._value(bool, "DELETE", _path(vm) + ("" if grace_s is None else f"?grace={grace_s}"))
        return found

    def plan_move(self, vm: VmName, *, cpus: CpuSet | None = None, memory: bool = False) -> Move | Refusal | None:
        """Where `repin` would put a running VM; None when there is no such VM."""
        from quietcore.engine.repin import Move

        found: Move | Refusal | None = self._value(Move | Refusal | None, "GET", _repin(vm, cpus, memory))
        return found

    def repin(self, vm: VmName, *, cpus: CpuSet | None = None, memory: bool = False) -> Move | Refusal | None:
        """Move a running VM's vCPUs to these CPUs, or somewhere better, and its memory with them. None when there is no such VM."""
        from quietcore.engine.repin import Move

        found: Move | Refusal | None = self._value(Move | Refusal | None, "POST", _repin(vm, cpus, memory))
        return found

    def adopt(self, wanted: Wanted, *, dry_run: bool = False) -> Entry | Plan | Refusal:
        """Give a running domain that is not ours CPUs of its own; gives its entry, or with `dry_run` the plan alone."""
        path = "/v1/adopt?dry-run=1" if dry_run else "/v1/adopt"
        found: Entry | Plan | Refusal = self._value(Entry | Plan | Refusal, "POST", path, encode(wanted))
        return found

    def release(self, vm: VmName) -> bool:
        """Give an adopted domain back what it had. False when there is no such VM."""
        found: bool = self._value(bool, "POST", f"{_path(vm)}/release")
        return found

    def ledger(self) -> Ledger:
        """The books."""
        found: Ledger = self._value(Ledger, "GET", "/v1/ledger")
        return found

    def care(self, vm: VmName) -> Care | None:
        """What the agent did for a VM."""
        found: Care | None = self._value(Care | None, "GET", f"{_path(vm)}/care")
        return found

    def answers(self) -> bool:
        """Whether an agent is there that would do what this command line would."""
        try:
            self._lines("GET", "/v1/agent", None, _CONNECT_S)
        except (OSError, QuietcoreError):
            return False
        return True

    def _value(self, wanted: Any, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401  # as codec.decode
        try:
            content = self._lines(method, path, body, _ANSWER_S)
        except OSError as err:
            raise OperationFailed(
                f"the agent broke off: {err}",
                hint=f"see its journal; what it had begun is finished or undone when it starts ({method} {path})",
            ) from err
        return wire.from_json(wanted, content)

    def _lines(self, method: str, path: str, body: object, patience_s: float) -> Any:  # noqa: ANN401  # as codec.decode
        """One request in HTTP/1.0, where the end of the connection ends the answer; `http.client` alone would take 10 ms to import."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.0",
            f"Accept: {wire.MEDIA_TYPE}",
            f"Content-Length: {len(content)}",
            f"Quietcore-State: {self._config.state_dir}",
            f"Quietcore-Uri: {self._config.uri}",
            f"Quietcore-Version: {__version__}",
        )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.settimeout(_CONNECT_S)
            connection.connect(self._config.socket)
            connection.settimeout(patience_s)
            connection.sendall("\r\n".join((*head, "", "")).encode() + content)
            with connection.makefile("rb") as answer:
                return self._result(answer)

    def _result(self, answer: IO[bytes]) -> Any:  # noqa: ANN401  # as codec.decode
        status, form = _head(answer)
        if form != wire.MEDIA_TYPE:
            raise _refusal(status, answer.read().decode("utf-8", "replace"))
        for line in answer:
            kind, content = wire.read_line(line.decode())
            if kind == "value":
                return content
            if kind == "error":
                raise content
            self._report(content)
        raise OperationFailed(
            "the agent ended before it answered", hint="see its journal; what it had begun is finished or undone when it starts"
        )


def _head(answer: IO[bytes]) -> tuple[int, str]:
    """The status and the content type of an answer. Raises ConnectionError for what is no answer in HTTP."""
    version, _, rest = answer.readline().decode("latin-1").partition(" ")
    if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
        raise ConnectionError("it does not speak HTTP")
    fields = {}
    while line := answer.readline().decode("latin-1").strip():
        name, _, text = line.partition(":")
        fields[name.lower()] = text.strip()
    return int(rest[:3]), fields.get("content-type", "")


def _path(vm: VmName) -> str:
    return f"/v1/vms/{quote(vm.namespace, safe='')}/{quote(vm.name, safe='')}"


def _repin(vm: VmName, cpus: CpuSet | None, memory: bool) -> str:  # noqa: FBT001  # as its callers have it
    words = [*(() if cpus is None else (f"cpus={cpus}",)), *(("memory=1",) if memory else ())]
    return f"{_path(vm)}/repin" + (f"?{'&'.join(words)}" if words else "")


def _refusal(status: int, body: str) -> QuietcoreError:
    """An answer in the form for everybody: permission, or an agent that is not meant."""
    try:
        problem = json.loads(body)["errors"][0]
        message, hint = str(problem["message"]), str(problem["hint"])
    except (ValueError, KeyError, IndexError, TypeError):
        message, hint = f"the agent answered {status}", ""
    return (PermissionProblem if status == 403 else OperationFailed)(message, hint=hint)
