"""Command lines and an agent, each a process of its own, all at once on one fake host."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

from lab.looking import PATIENCE_S
from quietcore.agent import service
from quietcore.cli.context import App, read_config
from quietcore.cli.main import run_cli
from tests.prerequisites import need_root
from tests.shell.cli import VMI
from tests.shell.fake_host import FakeHost
from tests.shell.far_host import FarHost, program_of, serve
from tests.shell.test_engine import KINDS

WORKERS, REQUESTS = 20, 10


def real_time(far: FarHost, config):
    return replace(far.program().world, config=config, clock=time.monotonic, sleep=time.sleep)


def silent() -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def requests(far: FarHost, folder, worker: int, *, by_agent: bool) -> None:
    """One person's commands: each VM is asked for and then deleted. Every other person has an agent to ask."""
    silent()
    os.environ["QUIETCORE_CONFIG"] = str(folder / ("with-agent.toml" if by_agent else "alone.toml"))
    App.world = property(lambda app: real_time(far, app.config))  # in this process alone
    deadline = time.monotonic() + PATIENCE_S
    while by_agent and not (folder / "agent.sock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    answers = []
    for number in range(REQUESTS):
        name = f"w{worker}-{number // 2}"
        manifest = folder / f"{name}.yaml"
        manifest.write_text(VMI.format(name=name, namespace="default", cores=1 + worker % 3, dedicated="true"))
        words = ("run", "-f", str(manifest)) if number % 2 == 0 else ("delete", name, "--now")
        answers.append((words[0], run_cli(list(words))))
    (folder / f"answers-{worker}").write_text(json.dumps(answers))


def care(far: FarHost, folder, notify: str) -> None:
    silent()
    config = read_config(str(folder / "with-agent.toml"), None)
    service.run(real_time(far, config), far.hypervisor, environment={"NOTIFY_SOCKET": notify})


def test_two_hundred_requests_of_command_lines_and_an_agent_give_no_cpu_two_owners(tmp_path):
    need_root()
    (tmp_path / "host").mkdir()
    host = FakeHost(tmp_path / "host", cpus=12, **KINDS["v2 libvirt partitions"])
    host.program()
    for name, path in (("with-agent", "agent.sock"), ("alone", "none.sock")):
        text = f'[paths]\nstate = "{host.root}/state"\n[agent]\nsocket = "{tmp_path}/{path}"\nresync_seconds = 1\n'
        (tmp_path / f"{name}.toml").write_text(text)
    shared = []

    def heard(name: str) -> None:
        """After every start: each vCPU that runs has a CPU that no other one has."""
        if name == "resume":
            machine = host.hypervisor
            running = [one for one, view in machine.running.items() if view.state == "running"]
            places = [host.threads.affinity(tid) for one in running for tid in machine.threads(one).vcpus]
            shared.extend(place for place in places if len(place) != 1 or places.count(place) > 1)

    with ExitStack() as stack, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        agent, *programs = [
            stack.enter_context(program_of(host, act))
            for act in (
                lambda far: care(far, tmp_path, str(tmp_path / "notify")),
                *(lambda far, worker=worker: requests(far, tmp_path, worker, by_agent=worker % 2 == 0) for worker in range(WORKERS)),
            )
        ]

        def end() -> None:
            for process, _pipe in programs:
                process.join()
            agent[0].terminate()

        ending = threading.Thread(target=end)
        ending.start()
        serve(host, [pipe for _process, pipe in (agent, *programs)], heard)
        ending.join()
        agent[0].join()
        assert [process.exitcode for process, _pipe in (agent, *programs)] == [0] * (1 + WORKERS)
        assert notified.recv(100) == b"READY=1"
    answers = [tuple(one) for worker in range(WORKERS) for one in json.loads((tmp_path / f"answers-{worker}").read_text())]
    assert len(answers) == WORKERS * REQUESTS
    assert set(answers) == {("run", 0), ("run", 3), ("delete", 0), ("delete", 2)}  # 3: no CPU was free, and so (2) nothing to delete
    assert answers.count(("run", 0)) == answers.count(("delete", 0))
    assert shared == []
    assert (host.program().world.books.load().entries, host.hypervisor.running) == ((), {})
