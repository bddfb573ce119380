"""One door for every description of a machine; the content says which kind it is, never the name of a file."""

from __future__ import annotations

import json
import re
from typing import Final

from quietcore.errors import InputError, Problem
from quietcore.machines.lstopo import load_lstopo
from quietcore.machines.recording import KIND as RECORDING
from quietcore.machines.recording import load_recording
from quietcore.machines.short import is_spec, parse_spec
from quietcore.machines.yamlfile import load_yaml
from quietcore.model import CpuSet, Machine

_HINT: Final = "give a line such as cores=8,threads=2 or a file: YAML, lstopo XML, or what `quietcore machine record` wrote"
_YAML: Final = re.compile(r"\n|:(\s|$)|^[{#-]")


def load(text: str, *, file: str | None = None, owned: CpuSet = CpuSet()) -> Machine:
    """Build a machine from a spec line, a recording, an lstopo export, or YAML.

    `file` is where the text was read, for messages; `owned` is only asked of recordings (see `propose_allowed`).
    Raises InputError with every fault.
    """
    start = text.lstrip("\ufeff \t\r\n")
    if not start:
        raise InputError.of((Problem(message="the description of the machine is empty", file=file, hint=_HINT),))
    if start.startswith("<"):
        return load_lstopo(start, file=file)
    if start.startswith("{") and _is_recording(start):
        return load_recording(start, file=file, owned=owned)
    if is_spec(start):
        return parse_spec(start)
    if file is None and not _YAML.search(start):
        message = f"{start.strip()[:80]!r} is neither a file that can be read nor a line of key=value"
        raise InputError.of((Problem(message=message, hint=_HINT),))
    return load_yaml(text, file=file)


def _is_recording(text: str) -> bool:
    try:
        document: object = json.loads(text)
    except ValueError:
        return f'"{RECORDING}"' in text  # a broken recording gets JSON's message with its place
    return isinstance(document, dict) and document.get("kind") == RECORDING
