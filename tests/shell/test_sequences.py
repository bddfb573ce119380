"""Random sequences of all that can happen to a host, against an oracle that knows only who owns how many CPUs.

Commands are carried out, refused a write or killed at one, and the recovery after that may be killed too; QEMU dies, the host reboots,
CPUs go and come back, somebody rewrites groups and moves threads, the books are lost. After each recovery no CPU has two
owners, no VM is forgotten, and the host is as before the command or as after it.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from quietcore.engine import Move, Wanted
from quietcore.errors import InputError, OperationFailed, UndoFailed
from quietcore.model import CpuSet, Ledger, VmName, VmSpec, union
from tests.shell.fake_agent import begun
from tests.shell.fake_host import FakeHost, Faults, Killed
from tests.shell.foreign import foreign
from tests.shell.test_engine import KINDS, spec
from tests.shell.test_faults import probes, reconciled, snapshot

CPUS, RESERVED = 6, 1
OURS, THEIRS = ("a", "b", "c"), ("old", "older")
CPUSET_FILES = ("cpuset.cpus", "cpuset.cpus.exclusive", "cpuset.cpus.partition")
Draw = Callable[[st.SearchStrategy[Any]], Any]
SHARE = st.floats(0, 1, exclude_max=True)


@dataclass(frozen=True)
class Trouble:
    """What goes wrong with a command: the write at this share of its way is refused or kills it, and then `again` the recovery."""

    share: float
    kind: str
    moment: str
    again: float | None
    by_agent: bool


TROUBLE = st.none() | st.builds(
    Trouble,
    share=SHARE,
    kind=st.sampled_from(("kill", "error")),
    moment=st.sampled_from(("before", "after")),
    again=st.none() | SHARE,
    by_agent=st.booleans(),
)


@dataclass(frozen=True)
class Owner:
    """One VM as the oracle knows it. `at` are its CPUs while it runs, empty where it was not read from the books yet."""

    spec: VmSpec | None
    cpus: int
    at: CpuSet = field(default_factory=CpuSet)
    running: bool = True

    @property
    def always(self) -> bool:
        return self.spec is not None and self.spec.run_strategy == "Always"


@dataclass
class Oracle:
    """The books as they should be: names and numbers of CPUs, nothing else."""

    vms: dict[str, Owner] = field(default_factory=dict)
    ended: frozenset[str] = frozenset()
    offline: CpuSet = field(default_factory=CpuSet)

    def free(self) -> int:
        running = [one for one in self.vms.values() if one.running]
        return CPUS - RESERVED - sum(one.cpus for one in running) - len(self.offline - union(one.at for one in running))

    def copy(self) -> Oracle:
        return replace(self, vms=dict(self.vms))

    def look(self) -> Oracle:
        """Every command first finds out what ended. A domain that is not ours is forgotten then."""
        for name in self.ended:
            one = self.vms.pop(name)
            if one.spec is not None:
                self.vms[name] = replace(one, running=False, at=CpuSet())
        self.ended = frozenset()
        return self

    def recover(self) -> Oracle:
        """What an agent does besides: it starts again what should always run, while there is room."""
        self.look()
        for name, one in sorted(self.vms.items()):
            if one.always and not one.running and one.cpus <= self.free():
                self.vms[name] = replace(one, running=True)
        return self


def located(oracle: Oracle, host: FakeHost) -> None:
    """Which CPUs they were is the managers' affair: the oracle reads them in the books."""
    for entry in host.program().world.books.load().entries:
        known = oracle.vms.get(entry.vm.name)
        if known is not None:
            oracle.vms[entry.vm.name] = replace(known, at=entry.owned)


def placed(host: FakeHost, domain: str) -> dict[int, object]:
    """Every thread of a domain: its group, its CPUs, its policy."""
    tids = map(int, host.fs.listdir(f"/proc/{host.hypervisor.pids[domain]}/task"))
    return {tid: (host.fs._group(tid), str(host.threads.affinity(tid)), host.threads.scheduler(tid)) for tid in tids}


