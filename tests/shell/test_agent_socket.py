"""The agent's socket: the same values as the engine gives, the objects that the command line prints, and who may do what."""

from __future__ import annotations

import grp
import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from quietcore.agent.peers import Peer, Rights, peer_of
from quietcore.agent.routes import Routes
from quietcore.agent.server import Server
from quietcore.cli.context import App
from quietcore.cli.remote import RemoteEngine
from quietcore.engine import Wanted
from quietcore.errors import InputError, OperationFailed, PermissionProblem
from quietcore.model import CpuSet, VmName
from quietcore.render import json as as_json
from quietcore.render.values import Description, DescriptionList
from tests.prerequisites import need_root
from tests.shell.fake_agent import Cared
from tests.shell.fake_host import FakeHost
from tests.shell.foreign import foreign
from tests.shell.test_engine import KINDS, spec

A = VmName(name="a")
MANIFEST = """\
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: a}
spec:
  terminationGracePeriodSeconds: 0
  domain:
    cpu: {cores: %d, dedicatedCpuPlacement: true}
    memory: {guest: 64Mi}
    devices: {}
"""


@contextmanager
def answering(cared: Cared, path: Path, **changes: str):
    """The agent's server in a thread; gives the configuration with which a command line finds it."""
    config = replace(cared.agent.world.config, socket=str(path), **changes)
    server = Server(config, Routes(cared.agent), cared.log)
    stop = threading.Event()

    def serve() -> None:
        server.timeout = 0.05
        while not stop.is_set():
            server.handle_request()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield config
    finally:
        stop.set()
        thread.join()
        server.server_close()


@pytest.fixture
def cared(tmp_path):
    one = Cared(FakeHost(tmp_path, **KINDS["v2 libvirt partitions"]))
    yield one
    one.close()
    Cared.opened.clear()


@pytest.fixture
def config(cared, tmp_path):
    with answering(cared, tmp_path / "run" / "agent.sock") as found:
        yield found


def ask(config, method: str, path: str, body: str | None = None):
    """A request as any program would make it: status, object, exit code."""
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(config.socket)
        connection = http.client.HTTPConnection("any")
        connection.sock = one
        connection.request(method, path, body)
        with connection.getresponse() as answer:
            return answer.status, json.loads(answer.read()), int(answer.headers["Quietcore-Exit-Code"])


def test_our_own_program_gets_the_same_values_as_from_the_engine(cared, config):
    steps = []
    remote, engine = RemoteEngine(config, steps.append), cared.engine
    assert remote.answers()
    assert remote.apply(spec("a"), "text") == replace(engine.apply(spec("a"), "text"), result="created")
    assert (steps[0].step, steps[-1].step) == ("placed", "running")
    assert remote.views() == engine.views()
    assert remote.view(A) == engine.view(A)
    assert remote.view(VmName(name="none")) is None
    assert remote.observation(A) == engine.observation(A)
    assert remote.ledger() == engine.world.books.load()
    assert remote.verify(remote.view(A)) == engine.verify(engine.view(A))
    cared.settle()
    assert remote.care(A) == cared.agent.care(A)
    assert remote.apply(spec("b", 9), "text") == engine.apply(spec("b", 9), "text")
    assert remote.delete(A, grace_s=0)
    assert not remote.delete(A)
    assert engine.views() == ()


def test_moving_and_adopting_are_the_engines_own_too(cared, config):
    remote, engine = RemoteEngine(config, lambda _step: None), cared.engine
    engine.apply(spec("a"), "text")
    foreign(cared.host, vcpus=1)
    three, old = CpuSet.of(3), VmName(name="old")
    assert remote.plan_move(A, cpus=three) == engine.plan_move(A, cpus=three)
    assert remote.repin(A, cpus=CpuSet.of(0)) == engine.repin(A, cpus=CpuSet.of(0))  # reserved: refused
    assert remote.repin(VmName(name="none"), cpus=three, memory=True) is None
    assert remote.repin(A, cpus=three).there.dedicated == three
    assert engine.view(A).plan.dedicated == three
    assert remote.adopt(Wanted(domain="old"), dry_run=True) == engine.adopt(Wanted(domain="old"), dry_run=True)
    assert remote.adopt(Wanted(domain="old", realtime=frozenset({0}))) == engine.view(old).entry
    with pytest.raises(InputError, match="nothing to give it back"):
        remote.release(A)
    assert (remote.release(old), remote.release(old)) == (True, False)
    assert ask(config, "POST", "/v1/vms/default/a/repin?cpus=1")[1]["items"][0]["vcpus"][0]["pcpu"] == 1
    assert ask(config, "POST", "/v1/vms/default/a/repin?cpus=x")[::2] == (400, 2)
    assert ask(config, "GET", "/v1/vms/default/none/repin")[::2] == (404, 2)
    assert ask(config, "POST", "/v1/adopt", '{"domain": "old"}')[1]["items"][0]["outcome"] == "plan"
    assert ask(config, "POST", "/v1/vms/default/old/release")[1]["kind"] == "Released"


