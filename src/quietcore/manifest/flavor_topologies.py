"""The guest's sockets, cores and threads that a flavor and an image prefer and allow (Nova's _get_desirable_cpu_topologies)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quietcore.manifest.flavor_values import Flavor, Image, refusal
from quietcore.model.spec import GuestTopology

NO_LIMIT: Final = 65536
_PARTS: Final = ("sockets", "cores", "threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Sockets, cores and threads of which some may be 0: no preference."""

    sockets: int = 0
    cores: int = 0
    threads: int = 0

    def __str__(self) -> str:
        return f"(sockets={self.sockets}, cores={self.cores}, threads={self.threads})"

    @property
    def parts(self) -> tuple[int, int, int]:
        """The three numbers in the order of the name."""
        return self.sockets, self.cores, self.threads


def topology_constraints(flavor: Flavor, image: Image) -> tuple[Shape, Shape]:
    """The preferred shape and the greatest. Any value of the image discards all of the flavor's; limits it may only lower."""
    limits, image_limits = _shape(flavor, image, "max_")
    if any(own > (extra or NO_LIMIT) for own, extra in zip(image_limits.parts, limits.parts, strict=True)):
        message = f"Image vCPU topology limits {image_limits} exceeds the limits of the flavor {limits}"
        raise refusal("ImageVCPULimitsRangeExceeded", message, "hw_cpu_max_sockets")
    pairs = zip(image_limits.parts, limits.parts, strict=True)
    sockets, cores, threads = (own or extra or NO_LIMIT for own, extra in pairs)
    greatest = Shape(sockets=sockets, cores=cores, threads=threads)
    wanted, image_wanted = _shape(flavor, image, "")
    if any(image_wanted.parts):
        if _exceeds(image_wanted, greatest):
            message = f"Image vCPU topology {image_wanted} exceeds the limits of the flavor or image {greatest}"
            raise refusal("ImageVCPUTopologyRangeExceeded", message, "hw_cpu_sockets")
        return image_wanted, greatest
    return Shape() if _exceeds(wanted, greatest) else wanted, greatest


def _exceeds(shape: Shape, greatest: Shape) -> bool:
    return any(one > most for one, most in zip(shape.parts, greatest.parts, strict=True))


def _shape(flavor: Flavor, image: Image, prefix: str) -> tuple[Shape, Shape]:
    extra = [_whole(flavor.extra_specs.get(f"hw:cpu_{prefix}{part}", "0")) for part in _PARTS]
    own = [_whole(str(image.properties.get(f"hw_cpu_{prefix}{part}", "0"))) for part in _PARTS]
    return (
        Shape(sockets=extra[0], cores=extra[1], threads=extra[2]),
        Shape(sockets=own[0], cores=own[1], threads=own[2]),
    )


def _whole(text: str) -> int:
    plain = text.strip()
    if plain.isascii() and plain.isdigit() and len(plain) < 10:
        return int(plain)
    raise refusal("InvalidRequest", f"Invalid flavor extra spec. Error: invalid literal for int() with base 10: {text!r}")


def possible_topologies(vcpus: int, greatest: Shape, *, threads_allowed: bool = True) -> tuple[GuestTopology, ...]:
    """Every shape of this many vCPUs within the limits: few threads first, then many sockets. Only divisors are tried."""
    most = greatest.threads if threads_allowed else 1
    found = [
        GuestTopology(sockets=vcpus // threads // cores, cores=cores, threads=threads)
        for threads in _divisors(vcpus)
        for cores in _divisors(vcpus // threads)
        if threads <= most and cores <= greatest.cores and vcpus // threads // cores <= greatest.sockets
    ]
    if not found:
        message = f"Requested vCPU limits {greatest.sockets}:{greatest.cores}:{most} are impossible to satisfy for vcpus count {vcpus}"
        raise refusal("ImageVCPULimitsRangeImpossible", message, "hw:cpu_max_sockets")
    return tuple(found)


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]


def sort_topologies(topologies: Sequence[GuestTopology], wanted: Shape) -> tuple[GuestTopology, ...]:
    """Those that match more of the preferred numbers first; the order among equals stays."""

    def matches(one: GuestTopology) -> int:
        return sum(has == want for has, want in zip((one.sockets, one.cores, one.threads), wanted.parts, strict=True) if want > 0)

    return tuple(sorted(topologies, key=matches, reverse=True))


def desirable_topologies(flavor: Flavor, image: Image, *, threads_allowed: bool = True) -> tuple[GuestTopology, ...]:
    """All possible shapes, the most wanted first."""
    wanted, greatest = topology_constraints(flavor, image)
    return sort_topologies(possible_topologies(flavor.vcpus, greatest, threads_allowed=threads_allowed), wanted)