class Sequences(RuleBasedStateMachine):
    """One host."""

    def __init__(self) -> None:
        super().__init__()
        self.releases = contextlib.ExitStack()
        memory = Path("/dev/shm")
        folder = tempfile.TemporaryDirectory(prefix="quietcore-", dir=memory if memory.is_dir() else None)
        self.folder = Path(self.releases.enter_context(folder))
        self.oracle = Oracle()
        self.lent: dict[str, tuple[object, object]] = {}  # domain -> its threads before the adoption, and who owned what then
        self.drifted = False

    @initialize(kind=st.sampled_from(sorted(KINDS)))
    def prepare(self, kind: str) -> None:
        root = self.folder / "host"
        root.mkdir()
        self.host = FakeHost(root, cpus=CPUS, **KINDS[kind])

    def teardown(self) -> None:
        self.releases.close()

    def books(self) -> Ledger:
        return self.host.program().world.books.load()

    def alive(self) -> list[str]:
        """The VMs that run, and are in the books."""
        return sorted(name for name, one in self.oracle.vms.items() if one.running and name not in self.oracle.ended)

    def strangers(self) -> list[str]:
        """The domains of others."""
        return [name for name in THEIRS if self.host.hypervisor.find(name) is not None and name not in self.oracle.vms]

    @rule(data=st.data())
    def something_happens(self, data: st.DataObject) -> None:
        """Commands more often than what happens to the host, else there is little to lose."""
        alive, sound = self.alive(), not (self.drifted or self.oracle.offline or self.oracle.ended)
        ours = any(one.spec for one in self.oracle.vms.values())
        weights = {
            self.run: 6,
            self.delete: 2 * ours,
            self.halt: any(one.always for one in self.oracle.vms.values()),
            self.repin: 4 * bool(alive),
            self.adopt: 4 * bool(self.strangers()),
            self.release: 2 * any(one.spec is None for one in self.oracle.vms.values()),
            self.recover: 2,
            self.appear: 2 * bool(self.absent() and not self.oracle.offline),
            self.die: bool(self.host.hypervisor.running),
            self.drift: 3 * bool(alive),
            self.switch: 1 + len(self.oracle.offline),
            self.reboot: bool(alive),
            self.lose_the_books: sound and bool(self.oracle.vms),
        }
        action = data.draw(st.sampled_from([action for action, weight in weights.items() for _ in range(weight)]))
        note(action.__name__)
        action(data.draw)

    def absent(self) -> list[str]:
        return [name for name in THEIRS if self.host.hypervisor.find(name) is None]

    # Commands, and what goes wrong with them

    def act(self, command: Callable[[FakeHost, Faults], None], expected: Oracle, trouble: Trouble | None) -> None:
        """Carry out a command; where it is cut off, it has to be undone or finished after a recovery."""
        if trouble is None:
            command(self.host, Faults())
            self.oracle = expected
        else:
            recover = begun if trouble.by_agent else reconciled
            untouched, carried = (self.host.copy(self.folder / name) for name in ("untouched", "carried"))
            recover(untouched)
            counting = Faults()
            command(carried, counting)
            writes = len(counting.names)
            again = Faults()
            recover(carried, again)
            if writes:
                self.strike(command, counting.names, trouble)
            if writes and trouble.again is not None and again.names:
                with contextlib.suppress(Killed):
                    recover(self.host, Faults(at=int(trouble.again * len(again.names)), kind="kill", moment=trouble.moment))
            recover(self.host)
            now = snapshot(self.host)
            located(self.oracle, untouched)
            located(expected, carried)
            outcomes = {"undone": (untouched, self.oracle.recover()), "carried out": (carried, expected.recover())}
            states = {what: (snapshot(host), oracle) for what, (host, oracle) in outcomes.items()}
            found = [what for what, (state, _) in states.items() if state == now]
            note(f"{found}")
            assert found, f"{now}\n is neither\n{[state for state, _ in states.values()]}"
            self.oracle = states[found[0]][1]
            self.drifted = False
            for host in (untouched, carried):
                shutil.rmtree(host.root)
        located(self.oracle, self.host)

    def strike(self, command: Callable[[FakeHost, Faults], None], names: list[str], trouble: Trouble) -> None:
        at = int(trouble.share * len(names))
        kind = "kill" if probes(names, at) else trouble.kind  # a probe that is refused is an answer, with another mechanism
        note(f"{kind} {trouble.moment} {names[at]}")
        with contextlib.suppress(Killed, OperationFailed, UndoFailed):
            command(self.host, Faults(at=at, kind=kind, moment=trouble.moment))

    def run(self, draw: Draw) -> None:
        name, vcpus, always = draw(st.sampled_from(OURS)), draw(st.integers(1, 3)), draw(st.booleans())
        strategy = draw(st.sampled_from(("dedicated", "dedicated", "housekeeping", "whole")))
        expected = self.oracle.copy().look()
        known = expected.vms.get(name)
        one = spec(name, vcpus=vcpus, strategy=strategy, **({"kind": "VirtualMachine", "run_strategy": "Always"} if always else {}))
        cpus = vcpus + (strategy == "housekeeping")
        if strategy == "housekeeping":
            one = replace(one, cpu=replace(one.cpu, isolate_emulator=True))
        if known is not None and known.running:
            one = known.spec  # the same again is a repair
            outcomes = {"unchanged", "repaired"}
        elif cpus <= expected.free():
            expected.vms[name] = Owner(spec=one, cpus=cpus)
            outcomes = {"created", "started"}
        else:
            outcomes = {"refused"}

        cannot = (OperationFailed,) if known is not None and known.at & self.oracle.offline else ()

        def command(host: FakeHost, faults: Faults) -> None:
            with contextlib.suppress(*cannot):  # a CPU of it is offline: that is told
                assert host.program(faults).apply(one, str(one)).result in outcomes

        self.act(command, expected, draw(TROUBLE))

    def halt(self, draw: Draw) -> None:
        expected = self.oracle.copy().look()
        name = draw(st.sampled_from(sorted(name for name, one in expected.vms.items() if one.always)))
        known = expected.vms[name]
        halted = replace(known.spec, run_strategy="Halted")
        expected.vms[name] = replace(known, spec=halted, running=False, at=CpuSet())

        def command(host: FakeHost, faults: Faults) -> None:
            result = host.program(faults).apply(halted, str(halted)).result
            assert result in {"stopped", "stored", "unchanged"}  # the last: it had ended and was halted then, which nothing shows

        self.act(command, expected, draw(TROUBLE))

    def delete(self, draw: Draw) -> None:
        expected = self.oracle.copy().look()
        name = draw(st.sampled_from(sorted(name for name, one in expected.vms.items() if one.spec)))
        del expected.vms[name]

        def command(host: FakeHost, faults: Faults) -> None:
            assert host.program(faults).delete(VmName(name=name))

        self.act(command, expected, draw(TROUBLE))

    def repin(self, draw: Draw) -> None:
        name = draw(st.sampled_from(self.alive()))
        count = self.oracle.vms[name].cpus
        cpus = draw(st.none() | st.permutations(range(1, CPUS)).map(lambda order: order[:count]))
        wanted = None if cpus is None else CpuSet.from_iterable(cpus)

        def command(host: FakeHost, faults: Faults) -> None:
            with contextlib.suppress(InputError):  # it does not run, or its vCPUs would have to swap CPUs
                move = host.program(faults).repin(VmName(name=name), cpus=wanted)
                if isinstance(move, Move) and wanted is not None:
                    assert move.there.exclusive == wanted

        self.act(command, self.oracle.copy().look(), draw(TROUBLE))

    def appear(self, draw: Draw) -> None:
        """Somebody starts a domain of his own."""
        name = draw(st.sampled_from(self.absent()))
        self.host.program()
        foreign(self.host, name, draw(st.integers(1, 2)), **({} if draw(st.booleans()) else {"tune": ""}))

    def adopt(self, draw: Draw) -> None:
        expected = self.oracle.copy().look()
        name = draw(st.sampled_from(self.strangers()))
        vcpus = self.host.hypervisor._vcpus[name]
        if vcpus <= expected.free():
            expected.vms[name] = Owner(spec=None, cpus=vcpus)
        before = placed(self.host, name), self.oracle.copy()

        def command(host: FakeHost, faults: Faults) -> None:
            host.program(faults).adopt(Wanted(domain=name))

        self.act(command, expected, draw(TROUBLE))
        if name in self.oracle.vms:
            self.lent[name] = before

    def release(self, draw: Draw) -> None:
        name = draw(st.sampled_from(sorted(name for name, one in self.oracle.vms.items() if one.spec is None)))
        expected = self.oracle.copy().look()
        known = expected.vms.pop(name, None)

        def command(host: FakeHost, faults: Faults) -> None:
            assert host.program(faults).release(VmName(name=name)) == (known is not None)

        self.act(command, expected, draw(TROUBLE))

    def recover(self, draw: Draw) -> None:
        trouble, waiting = draw(TROUBLE), any(one.always and not one.running for one in self.oracle.copy().look().vms.values())
        if trouble is not None and waiting:
            trouble = replace(trouble, kind="kill")  # where one start is refused another VM may have its CPUs by right
        self.act(draw(st.sampled_from((begun, reconciled))), self.oracle.copy().recover(), trouble)
        self.drifted = False

    # What happens to the host

    def die(self, draw: Draw) -> None:
        """QEMU ends."""
        domain = draw(st.sampled_from(sorted(self.host.hypervisor.running)))
        self.host.hypervisor.end(domain)
        name = domain.removeprefix("default_")
        if name in self.oracle.vms:
            self.oracle.ended |= {name}

    def reboot(self, _draw: Draw) -> None:
        self.host.reboot()
        for cpu in self.oracle.offline:
            self.host.fs.switch(cpu, on=True)
        self.oracle.offline = CpuSet()
        self.oracle.ended |= {name for name, one in self.oracle.vms.items() if one.running}
        self.drifted = False

    def switch(self, draw: Draw) -> None:
        """A CPU goes offline or comes back."""
        cpu = draw(st.integers(1, CPUS - 1))
        self.host.fs.switch(cpu, on=cpu in self.oracle.offline)
        self.oracle.offline = self.host.fs.offline
        self.drifted = True

    def drift(self, draw: Draw) -> None:
        """Somebody moves a thread or rewrites a file of one of the VM's own groups."""
        name, where, value = (
            draw(st.sampled_from(self.alive())),
            draw(st.sampled_from(("vcpu", "home"))),
            draw(st.sampled_from(("", "0", "0-5"))),
        )
        what = draw(st.sampled_from(("thread", "helper", "affinity", "cpu.max", *CPUSET_FILES)))
        self.drifted = True
        host, seen = self.host, self.host.program().observation(VmName(name=name))
        thread, pid = seen.census.vcpus[0], seen.census.pid
        if what == "thread":
            host.fs.set_group(pid, thread.tid, "/" if host.version == 1 else host.fs._group(pid))  # v2 lets it leave its process no further
        elif what == "helper":
            host.fs.set_group(pid, pid, thread.cgroup)
        elif what == "affinity":
            host.threads.affinities[thread.tid] = host.fs.limit(thread.tid)
        else:
            group = host.fs.path(host.fs.mount + (thread.cgroup if where == "vcpu" else seen.facts.home))
            texts = {"cpu.max": "20000 100000", "cpuset.cpus.partition": "member"}
            if group == host.fs.path(host.fs.mount) or not (group / what).exists():
                return
            if what == "cpuset.cpus.exclusive" and (where == "home" or not (group / what).read_text().strip()):
                value = ""  # what it claims besides ours is somebody else's affair, as on the levels above
            beside = host.fs._beside(f"{host.fs.mount}{thread.cgroup}/{what}", what) if what == "cpuset.cpus.exclusive" else []
            if not union(beside).isdisjoint(CpuSet.parse(value)):
                return  # the kernel refuses what a sibling claims
            if what == "cpuset.cpus" and (not value or (where == "home" and seen.facts.layout != "bare")):
                return  # the kernel refuses the first while tasks live there; the second is libvirt's, and not ours to write back
            (group / what).write_text(f"{texts.get(what, value)}\n")
            if what.startswith("cpuset.cpus."):
                host.fs._judge(group)

    def lose_the_books(self, _draw: Draw) -> None:
        before = self.books()
        (self.host.root / "state" / "ledger.json").write_text("{")
        rebuilt = self.host.program().rebuild().ledger
        running = [entry for entry in before.entries if entry.phase == "running"]
        assert [(entry.vm, entry.owned, entry.spec) for entry in rebuilt.entries] == [(one.vm, one.owned, one.spec) for one in running]
        self.oracle.vms = {name: one for name, one in self.oracle.vms.items() if one.running}

    # What is always true

    @invariant()
    def no_vm_is_forgotten_and_no_cpu_has_two_owners(self) -> None:
        if not hasattr(self, "host"):
            return
        found = {entry.vm.name: (entry.phase, entry.owned) for entry in self.books().entries}
        expected = {name: ("running" if one.running else "stopped", one.at) for name, one in self.oracle.vms.items()}
        assert found == expected
        assert all(len(one.at) == one.cpus for one in self.oracle.vms.values() if one.running)
        alive = {entry.vm.name for entry in self.books().entries if self.host.hypervisor.find(entry.domain) is not None}
        assert alive - self.oracle.ended == set(self.alive())

    @invariant()
    def the_kernel_agrees_with_the_books(self) -> None:
        if not hasattr(self, "host") or self.drifted or self.oracle.offline or self.oracle.ended:
            return
        engine = self.host.program()
        books = engine.world.books.load()
        claimed, owned = CpuSet(), books.owned
        for view in engine.views():
            entry, verdict = view.entry, engine.verify(view)
            assert verdict.ok, verdict
            if entry.phase != "running":
                continue
            census = engine.observation(entry.vm).census
            assert {one.vcpu: one.pcpu for one in entry.plan.vcpus} == {one.vcpu: one.allowed.lowest for one in census.vcpus}
            assert all(len(one.allowed) == 1 for one in census.vcpus)
            for one in census.others:
                assert one.allowed.isdisjoint(owned - entry.owned), f"{entry.vm}: {one}"
                if entry.plan.strategy != "whole" and one.role != "pit":
                    assert one.allowed.isdisjoint(entry.plan.dedicated), f"{entry.vm}: {one}"
            claimed |= entry.plan.dedicated if entry.mechanism == "partition" else CpuSet()
        mount, groups = self.host.fs.path(self.host.fs.mount), {}
        for file in mount.rglob("cpuset.cpus.exclusive"):
            groups[str(file.parent.relative_to(mount))] = CpuSet.parse(file.read_text())
        assert union(groups.values()) == claimed, groups
        assert not any("probe" in name for name in groups)

    @invariant()
    def what_was_adopted_has_everything_back_when_it_is_released(self) -> None:
        for name in [name for name in self.lent if name not in self.oracle.vms]:
            before, oracle = self.lent.pop(name)
            others = {vm: one for vm, one in self.oracle.vms.items() if one.running}
            then = {vm: one for vm, one in oracle.vms.items() if one.running}
            now = placed(self.host, name) if self.host.hypervisor.find(name) is not None else {}
            if now.keys() == before.keys() and others == then and not self.drifted and not self.oracle.offline:
                assert now == before


def test_nothing_is_lost_in_any_sequence(soaking):
    """The same sequences each time, and for a soak thousands of others; a long one is not shortened, that would take minutes."""
    told = settings(
        max_examples=5000 if soaking else 30,
        stateful_step_count=20,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=True,
    )
    run_state_machine_as_test(Sequences, settings=told)
