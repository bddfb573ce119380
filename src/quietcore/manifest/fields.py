"""KubeVirt's own field list (kubevirt.fields), from which "known" is decided."""

from __future__ import annotations

import pkgutil
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

SCALARS: Final = frozenset({"string", "boolean", "integer", "count", "number", "quantity", "time", "intstr", "any"})


@dataclass(frozen=True, slots=True)
class Known:
    """One field that KubeVirt knows. `kind` is a type of the table, a scalar, or either behind [] (list) or {} (map from text)."""

    name: str
    kind: str
    required: bool = False

    @property
    def element(self) -> str:
        """The type below all lists and maps."""
        return self.kind.replace("[]", "").replace("{}", "")


@cache
def types() -> Mapping[str, Mapping[str, Known]]:
    """Type name -> field name -> field."""
    data = pkgutil.get_data("quietcore.manifest", "kubevirt.fields")
    if data is None:
        raise RuntimeError("the installed package lacks kubevirt.fields")
    table: dict[str, dict[str, Known]] = {}
    current: dict[str, Known] = {}
    for line in data.decode().splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            current = table.setdefault(line, {})
            continue
        name, kind = line.split()
        plain = name.removesuffix("!")
        current[plain] = Known(plain, kind, required=plain != name)
    return table


@cache
def source() -> str:
    """Which KubeVirt the list was taken from."""
    data = pkgutil.get_data("quietcore.manifest", "kubevirt.fields") or b""
    first = data.decode().splitlines()[0]
    return first[first.index("kubevirt/kubevirt") : first.index(", api/openapi-spec")]


def walk(root: str) -> Iterator[tuple[str, Known]]:
    """Every field below a type with its dotted path ([] marks list items), parents first and breadth first."""
    table = types()
    queue: deque[tuple[str, str, tuple[str, ...]]] = deque([("", root, (root,))])
    while queue:
        prefix, kind, above = queue.popleft()
        for known in table[kind].values():
            path = f"{prefix}{known.name}{'[]' if known.kind.startswith('[]') else ''}"
            yield path, known
            if known.element in table and known.element not in above:
                queue.append((f"{path}.", known.element, (*above, known.element)))


@cache
def homes(root: str) -> Mapping[str, str]:
    """Field name -> the path of the mapping where a field of this name belongs; the place nearest to the root wins."""
    places: dict[str, str] = {}
    for path, known in walk(root):
        places.setdefault(known.name, path.removesuffix("[]").rpartition(".")[0])
    return places