def test_a_reader_of_the_agent_who_may_not_read_the_books_sees_them_all_the_same(cared, config):
    def refuse():
        raise PermissionProblem("the ledger may not be read")

    cared.engine.apply(spec("a"), "text")
    app = App(config=config)
    app.__dict__["world"] = SimpleNamespace(books=SimpleNamespace(load=refuse))
    assert app.books() == cared.engine.world.books.load()


def test_an_error_arrives_as_the_engine_raised_it(config):
    remote = RemoteEngine(config, lambda _step: None)
    remote.apply(spec("a"), "text")
    with pytest.raises(InputError) as caught:
        remote.apply(spec("a", 2), "other")
    assert [problem.code for problem in caught.value.problems] == ["changed-while-running"]


def test_others_get_the_objects_that_the_command_line_prints(cared, config):
    assert ask(config, "GET", "/v1/vms") == (200, as_json.to_json(DescriptionList(items=())), 0)
    status, plan, code = ask(config, "POST", "/v1/apply", MANIFEST % 1)
    assert (status, code, plan["kind"], plan["items"][0]["outcome"]) == (200, 0, "PlanList", "plan")
    cared.settle()
    view, seen = cared.engine.view(A), cared.engine.observation(A)
    described = Description(entry=replace(view.entry, plan=view.plan), phase="Running", census=seen.census, care=cared.agent.care(A))
    assert ask(config, "GET", "/v1/vms/default/a") == (200, json.loads(as_json.dumps(described)), 0)
    assert ask(config, "GET", "/v1/verify/default/a")[1] == json.loads(as_json.dumps(cared.engine.verify(view)))
    assert ask(config, "GET", "/v1/verify")[1]["items"] == [ask(config, "GET", "/v1/verify/default/a")[1]]
    assert ask(config, "GET", "/v1/ledger")[1]["kind"] == "Ledger"
    events = ask(config, "GET", "/v1/events")[1]
    assert events["items"][0]["event"] == "agent-started"
    last = events["items"][-1]["number"]
    assert ask(config, "GET", f"/v1/events?since={last}")[1]["items"] == []
    assert ask(config, "DELETE", "/v1/vms/default/a?grace=0")[:2] == (
        200,
        {"apiVersion": as_json.API_VERSION, "kind": "Deleted", "vm": {"namespace": "default", "name": "a"}},
    )


@pytest.mark.parametrize(
    ("request_", "status", "code", "problem"),
    [
        (("POST", "/v1/apply", MANIFEST % 9), 409, 3, None),
        (("POST", "/v1/apply", "kind: ["), 400, 2, "syntax"),
        (("GET", "/v1/vms/default/none", None), 404, 2, "not-found"),
        (("GET", "/v1/nothing", None), 404, 2, "not-found"),
        (("DELETE", "/v1/vms/default/none", None), 404, 2, "not-found"),
        (("DELETE", "/v1/vms/default/none?grace=soon", None), 400, 2, "bad-request"),
        (("GET", "/v1/events?since=x", None), 400, 2, "bad-request"),
        (("POST", "/v1/vms", ""), 404, 2, "not-found"),
    ],
)
def test_what_cannot_be_done_has_its_status_its_object_and_its_exit_code(config, request_, status, code, problem):
    answer = ask(config, *request_)
    assert (answer[0], answer[2]) == (status, code)
    if problem is not None:
        assert answer[1]["errors"][0]["code"] == problem


def test_an_agent_that_cares_for_other_vms_is_not_used(config):
    for change in ({"state_dir": "/elsewhere"}, {"uri": "test:///default"}):
        assert not RemoteEngine(replace(config, **change), print).answers()


def test_where_no_agent_answers_the_command_does_it_itself(cared, tmp_path):
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(stale))
    for path in (tmp_path / "none.sock", stale):
        assert not RemoteEngine(replace(cared.agent.world.config, socket=str(path)), print).answers()


@pytest.mark.parametrize("answer", [b"", b"220 mail ready\r\n", b"HTTP/1.0 200 OK\r\nContent-", b"HTTP/1.0 200 OK\r\n\r\nhello"])
def test_what_answers_otherwise_is_no_agent(cared, tmp_path, answer):
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()

        def serve() -> None:
            for _ in range(2):
                with door.accept()[0] as peer:
                    peer.recv(65536)
                    peer.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        remote = RemoteEngine(replace(cared.agent.world.config, socket=str(path)), print)
        assert not remote.answers()
        with pytest.raises(OperationFailed, match=r"the agent (broke off|answered 200)"):
            remote.views()
        server.join()


def test_a_stale_socket_is_replaced_and_a_second_agent_refused(cared, tmp_path):
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
    with answering(cared, path) as config:
        assert RemoteEngine(config, print).answers()
        with pytest.raises(OperationFailed, match="another agent answers"), answering(cared, path):
            pass
        assert RemoteEngine(config, print).answers()
    assert not path.exists()


