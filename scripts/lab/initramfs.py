"""The lab's first file system in memory: busybox, the few modules that reach the shared root, two scripts and the command.

Written here rather than by initramfs-tools, because it must be made in a fraction of a second and without root's configuration.
"""

from __future__ import annotations

import lzma
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.kernels import Kernel

MODULES: Final = ("virtio_pci", "virtio_console", "overlay", "9pnet_virtio", "9p")
SCRIPTS: Final = Path(__file__).parent / "boot"
FOLDER, FILE, PROGRAM, LINK = 0o040755, 0o100644, 0o100755, 0o120777


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of a cpio archive; a link's content is its target."""

    name: str
    mode: int
    content: bytes = b""


def build(
    kernel: Kernel, busybox: Path, *, init: str, command: str, folder: Path, environment: Mapping[str, str], shared: bool, terminal: str
) -> bytes:
    """The archive for one boot: run `command` (a bash script) in `folder` with these variables.

    `shared` mounts the read-write folder; `terminal` holds settings for stty.
    """
    modules = load_order((kernel.modules / "modules.dep").read_text(), MODULES)
    session = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environment.items()))
    session += f"cd {shlex.quote(str(folder))} || exit 125\n{command}\n"
    members = [Member(name=name, mode=FOLDER) for name in ("bin", "proc", "sys", "dev", "modules", "lab")]
    members += [
        Member(name="bin/busybox", mode=PROGRAM, content=busybox.read_bytes()),
        Member(name="bin/sh", mode=LINK, content=b"busybox"),
        Member(name="init", mode=PROGRAM, content=(SCRIPTS / "init").read_bytes()),
        Member(name="lab/stage2", mode=PROGRAM, content=(SCRIPTS / "stage2").read_bytes()),
        Member(name="lab/session", mode=PROGRAM, content=(SCRIPTS / "session").read_bytes()),
        Member(name="lab/command", mode=FILE, content=session.encode()),
        Member(name="lab/terminal", mode=FILE, content=f"{terminal}\n".encode()),
        Member(name="lab/init-kind", mode=FILE, content=f"{init}\n".encode()),
    ]
    if shared:
        members.append(Member(name="lab/shared", mode=FILE))
    members += [Member(name=f"modules/{plain_name(path)}", mode=FILE, content=unpacked(kernel.modules / path)) for path in modules]
    members.append(Member(name="modules/order", mode=FILE, content="".join(f"/modules/{plain_name(path)}\n" for path in modules).encode()))
    return archive(members)


def archive(members: Iterable[Member]) -> bytes:
    """A cpio archive in the "newc" format (kernel: Documentation/driver-api/early-userspace/buffer-format.rst)."""
    out = bytearray()
    for number, member in enumerate((*members, Member(name="TRAILER!!!", mode=0)), start=1):
        name = member.name.encode() + b"\0"
        links, size = 1, len(member.content)
        fields = (number, member.mode, 0, 0, links, 0, size, 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += member.content
        out += bytes(-len(out) % 4)
    return bytes(out)


def load_order(modules_dep: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """The paths of the wanted modules and of what they need, in the order to load them; a module built into the kernel has no path."""
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in modules_dep.splitlines())}
    by_name = {plain_name(path).removesuffix(".ko").replace("-", "_"): path for path in needs}
    order: list[str] = []

    def add(path: str) -> None:
        for need in reversed(needs[path]):
            add(need)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in by_name:
            add(by_name[name])
    return tuple(order)


def plain_name(path: str) -> str:
    """The file name of a module without its compression."""
    return Path(path).name.removesuffix(".xz")


def unpacked(path: Path) -> bytes:
    """A module's content; Debian compresses modules with xz since 6.6."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content
