"""A recorded sysfs tree as one JSON file: what `quietcore machine record` writes and every `--machine` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from quietcore.errors import InputError, Problem
from quietcore.machines.sysfs import from_tree
from quietcore.model import CpuSet, Machine

API_VERSION: Final = "quietcore.io/v1alpha1"
KIND: Final = "MachineRecording"
VERSION: Final = 1


def dump_recording(files: Mapping[str, str], *, name: str) -> str:
    """The text of a recording, with a newline at its end; the same files give the same bytes."""
    recording = {"apiVersion": API_VERSION, "kind": KIND, "version": VERSION, "name": name, "files": dict(sorted(files.items()))}
    return json.dumps(recording, indent=1, ensure_ascii=False) + "\n"


def load_recording(text: str, *, file: str | None = None, owned: CpuSet = CpuSet()) -> Machine:
    """The machine of a recording. Raises InputError, with line and column where the text is no JSON."""
    try:
        recording: object = json.loads(text)
    except json.JSONDecodeError as err:
        raise InputError.of(
            (Problem(message=err.msg, file=file, line=err.lineno, column=err.colno, hint="record the machine again"),)
        ) from err
    if not isinstance(recording, dict) or recording.get("kind") != KIND:
        raise InputError.of((Problem(message=f"this is no {KIND}", file=file, field="kind"),))
    if recording.get("version") != VERSION:
        message = f"version {recording.get('version')!r} of the recording is not known"
        hint = f"this quietcore reads version {VERSION}; record the machine again with it"
        raise InputError.of((Problem(message=message, file=file, field="version", hint=hint),))
    name, files = recording.get("name", "recorded"), recording.get("files")
    if not isinstance(name, str):
        raise InputError.of((Problem(message="the name is no text", file=file, field="name"),))
    if not isinstance(files, dict) or not all(isinstance(content, str) for content in files.values()):
        raise InputError.of((Problem(message="files is no map of paths to texts", file=file, field="files"),))
    try:
        return from_tree(files, name=name, owned=owned)
    except InputError as err:
        raise InputError.of(tuple(replace(problem, file=file) for problem in err.problems)) from err
