"""Names of container images in their full form, so that "fedora" and "docker.io/library/fedora:latest" are one image."""

from __future__ import annotations

import re
from typing import Final

from quietcore.errors import InputError, Problem

# The grammar of distribution/reference: https://github.com/distribution/reference/blob/main/reference.go
_DOMAIN: Final = (
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
)
_COMPONENT: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_GRAMMAR: Final = re.compile(
    rf"(?:(?P<domain>{_DOMAIN})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_LONGEST: Final = 512


def canonical(reference: str) -> str:
    """The full name of an image: registry, path, and a tag or a digest (a digest makes the tag meaningless, so it is dropped).

    >>> canonical("fedora"), canonical("quay.io/a/b:1")
    ('docker.io/library/fedora:latest', 'quay.io/a/b:1')

    Raises InputError when the text is no image name. The first part counts as a registry by the rule of distribution/reference:
    it holds a dot or a colon, has an upper-case letter, or is `localhost`.
    """
    match = _GRAMMAR.fullmatch(reference) if len(reference) <= _LONGEST else None
    if match is None:
        hint = "write it as REGISTRY/PATH:TAG, for example quay.io/containerdisks/fedora:41"
        raise InputError.of((Problem(message=f"{reference!r} is not the name of a container image", code="image-reference", hint=hint),))
    domain, path = match["domain"], match["path"]
    if domain is None or not (set(domain) & set(".:[") or domain == "localhost" or domain != domain.lower()):
        path = path if domain is None else f"{domain}/{path}"
        domain = "docker.io"
    if domain in ("docker.io", "index.docker.io"):
        domain = "docker.io"
        path = path if "/" in path else f"library/{path}"
    return f"{domain}/{path}@{match['digest']}" if match["digest"] else f"{domain}/{path}:{match['tag'] or 'latest'}"