def test_only_the_owner_and_the_group_reach_the_socket(config):
    assert stat.S_IMODE(Path(config.socket).stat().st_mode) == 0o660


STRANGER = """\
import http.client, socket, sys
for method, path in (("GET", "/v1/vms"), ("DELETE", "/v1/vms/default/a?grace=0")):
    one = socket.socket(socket.AF_UNIX)
    try:
        one.connect(sys.argv[1])
    except PermissionError:
        print("closed")
        continue
    connection = http.client.HTTPConnection("any")
    connection.sock = one
    connection.request(method, path)
    print(connection.getresponse().status)
"""


@pytest.mark.parametrize(
    ("groups", "mode", "answers"),
    [
        (["daemon"], 0o660, ["200", "403"]),  # a member reads
        (["nogroup", "daemon"], 0o660, ["200", "403"]),  # by any of its groups
        (["nogroup", "mail"], 0o660, ["closed", "closed"]),  # who may change has to reach the socket as well
        (["nogroup", *range(1000, 1500), "mail", "daemon"], 0o660, ["200", "200"]),
        (["nogroup"], 0o660, ["closed", "closed"]),
        (["nogroup"], 0o666, ["403", "403"]),  # also where somebody opened the socket to everybody
    ],
)
def test_the_kernels_word_decides_what_another_user_may_do(cared, groups, mode, answers):
    need_root()
    cared.engine.apply(spec("a"), "text")
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    try:
        with answering(cared, place / "agent.sock", group="daemon", change_group="mail") as config:
            socket_stat = Path(config.socket).stat()
            assert (stat.S_IMODE(socket_stat.st_mode), socket_stat.st_gid) == (0o660, grp.getgrnam("daemon").gr_gid)
            Path(config.socket).chmod(mode)
            command = ["/usr/bin/python3", "-c", STRANGER, config.socket]
            whom = {"user": "nobody", "group": groups[0], "extra_groups": groups[1:]}
            done = subprocess.run(command, **whom, capture_output=True, text=True, check=True)
    finally:
        shutil.rmtree(place)
    assert done.stdout.split() == answers
    assert (cared.engine.view(A) is None) == (answers[1] == "200")


def test_a_body_that_is_too_large_is_refused_before_it_is_read(config):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(config.socket)
        one.sendall(b"POST /v1/apply HTTP/1.1\r\nHost: any\r\nContent-Length: 99999999999\r\n\r\n")
        assert b"the largest has" in one.makefile("rb").read()


def test_the_kernel_says_who_is_there():
    left, right = socket.socketpair(socket.AF_UNIX)
    with left, right:
        peer = peer_of(left)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert {os.getegid(), *os.getgroups()} == peer.gids


@pytest.mark.parametrize(
    ("uid", "gid", "change", "allowed"),
    [(0, 99, True, True), (7, 8, False, True), (7, 8, True, False), (7, 12, True, True), (7, 12, False, True), (7, 99, False, False)],
)
def test_members_read_and_others_do_not_even_that(monkeypatch, uid, gid, change, allowed):
    groups = {"readers": 8, "changers": 12}
    monkeypatch.setattr("quietcore.agent.peers.group_id", groups.get)
    rights, peer = Rights(readers="readers", changers="changers"), Peer(pid=1, uid=uid, gids=frozenset({gid}))
    if allowed:
        rights.check(peer, change=change)
        return
    with pytest.raises(PermissionProblem, match="may not") as caught:
        rights.check(peer, change=change)
    assert "changers" in caught.value.hint


def test_a_peer_without_rights_gets_an_error_object(cared, tmp_path, monkeypatch):
    monkeypatch.setattr("quietcore.agent.server.peer_of", lambda _connection: Peer(pid=1, uid=65534, gids=frozenset({65534})))
    with answering(cared, tmp_path / "other.sock") as config:
        assert ask(config, "GET", "/v1/vms")[0::2] == (403, 4)
        for _ in range(20):  # the answer is read, however long the body
            assert ask(config, "POST", "/v1/apply", MANIFEST % 1 + "# more\n" * 100_000)[0::2] == (403, 4)
        with pytest.raises(PermissionProblem):
            RemoteEngine(config, print).views()
    assert cared.engine.views() == ()


def test_many_at_once_are_served_or_told_to_come_again(config):
    answers: list[int] = []

    def one() -> None:
        answers.append(ask(config, "GET", "/v1/vms")[0])

    threads = [threading.Thread(target=one) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 60
    assert set(answers) <= {200, 503}


def test_no_cpu_has_two_owners_after_many_requests_at_once(cared, config):
    def one(number: int) -> None:
        remote = RemoteEngine(config, lambda _step: None)
        remote.apply(spec(f"vm{number}"), "text")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger = cared.engine.world.books.load()
    assert len(ledger.entries) == 3  # one CPU of four is reserved
    assert sorted(str(plan.exclusive) for plan in ledger.plans) == ["1", "2", "3"]
