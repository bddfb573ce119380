"""The ledger on disk: one checksummed JSON file, written whole, behind a lock; read without one.

A write is: temporary file, fsync, rename, fsync of the directory. A reader therefore sees the old ledger or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from quietcore.engine.codec import DecodeError, decode, encode
from quietcore.errors import OperationFailed, PermissionProblem, TimedOut
from quietcore.model import Ledger

FORMAT: Final = 1
_API_VERSION: Final = "quietcore.io/v1alpha1"
_PAUSE_S: Final = 0.02
_MODE: Final = 0o755


def make_state_directory(directory: Path) -> None:
    """Make the folder of the ledger and of the VMs' files, whatever the umask is: QEMU's user has to come through to the latter.

    The ledger itself is its group's to read. A folder that is there keeps its mode.
    """
    for folder in (directory, directory / "vms"):
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(_MODE)


class LedgerFile:
    """`ledger.json` and its lock in one directory. All methods raise errors that name the file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "ledger.json"

    def load(self) -> Ledger:
        """The ledger, empty where there is no file. A file that cannot be trusted is refused and a copy of it kept."""
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return Ledger()
        except PermissionError as err:
            raise PermissionProblem(f"{self.path} may not be read", hint="run it as root") from err
        except UnicodeDecodeError as err:
            raise self._refused("it is not text", self.path.read_bytes()) from err
        except OSError as err:
            raise OperationFailed(f"{self.path} cannot be read: {err.strerror or err}") from err
        return self._parsed(text)

    def save(self, ledger: Ledger) -> None:
        """Replace the ledger on disk, durably. Raises OperationFailed where the disk is full, say: the old ledger then stands."""
        try:
            self._replace(_text(ledger).encode())
        except OSError as err:
            raise OperationFailed(f"{self.path} cannot be written: {err.strerror or err}") from err

    def _replace(self, rest: bytes) -> None:
        temporary = self.path.with_suffix(".json.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.rename(self.path)
        self._sync_directory()

    def set_aside(self) -> str:
        """Keep a copy of the file as it is, whatever is in it; gives its place, "" where there is no file."""
        try:
            content = self.path.read_bytes()
            copy = self.path.with_name(f"ledger.json.replaced-{hashlib.sha256(content).hexdigest()[:12]}")
            copy.write_bytes(content)
        except FileNotFoundError:
            return ""
        except OSError as err:
            raise OperationFailed(f"no copy of {self.path} can be kept: {err.strerror or err}") from err
        return str(copy)

    @contextmanager
    def locked(self, timeout_s: float = 60.0) -> Iterator[None]:
        """Hold the host's only write lock. Raises TimedOut when another quietcore keeps it for longer."""
        descriptor = self._open_lock()
        try:
            self._acquire(descriptor, timeout_s)
            yield
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"another quietcore has been changing this host for {timeout_s:.0f} s",
                    hint=f"wait for it, or see who holds {self.directory / 'ledger.lock'} (fuser)",
                )
            time.sleep(_PAUSE_S)

    def _open_lock(self) -> int:
        try:
            make_state_directory(self.directory)
            return os.open(self.directory / "ledger.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as err:
            raise PermissionProblem(f"{self.directory} may not be written", hint="run it as root") from err
        except OSError as err:
            raise OperationFailed(f"{self.directory} cannot hold the ledger: {err.strerror or err}") from err

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _parsed(self, text: str) -> Ledger:
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as err:
            raise self._refused(f"it is not JSON ({err})", text.encode()) from err
        if not isinstance(document, dict) or document.get("kind") != "Ledger":
            raise self._refused("it is no ledger", text.encode())
        if document.get("format") != FORMAT:
            raise self._refused(f"its format is {document.get('format')!r} and this quietcore writes {FORMAT}", text.encode())
        if document.get("sha256") != _digest(document.get("ledger")):
            raise self._refused("its checksum is wrong: it was changed or cut off", text.encode())
        try:
            ledger = decode(Ledger, document["ledger"])
        except (DecodeError, ValueError) as err:
            raise self._refused(str(err), text.encode()) from err
        if not isinstance(ledger, Ledger):
            raise TypeError(f"decode gave a {type(ledger).__name__}")
        return ledger

    def _refused(self, reason: str, content: bytes) -> OperationFailed:
        copy = self.path.with_name(f"ledger.json.refused-{hashlib.sha256(content).hexdigest()[:12]}")
        kept = ""
        with suppress(OSError):
            copy.write_bytes(content)
            kept = f"; a copy is in {copy}"
        return OperationFailed(
            f"{self.path} is refused: {reason}{kept}",
            hint="nothing was changed; restore a good copy, or `quietcore ledger rebuild` makes it anew from the VMs that run",
        )


def _digest(data: object) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _text(ledger: Ledger) -> str:
    data = encode(ledger)
    document = {"apiVersion": _API_VERSION, "kind": "Ledger", "format": FORMAT, "sha256": _digest(data), "ledger": data}
    return json.dumps(document, sort_keys=True, indent=1) + "\n"
