"""The QEMU that boots the lab: this host's own, or, where that is too old to be trusted, Debian's backport, unpacked and never installed.

Before version 8.1, QEMU with a thread per CPU may keep a breakpoint that the guest's kernel put into its own text while it patched
it, and took away again: the kernel dies with "Oops: int3", once in some hundred patches
(https://bugzilla.redhat.com/show_bug.cgi?id=2216496). One thread for all CPUs has no such race, and half the speed.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.archive import locked

PROGRAM: Final = "qemu-system-x86_64"
PATCHES_SAFELY: Final = (8, 1)
PACKAGES: Final = ("qemu-system-x86", "qemu-system-data", "seabios")
FIRMWARE: Final = ("usr/share/qemu", "usr/share/seabios")
MIRROR: Final = "http://deb.debian.org/debian"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """A QEMU: its program, the folders of its firmware (none: its own), and its version, () where it does not say one."""

    program: str = PROGRAM
    firmware: tuple[Path, ...] = ()
    version: tuple[int, ...]

    @property
    def is_safe(self) -> bool:
        """Whether its CPUs may run on threads of their own."""
        return self.version >= PATCHES_SAFELY

    def __str__(self) -> str:
        return f"QEMU {'.'.join(str(number) for number in self.version)}{'' if self.is_safe else ', one thread'}"


def obtain(cache: Path) -> Emulator:
    """This host's QEMU where it is safe, else the backport from the cache or the archive, else this host's all the same."""
    own = Emulator(version=version_of(PROGRAM))
    if own.is_safe:
        return own
    folder = cache / "qemu"
    with locked(cache):
        backport = _unpacked_in(folder)
        if backport is None and _download(folder):
            backport = _unpacked_in(folder)
    return backport if backport is not None and backport.is_safe else own


def version_of(program: str) -> tuple[int, ...]:
    """What a QEMU says of itself; () where it does not run here."""
    try:
        return parse_version(subprocess.run([program, "--version"], check=False, capture_output=True, text=True).stdout)
    except OSError:
        return ()


def parse_version(text: str) -> tuple[int, ...]:
    """The version in what `--version` prints.

    >>> parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)")
    (7, 2, 22)
    """
    match = re.search(r"version (\d+(?:\.\d+)*)", text)
    return tuple(int(number) for number in match[1].split(".")) if match else ()


def _unpacked_in(folder: Path) -> Emulator | None:
    program = folder / "usr/bin" / PROGRAM
    if not program.is_file():
        return None
    return Emulator(program=str(program), firmware=tuple(folder / one for one in FIRMWARE), version=version_of(str(program)))


def _download(folder: Path) -> bool:
    """Unpack the backport of this release; False where there is none. apt checks the packages, with lists that are not the host's."""
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian" or not KEYRING.exists() or shutil.which("apt-get") is None:
        return False
    suite = f"{release.get('VERSION_CODENAME', '')}-backports"
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as scratch:
        new = Path(scratch)
        (new / "lists/partial").mkdir(parents=True)
        (new / "tree").mkdir()
        (new / "sources.list").write_text(f"deb [signed-by={KEYRING}] {MIRROR} {suite} main\n")
        places = (f"Dir::Etc::SourceList={new}/sources.list", "Dir::Etc::SourceParts=-", f"Dir::State::Lists={new}/lists")
        apt = ["apt-get", "-qq", *(word for place in places for word in ("-o", place)), "-o", "APT::Sandbox::User=root", "-t", suite]
        for words in ((*apt, "update"), (*apt, "download", *PACKAGES)):
            if subprocess.run(words, cwd=new, check=False, capture_output=True).returncode:
                return False
        for package in sorted(new.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, new / "tree"], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        (new / "tree").rename(folder)
    return True
