"""Copies of the ledger's entries beside the VMs' files, for the day on which the ledger is lost. Nothing else reads them."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Final

from quietcore.engine.codec import DecodeError, decode, encode
from quietcore.engine.world import World
from quietcore.model import Entry, VmName

_FILE: Final = "entry.json"


def keep_copy(world: World, entry: Entry) -> None:
    """Write the entry beside the VM's files. Best effort: it is needed only when the ledger is lost."""
    directory = world.vm_directory(entry.vm)
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        new = directory / f"{_FILE}.new"
        new.write_text(json.dumps({"kind": "Entry", "entry": encode(entry)}, sort_keys=True, indent=1) + "\n")
        new.replace(directory / _FILE)  # whoever is killed here leaves the old copy or the new one


def kept_copies(world: World) -> tuple[Entry, ...]:
    """The entries that lie beside the VMs' files; one that cannot be read counts as lost."""
    found = []
    for path in sorted((world.vm_directory(VmName(name="any")).parent).glob(f"*/{_FILE}")):
        with suppress(OSError, ValueError, KeyError, DecodeError):
            entry = decode(Entry, json.loads(path.read_text())["entry"])
            if isinstance(entry, Entry):
                found.append(entry)
    return tuple(found)
