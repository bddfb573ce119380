"""Carrying out steps on the host: read old, write, read back, compare, record; and taking them back."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import assert_never, get_args

from quietcore.errors import OperationFailed
from quietcore.host.cgroups import Hierarchy
from quietcore.host.fs import HostFs
from quietcore.host.threads import ThreadControl, cgroup_of
from quietcore.model import (
    Applied,
    CpuSet,
    MakeGroup,
    MoveProcess,
    MoveThread,
    Policy,
    SetAffinity,
    SetScheduler,
    SetValue,
    Step,
)


def is_gone(err: BaseException | None) -> bool:
    """Whether the kernel refused because a thread or a group is gone, or a group is going while its files are still there (ENODEV)."""
    return isinstance(err, ProcessLookupError | FileNotFoundError) or (isinstance(err, OSError) and err.errno == errno.ENODEV)


class Applier:
    """Applies steps to one host. A step that is already in force is left alone and not recorded."""

    def __init__(self, fs: HostFs, control: ThreadControl, tree: Hierarchy) -> None:
        self._fs = fs
        self._control = control
        self._tree = tree

    def apply(self, step: Step) -> Applied | None:
        """Make one step true. Raises OperationFailed naming the file or thread, the value and the kernel's answer.

        A thread that ended meanwhile is no failure: whoever verifies afterwards sees whether it mattered.
        """
        try:
            before = self._read(step)
            if self._matches(step, before):
                return None
            self._write(step)
            after = self._read(step)
        except ProcessLookupError:
            return None
        except OSError as err:
            raise OperationFailed(f"{describe(step)}: the kernel refused: {err.strerror or err}") from err
        if not self._matches(step, after):
            raise OperationFailed(f"{describe(step)}: the kernel took it, but reads back {after!r}")
        return Applied(step=step, before=before, after=after)

    def undo(self, applied: Applied) -> None:
        """Put back what stood there before. What no longer exists needs no undo. Raises OperationFailed."""
        try:
            self._revert(applied)
        except OSError as err:
            if is_gone(err):
                return
            raise OperationFailed(f"cannot undo: {describe(applied.step)}: {err.strerror or err}") from err

    def _read(self, step: Step) -> str:
        match step:
            case MakeGroup():
                return "present" if self._fs.is_dir(step.path) else ""
            case SetValue():
                return self._fs.read(step.path).strip()
            case MoveThread():
                return self._group(step.tid, step.controller)
            case MoveProcess():
                return self._group(step.pid)
            case SetAffinity():
                return str(self._control.affinity(step.tid))
            case SetScheduler():
                policy, priority = self._control.scheduler(step.tid)
                return f"{policy} {priority}"
        assert_never(step)

    def _write(self, step: Step) -> None:
        match step:
            case MakeGroup():
                with suppress(FileExistsError):
                    self._fs.mkdir(step.path)
            case SetValue():
                self._fs.write(step.path, step.value or "\n")  # an empty write is no write: the kernel wants a line
            case MoveThread():
                self._fs.write(step.path, str(step.tid))
            case MoveProcess():
                self._fs.write(step.path, str(step.pid))
            case SetAffinity():
                self._control.set_affinity(step.tid, step.cpus)
            case SetScheduler():
                self._control.set_scheduler(step.tid, step.policy, step.priority)

    def _matches(self, step: Step, text: str) -> bool:
        match step:
            case MakeGroup():
                return text == "present"
            case SetValue():
                return _value_matches(step, text)
            case MoveThread() | MoveProcess():
                return text == step.group
            case SetAffinity():
                return text == str(step.cpus)
            case SetScheduler():
                return text == f"{step.policy} {step.priority}"
        assert_never(step)

    def _revert(self, applied: Applied) -> None:
        step = applied.step
        match step:
            case MakeGroup():
                self._fs.rmdir(step.path)
            case SetValue() if step.readback != "words":
                self._fs.write(step.path, _writable(applied.before))
            case MoveThread():
                folder, _, name = step.path.rpartition("/")
                self._fs.write(f"{folder.removesuffix(step.group.rstrip('/'))}{applied.before.rstrip('/')}/{name}", str(step.tid))
            case MoveProcess():
                self._fs.write(f"{self._tree.mount}{applied.before.rstrip('/')}/cgroup.procs", str(step.pid))
            case SetAffinity():
                self._control.set_affinity(step.tid, CpuSet.parse(applied.before))
            case SetScheduler():
                policy, priority = parse_scheduler(applied.before)
                self._control.set_scheduler(step.tid, policy, priority)
            case SetValue():
                pass

    def _group(self, tid: int, controller: str = "cpuset") -> str:
        try:
            return cgroup_of(self._fs.read(f"/proc/{tid}/cgroup"), 1 if controller == "cpu" else self._tree.version, controller)
        except FileNotFoundError as err:
            raise ProcessLookupError(err.errno, "the thread ended", err.filename) from err


def parse_scheduler(text: str) -> tuple[Policy, int]:
    """The inverse of how a scheduler is recorded: "fifo 1". Raises ValueError for anything else."""
    name, _, priority = text.partition(" ")
    for policy in get_args(Policy):
        if policy == name:
            return policy, int(priority)
    raise ValueError(f"{text!r} is no scheduling policy and priority")


def _writable(before: str) -> str:
    """What the kernel shows is not always what it takes: "isolated invalid (...)" goes back as "isolated", "" as a line."""
    return before.partition(" invalid")[0] or "\n"


def _value_matches(step: SetValue, text: str) -> bool:
    match step.readback:
        case "cpus":
            return CpuSet.parse(text) == CpuSet.parse(step.value)
        case "exact":
            return text == step.value
        case "prefix":
            return text.startswith(step.value)
        case "words":
            return {word.lstrip("+") for word in step.value.split()} <= set(text.split())
    assert_never(step.readback)


def describe(step: Step) -> str:
    """One step as a sentence for logs and errors."""
    match step:
        case MakeGroup():
            return f"make {step.path}"
        case SetValue():
            return f"write {step.value!r} to {step.path}"
        case MoveThread():
            return f"move thread {step.tid} to {step.group}"
        case MoveProcess():
            return f"move process {step.pid} to {step.group}"
        case SetAffinity():
            return f"allow thread {step.tid} CPUs {step.cpus}"
        case SetScheduler():
            return f"give thread {step.tid} the policy {step.policy} {step.priority}"
    assert_never(step)
