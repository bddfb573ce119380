"""Reading what the command line names: files, directories of manifests, standard input. Every fault names the file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from quietcore.errors import InputError, Problem

_LARGEST: Final = 16 * 1024 * 1024
_SUFFIXES: Final = {".yaml", ".yml", ".json"}


def read_text(name: str) -> str:
    """The text of a file, or of standard input for "-". Raises InputError."""
    shown = "<stdin>" if name == "-" else name
    try:
        content = _bytes(name)
        text = content.decode()
    except OSError as err:
        raise InputError.of((Problem(message=err.strerror or str(err), file=shown, code="unreadable"),)) from err
    except UnicodeDecodeError as err:
        fault = f"is not UTF-8 text ({err.reason} at byte {err.start})"
        raise InputError.of((Problem(message=fault, file=shown, code="unreadable"),)) from err
    if len(content) > _LARGEST:
        raise InputError.of((Problem(message=f"is larger than {_LARGEST >> 20} MiB", file=shown, code="too-big"),))
    return text


def read_all(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """File and text of every name, of a directory all of its .yaml, .yml and .json files. Raises InputError with every fault."""
    problems: list[Problem] = []
    texts = []
    for name in names:
        inside = _inside(Path(name)) if name != "-" and Path(name).is_dir() else [name]
        if not inside:
            problems.append(Problem(message="holds no .yaml, .yml or .json file", file=name))
        for file in inside:
            try:
                texts.append(("<stdin>" if file == "-" else file, read_text(file)))
            except InputError as err:
                problems += err.problems
    if problems:
        raise InputError.of(tuple(problems))
    return texts


def _inside(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.suffix in _SUFFIXES and not path.is_dir())


def _bytes(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read(_LARGEST + 1)
    with Path(name).open("rb") as stream:
        return stream.read(_LARGEST + 1)
