"""An OpenStack flavor and image as values, and the small readers that Nova applies to their texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from quietcore.errors import InputError, Problem
from quietcore.model.cpuset import CpuSet

Property: TypeAlias = object
"""A value of an image: text, number, truth value, or a list of them; extra specs of flavors are texts."""
_TRUE: Final = frozenset({"1", "t", "true", "on", "y", "yes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavor:
    """What a flavor asks for; `memory_mb` counts MiB, as OpenStack does."""

    name: str = ""
    vcpus: int
    memory_mb: int
    extra_specs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The properties of an image that may add to a flavor."""

    name: str = ""
    properties: Mapping[str, Property] = field(default_factory=lambda: MappingProxyType({}))


def refusal(code: str, message: str, name: str = "") -> InputError:
    """Nova's exception as an error of ours: `code` is its class, `name` the extra spec or property that it is about."""
    return InputError.of((Problem(code=code, message=message, field=name),))


def parse_cpu_spec(text: str) -> CpuSet:
    """Read Nova's CPU lists: "0-3,^2"; exclusions win wherever they stand. Raises InputError with Nova's text."""
    taken, excluded = CpuSet(), CpuSet()
    for part in filter(None, (one.strip() for one in text.split(","))):
        first, dash, last = part.partition("-")
        without = first.startswith("^")
        low = _number(first[1:] if without else first)
        high = _number(last) if dash else low
        if low is None or high is None or high < low:
            kind = "range" if dash else "exclusion" if without else "inclusion"
            raise refusal("Invalid", f"Invalid {kind} expression {part!r}")
        cpus = CpuSet.range(high + 1) - CpuSet.range(low)
        taken, excluded = (taken, excluded | cpus) if without else (taken | cpus, excluded)
    return taken - excluded


_MOST: Final = 1 << 16


def _number(text: str) -> int | None:
    plain = text.strip()
    return int(plain) if plain.isascii() and plain.isdigit() and len(plain) < 6 and int(plain) < _MOST else None


def format_cpu_spec(cpus: CpuSet, *, ranges: bool = True) -> str:
    """Write a CPU list, with ranges or with every number of its own."""
    return str(cpus) if ranges else ",".join(str(cpu) for cpu in cpus)


def masked(text: str, vcpus: int) -> CpuSet:
    """A mask over the vCPUs; one that begins with an exclusion takes all others."""
    plain = text.strip()
    return parse_cpu_spec(f"0-{vcpus - 1},{plain}" if plain.startswith("^") else plain)


def truth(value: Property) -> bool:
    """What oslo takes for true."""
    return value if isinstance(value, bool) else str(value).strip().lower() in _TRUE
