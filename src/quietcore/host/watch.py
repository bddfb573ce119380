"""Hearing of changes at once: inotify on kernel files and the kernel's process connector, each an object with a file descriptor.

Both work on every kernel that quietcore supports and need no library. What neither of them can tell: that somebody changed a
thread's affinity, and that a cgroup v1 thread went to a group that is not watched; whoever needs that has to look again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from quietcore.host.fs import HostFs

FileChange: TypeAlias = Literal["written", "made", "removed", "lost"]
ProcessChange: TypeAlias = Literal["fork", "comm", "exit", "lost"]
KTHREADD: Final = 2
"""The process whose children are the kernel's own threads (vhost workers before Linux 6.4, kvm-pit)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent:
    """Something below a watched path: `path` as it was given to `watch`, `name` the entry inside it ("" for itself).

    `lost` says that the kernel's queue ran over: anything may have happened.
    """

    path: str
    name: str
    change: FileChange


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvent:
    """A thread of a watched process, or a kernel thread, began, was renamed or ended, at `at_s` of the monotonic clock."""

    change: ProcessChange
    tid: int
    pid: int
    at_s: float


_MODIFY, _CREATE, _DELETE, _MOVED_TO = 0x2, 0x100, 0x200, 0x80
_ONLY: Final = _MODIFY | _CREATE | _DELETE | _MOVED_TO  # include/uapi/linux/inotify.h
_GONE: Final = 0x8000  # IN_IGNORED: the watched path itself was removed
_OVERFLOW: Final = 0x4000
_HEAD: Final = struct.Struct("iIII")


