"""The files of one image as names: paths inside the image, links between them, and the rule that nothing leads outside.

No symbolic link of an image is ever made on the host. Links are kept as text and followed here, inside the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

_MOST_LINKS: Final = 40
"""The kernel's own limit on links in one path (MAXSYMLINKS, path_resolution(7))."""


def inner_parts(path: str) -> tuple[str, ...]:
    """The components of a path inside an image; "." and empty ones are dropped and ".." stops at the image's root."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts)


def inner(path: str) -> str:
    """The normal form of a path inside an image: absolute, without "." and "..".

    >>> inner("boot/../../etc//passwd")
    '/etc/passwd'
    """
    return "/" + "/".join(inner_parts(path))


def follow(path: str, links: Mapping[str, str]) -> str:
    """Where `path` leads when the image's links (path -> target as written) are followed with the image's root as "/".

    Raises ValueError when the links go round in circles.
    """
    waiting = [part for part in reversed(path.split("/")) if part]
    done: list[str] = []
    followed = 0
    while waiting:
        part = waiting.pop()
        if part == ".":
            continue
        if part == "..":
            del done[-1:]
            continue
        here = "/" + "/".join((*done, part))
        target = links.get(here)
        if target is None:
            done.append(part)
            continue
        followed += 1
        if followed > _MOST_LINKS:
            raise ValueError(f"the links at {path} go round in circles")
        if target.startswith("/"):
            done.clear()
        waiting.extend(component for component in reversed(target.split("/")) if component)
    return "/" + "/".join(done)


def below(paths: Iterable[str], directory: str) -> tuple[str, ...]:
    """Those of `paths` that lie anywhere below `directory`, sorted."""
    prefix = directory.rstrip("/") + "/"
    return tuple(sorted(path for path in paths if path.startswith(prefix)))
