"""Who is at the other end of the socket, by the kernel's word, and what they may do."""

from __future__ import annotations

import grp
import socket
import struct
from dataclasses import dataclass
from typing import Final, Protocol

from quietcore.errors import PermissionProblem

_SO_PEERGROUPS: Final = 59
_MOST_GROUPS: Final = 65536  # NGROUPS_MAX
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


def peer_of(connection: Connected) -> Peer:
    """The credentials that the kernel recorded when the peer connected; nothing that it sends can change them."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        more = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MOST_GROUPS)
    except OSError:  # before Linux 4.13
        more = b""
    return Peer(pid=pid, uid=uid, gids=frozenset((gid, *(group for (group,) in struct.iter_unpack("=I", more)))))


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
