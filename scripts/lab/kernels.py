"""Debian's PREEMPT_RT kernels for the lab: found by pattern, downloaded and unpacked by apt and dpkg, cached, never installed.

The archive drops exact names within weeks, so a kernel is asked for by its series ("6.12") and the newest package on offer is taken.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.errors import LabUnavailableError

NEEDED_BYTES: Final = 1 << 30
"""A package of 110 MB and its unpacked tree of 400 MB, with room for the copy that is being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A kernel package that apt can download, with the hash that apt expects of it."""

    package: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An unpacked kernel: `root` holds boot/ and lib/modules/; `release` is what `uname -r` will say."""

    series: str
    package: str
    root: Path
    release: str

    @property
    def image(self) -> Path:
        """The bootable image."""
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """The folder of this release's modules, with modules.dep."""
        return self.root / "lib" / "modules" / self.release


def cache_folder() -> Path:
    """Where kernels are kept between runs; QUIETCORE_CACHE moves it."""
    return Path(os.environ.get("QUIETCORE_CACHE", "/var/cache/quietcore")) / "kernels"


def candidates(series: str, package_names: Iterable[str]) -> tuple[str, ...]:
    """The series' real-time kernels among package names, newest first; of one version the signed package stands before the unsigned.

    >>> candidates("6.1", ["linux-image-6.1.0-9-rt-amd64", "linux-image-6.1.0-56-rt-amd64", "linux-image-6.12.9-rt-amd64"])
    ('linux-image-6.1.0-56-rt-amd64', 'linux-image-6.1.0-9-rt-amd64')
    """
    pattern = re.compile(rf"linux-image-{re.escape(series)}\.(.+)-rt-amd64(-unsigned)?")
    found: list[tuple[tuple[int, ...], bool, str]] = []
    for name in package_names:
        match = pattern.fullmatch(name)
        if match:
            found.append((tuple(int(number) for number in re.findall(r"\d+", match[1])), match[2] is None, name))
    return tuple(name for _, _, name in sorted(found, reverse=True))


def newest_offer(series: str) -> Offer | None:
    """The newest kernel of a series that apt can download now, or None."""
    names = _output("apt-cache", "pkgnames", f"linux-image-{series}.").split()
    for package in candidates(series, names):
        record = _output("apt-cache", "show", "--no-all-versions", package)
        fields = dict(line.split(": ", 1) for line in record.splitlines() if re.match(r"(Version|SHA256): ", line))
        if "SHA256" in fields:
            return Offer(package=package, version=fields["Version"], sha256=fields["SHA256"])
    return None


def obtain(series: str, cache: Path) -> Kernel:
    """The newest kernel of a series, from the cache or from the archive. Raises LabUnavailableError with the fix."""
    offer = newest_offer(series)
    if offer is None:
        raise LabUnavailableError(
            f"no PREEMPT_RT kernel {series} is on offer: run `apt-get update` on Debian 12 (or choose a series that this release has)"
        )
    folder = cache / f"{offer.package}_{offer.version}"
    with _locked(cache):
        if not _is_intact(folder, offer):
            _download(offer, folder)
    return unpacked_in(folder, series, offer.package)


def unpacked_in(folder: Path, series: str, package: str) -> Kernel:
    """The kernel that was unpacked into a cache folder. Raises LabUnavailableError where there is none."""
    images = sorted((folder / "tree" / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise LabUnavailableError(f"{package} holds no single kernel image: remove {folder} and repeat")
    return Kernel(series=series, package=package, root=folder / "tree", release=images[0].name.removeprefix("vmlinuz-"))


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        raise LabUnavailableError(f"the lab takes its kernels from Debian's archive and {command[0]} is not here: use Debian 12 or 13")
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / ".lock").open("w")
    except OSError as err:
        raise LabUnavailableError(
            f"the kernel cache {cache} cannot be written ({err.strerror}): set QUIETCORE_CACHE to a folder that can"
        ) from err
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_intact(folder: Path, offer: Offer) -> bool:
    package = folder / "package.deb"
    return (folder / "tree").is_dir() and package.is_file() and _sha256(package) == offer.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(offer: Offer, folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < NEEDED_BYTES:
        raise LabUnavailableError(
            f"{folder.parent} has {free >> 20} MiB free and a kernel needs {NEEDED_BYTES >> 20}: set QUIETCORE_CACHE elsewhere"
        )
    shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as scratch:
        new = Path(scratch)
        # apt checks the package against the archive's signed index by itself; the name "_apt" may not read our folder, so it runs as root.
        fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "-qq", "download", f"{offer.package}={offer.version}"]
        done = subprocess.run(fetch, cwd=new, check=False, capture_output=True, text=True)
        packages = sorted(new.glob("*.deb"))
        if done.returncode or len(packages) != 1 or _sha256(packages[0]) != offer.sha256:
            raise LabUnavailableError(f"{offer.package} could not be downloaded: run `apt-get update` and repeat ({done.stderr.strip()})")
        packages[0].rename(new / "package.deb")
        subprocess.run(["dpkg-deb", "-x", "package.deb", "tree"], cwd=new, check=True)
        release = unpacked_in(new, "", offer.package).release
        subprocess.run(["depmod", "-b", new / "tree", release], check=True)
        new.rename(folder)
        new.mkdir()  # the folder that the context manager removes