class Inotify:
    """Watches of files and directories (not of what is below a directory's own directories).

    A write() by any program is told for every file, on cgroup v1 and v2 and in sysfs; the kernel itself tells of
    cpuset.cpus.partition and cgroup.events.
    """

    def __init__(self, fs: HostFs) -> None:
        self._fs = fs
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._called(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}

    @staticmethod
    def _called(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def fileno(self) -> int:
        """For a selector."""
        return self._descriptor

    @property
    def watched(self) -> frozenset[str]:
        """The paths that are watched now."""
        return frozenset(self._watches)

    def watch(self, path: str) -> bool:
        """Watch a file or directory; False where it is there and cannot be watched (the user's watches are used up)."""
        if path in self._watches:
            return True
        real = os.fsencode(self._fs.path(path))
        watch = self._libc.inotify_add_watch(self._descriptor, real, _ONLY)
        if watch < 0:
            return ctypes.get_errno() == errno.ENOENT
        self._paths[watch], self._watches[path] = path, watch
        return True

    def keep(self, paths: Iterable[str]) -> frozenset[str]:
        """Watch exactly these paths, as far as they are there; gives those that cannot be watched."""
        wanted = frozenset(paths)
        for path in sorted(self.watched - wanted):
            watch = self._watches.pop(path)
            del self._paths[watch]
            self._libc.inotify_rm_watch(self._descriptor, watch)
        return frozenset(path for path in sorted(wanted) if not self.watch(path))

    def events(self) -> tuple[FileEvent, ...]:
        """Everything since the last call, without waiting; the same event twice is told once."""
        found: dict[FileEvent, None] = {}
        with suppress(BlockingIOError):
            while chunk := os.read(self._descriptor, 1 << 16):
                for event in self._parsed(chunk):
                    found[event] = None
        return tuple(found)

    def _parsed(self, chunk: bytes) -> list[FileEvent]:
        found, offset = [], 0
        while offset < len(chunk):
            watch, mask, _cookie, length = _HEAD.unpack_from(chunk, offset)
            offset += _HEAD.size + length
            if mask & _OVERFLOW:
                found.append(FileEvent(path="", name="", change="lost"))
                continue
            path = self._paths.get(watch)
            if path is None:
                continue
            if mask & _GONE:
                del self._paths[watch]
                del self._watches[path]
                found.append(FileEvent(path=path, name="", change="removed"))
                continue
            name = os.fsdecode(chunk[offset - length : offset].rstrip(b"\0"))
            found.append(FileEvent(path=path, name=name, change=_change(mask)))
        return found

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


def _change(mask: int) -> FileChange:
    if mask & _MODIFY:
        return "written"
    return "made" if mask & (_CREATE | _MOVED_TO) else "removed"


_CONNECTOR: Final = 11  # NETLINK_CONNECTOR
_CN_PROC: Final = 1
_LISTEN, _IGNORE = 1, 2
_FORK, _COMM, _EXIT = 0x1, 0x200, 0x80000000  # include/uapi/linux/cn_proc.h
_WHAT, _DATA = 36, 52  # nlmsghdr 16, cn_msg 20, then what, cpu, timestamp
_MOST_PIDS: Final = 1800  # a classic BPF program has at most 4,096 instructions
_ROOM: Final = 1 << 20
_SO_RCVBUFFORCE: Final = 33
_SO_ATTACH_FILTER: Final = 26


class ProcessEvents:
    """The kernel's process connector, filtered inside the kernel: other processes of the host do not wake us.

    Raises OSError where the kernel has no connector or does not let us listen (not root, another PID namespace).
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _CONNECTOR)
        try:
            self._socket.bind((0, _CN_PROC))
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            self._pids: frozenset[int] | None = None
            self.keep(())
            self._tell(_LISTEN)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """For a selector."""
        return self._socket.fileno()

    def keep(self, pids: Iterable[int]) -> None:
        """Hear of the threads of exactly these processes, and of new kernel threads."""
        wanted = frozenset(pids)
        if wanted == self._pids:
            return
        program = filter_program(wanted)
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
        head = struct.pack("HP", len(program), ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)
        self._pids = wanted

    def events(self) -> tuple[ProcessEvent, ...]:
        """Everything since the last call, without waiting."""
        found: list[ProcessEvent] = []
        while True:
            try:
                event = parse_process_event(self._socket.recv(4096))
            except BlockingIOError:
                return tuple(found)
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                event = ProcessEvent(change="lost", tid=0, pid=0, at_s=0.0)
            if event is not None:
                found.append(event)

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._tell(_IGNORE)
        self._socket.close()

    def _tell(self, order: int) -> None:
        body = struct.pack("=IIIIHHI", _CN_PROC, 1, 0, 0, 4, 0, order)
        self._socket.send(struct.pack("=IHHII", 16 + len(body), 3, 0, 0, 0) + body)


def parse_process_event(message: bytes) -> ProcessEvent | None:
    """One message of the connector; None for a kind that nobody asked for."""
    if len(message) < _DATA + 16:
        return None
    what, _cpu, time_ns = struct.unpack_from("=IIQ", message, _WHAT)
    first, second, third, fourth = struct.unpack_from("=IIII", message, _DATA)
    match what:
        case 0x1:
            return ProcessEvent(change="fork", tid=third, pid=fourth, at_s=time_ns / 1e9)
        case 0x200:
            return ProcessEvent(change="comm", tid=first, pid=second, at_s=time_ns / 1e9)
        case 0x80000000:
            return ProcessEvent(change="exit", tid=first, pid=second, at_s=time_ns / 1e9)
    return None


def filter_program(pids: frozenset[int]) -> list[tuple[int, int, int, int]]:
    """The classic BPF program (code, jt, jf, k) that lets through threads of `pids` and new kernel threads, and nothing else.

    Words are loaded as if they came from a network, so constants are swapped alike. More processes than a program can name
    are all let through.
    """
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
    take, drop = (answer, 0, 0, 0xFFFFFFFF), (answer, 0, 0, 0)
    if len(pids) > _MOST_PIDS:
        return [take]
    program = [
        (load, 0, 0, _WHAT),
        (equal, 3, 0, socket.htonl(_COMM)),
        (equal, 2, 0, socket.htonl(_EXIT)),
        (equal, 3, 0, socket.htonl(_FORK)),
        drop,
        (load, 0, 0, _DATA + 4),  # comm, exit: the thread's process
        (0x05, 0, 0, 4),  # BPF_JMP|BPF_JA to the list of processes
        (load, 0, 0, _DATA),  # fork: the parent
        (equal, 0, 1, socket.htonl(KTHREADD)),
        take,
        (load, 0, 0, _DATA + 12),  # the child's process
    ]
    for pid in sorted(pids):
        program += [(equal, 0, 1, socket.htonl(pid)), take]
    return [*program, drop]
