"""Who is at the other end of the socket, by the kernel's word, and what they may do."""

from __future__ import annotations

import ctypes
import grp
import socket
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from quietcore.errors import PermissionProblem

_SO_PEERGROUPS: Final = 59
_MOST_GROUPS: Final = 65536  # NGROUPS_MAX
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CREDENTIALS: Final = struct.Struct("=iII")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A process that connected: its ids at that moment, all of its groups included."""

    pid: int
    uid: int
    gids: frozenset[int]


class Connected(Protocol):
    """What is asked of a connection."""

    def getsockopt(self, level: int, option: int, buffer_size: int, /) -> bytes:
        """An option of the socket."""
        ...

    def fileno(self) -> int:
        """Its descriptor."""
        ...


def peer_of(connection: Connected) -> Peer:
    """The credentials that the kernel recorded when the peer connected; nothing that it sends can change them."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return Peer(pid=pid, uid=uid, gids=frozenset((gid, *_groups_of(connection))))


def _groups_of(connection: Connected) -> tuple[int, ...]:
    """The peer's other groups. Not by Python's getsockopt, which refuses to read more than 1024 bytes: 256 groups."""
    groups, size = (ctypes.c_uint32 * _MOST_GROUPS)(), ctypes.c_uint32(4 * _MOST_GROUPS)
    if _LIBC.getsockopt(connection.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)) != 0:
        return ()  # before Linux 4.13
    return tuple(groups[: size.value // 4])


def group_id(name: str) -> int | None:
    """The number of a group, None for no name and for a group that does not exist."""
    try:
        return grp.getgrnam(name).gr_gid if name else None
    except KeyError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """The groups whose members may read, and change; root may do both."""

    readers: str
    changers: str

    def check(self, peer: Peer, *, change: bool) -> None:
        """Raise PermissionProblem, naming the group to join, for what this peer may not do."""
        allowed = (self.changers,) if change else (self.readers, self.changers)
        if peer.uid == 0 or any(group_id(name) in peer.gids for name in allowed if group_id(name) is not None):
            return
        names = " or ".join(name for name in allowed if name)
        raise PermissionProblem(
            f"user {peer.uid} may not {'change' if change else 'see'} VMs through the agent",
            hint=f"run it as root{f', or join the group {names}' if names else ''}",
        )
