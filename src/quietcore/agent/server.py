"""HTTP over a UNIX socket: one thread for each connection, one request on each, every peer checked. Never TCP."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import stat
import sys
import threading
import traceback
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Final

from quietcore import __version__
from quietcore.agent import wire
from quietcore.agent.events import EventLog
from quietcore.agent.peers import Peer, Rights, group_id, peer_of
from quietcore.agent.routes import Reply, Request, Routes
from quietcore.config import Config
from quietcore.engine import Event
from quietcore.errors import ExitCode, OperationFailed, QuietcoreError
from quietcore.render import json as as_json

LARGEST_BODY: Final = 16 * 1024 * 1024
_MOST_AT_ONCE: Final = 32
_PATIENCE_S: Final = 30.0
EXIT_HEADER: Final = "Quietcore-Exit-Code"
_STATUS: Final = {
    ExitCode.OK: HTTPStatus.OK,
    ExitCode.FINDINGS: HTTPStatus.OK,
    ExitCode.USAGE: HTTPStatus.BAD_REQUEST,
    ExitCode.DOES_NOT_FIT: HTTPStatus.CONFLICT,
    ExitCode.PERMISSION: HTTPStatus.FORBIDDEN,
    ExitCode.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
}


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The listening socket. `handle_request` accepts one connection and returns at once; `server_close` waits for those that run."""

    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    timeout = 0

    def __init__(self, config: Config, routes: Routes, log: EventLog) -> None:
        self.config = config
        self.routes = routes
        self.log = log
        self.rights = Rights(readers=config.group, changers=config.change_group)
        self.bound = False
        self.free = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(config.socket, Handler)

    def server_bind(self) -> None:
        """Bind with mode 0660 from the first moment. Raises OperationFailed while another agent answers here."""
        path = Path(self.config.socket)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.stat().st_mode):
                if _answers(self.config.socket):
                    raise OperationFailed(f"another agent answers on {path}", hint="one agent cares for a host; end the other one first")
                path.unlink()
        before = os.umask(0o117)
        try:
            super().server_bind()
        finally:
            os.umask(before)
        group = group_id(self.config.group)
        os.chown(path, -1, 0 if group is None else group)
        self.bound = True

    def server_close(self) -> None:
        """Wait for the requests that run, and remove the socket."""
        super().server_close()
        if self.bound:  # else it is another agent's
            Path(self.config.socket).unlink(missing_ok=True)

    def handle_error(self, _request: object, _client_address: object) -> None:
        """A peer that goes away in the middle is its own affair; anything else is a defect of ours and told."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.log.add("defect", message="".join(traceback.format_exception(error)))


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(path)
        except OSError:
            return False
    return True


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    timeout = _PATIENCE_S
    server_version = f"quietcore/{__version__}"

    def log_message(self, *_arguments: object) -> None:
        """What was changed is in the events; who reads is not written down."""

    def do_GET(self) -> None:
        """Read."""
        self._serve()

    def do_POST(self) -> None:
        """Change."""
        self._serve()

    def do_DELETE(self) -> None:
        """Delete."""
        self._serve()

    def _serve(self) -> None:
        if not self.server.free.acquire(blocking=False):
            self._fail(
                OperationFailed("the agent is answering too many others", hint="try again in a moment"), HTTPStatus.SERVICE_UNAVAILABLE
            )
            return
        try:
            self._checked(peer_of(self.connection))
        finally:
            self.server.free.release()

    def _checked(self, peer: Peer) -> None:
        values = self.headers.get("Accept", "") == wire.MEDIA_TYPE
        try:
            body = self._body()  # in any case: a peer that still writes would find the connection closed, not the answer
            if values and not self._is_meant():
                self._fail(OperationFailed("this agent cares for other VMs, or is of another version"), HTTPStatus.MISDIRECTED_REQUEST)
                return
            self.server.rights.check(peer, change=self.command != "GET")
            request = Request.parse(self.command, self.path, body, values=values)
            answer = self._as_values if values else self._as_json
            answer(request)
        except QuietcoreError as err:
            self._fail(err)

    def _is_meant(self) -> bool:
        """Whether our own program would have done the same here: the same state, the same libvirt, the same version."""
        config = self.server.config
        wanted = {"Quietcore-State": config.state_dir, "Quietcore-Uri": config.uri, "Quietcore-Version": __version__}
        return all(self.headers.get(name) == text for name, text in wanted.items())

    def _body(self) -> str:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            raise OperationFailed(f"a body of {length} bytes is refused; the largest has {LARGEST_BODY}")
        return self.rfile.read(int(length)).decode("utf-8", "replace")

    def _as_json(self, request: Request) -> None:
        reply = self.server.routes.answer(request, lambda _step: None)
        self._send(reply, _status(reply.code))

    def _as_values(self, request: Request) -> None:
        """Steps as they happen, then the result: the length is not known before, so the end of the connection ends it."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", wire.MEDIA_TYPE)
        self.end_headers()

        def step(event: Event) -> None:
            with suppress(OSError):  # the reader left: what was begun is finished all the same
                self._line(wire.step_line(event))

        try:
            self._line(wire.value_line(self.server.routes.answer(request, step).value))
        except QuietcoreError as err:
            self._line(wire.error_line(err))

    def _line(self, text: str) -> None:
        self.wfile.write(text.encode())

    def _send(self, reply: Reply, status: HTTPStatus) -> None:
        text = json.dumps(reply.shown, indent=2, ensure_ascii=False).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header(EXIT_HEADER, str(int(reply.code)))
        self.end_headers()
        self.wfile.write(text)

    def _fail(self, err: QuietcoreError, status: HTTPStatus | None = None) -> None:
        not_found = any(problem.code == "not-found" for problem in err.problems)
        fitting = status or (HTTPStatus.NOT_FOUND if not_found else _status(err.exit_code))
        self._send(Reply(value=None, shown=as_json.to_json(err), code=err.exit_code), fitting)


def _status(code: ExitCode) -> HTTPStatus:
    return _STATUS.get(code, HTTPStatus.INTERNAL_SERVER_ERROR)
