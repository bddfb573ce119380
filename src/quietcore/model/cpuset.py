"""Sets of CPU numbers: one integer as a bit mask, so that set algebra on 1,024 CPUs is a few machine words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

MAX_CPUS: Final = 1 << 16
"""No Linux machine numbers its CPUs higher (CONFIG_NR_CPUS is at most 8,192); larger numbers are typing errors."""


class CpuSet:
    """An immutable set of CPU numbers, written as the kernel writes it: "0-3,8".

    Iteration is ascending. The empty set prints as "".

    >>> str(CpuSet.parse("3,0-1") | CpuSet.of(2))
    '0-3'
    """

    __slots__ = ("mask",)
    mask: int

    def __init__(self, mask: int = 0) -> None:
        """Take the bit mask itself: bit n stands for CPU n. Raises ValueError for a negative mask."""
        if mask < 0:
            raise ValueError("a CPU mask is not negative")
        object.__setattr__(self, "mask", mask)

    def __reduce__(self) -> tuple[type[CpuSet], tuple[int]]:
        return CpuSet, (self.mask,)  # copied and pickled by its constructor, since nothing else may set it

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"CpuSet is immutable: {name} cannot be set to {value!r}")

    @classmethod
    def of(cls, *cpus: int) -> CpuSet:
        """Build a set from single CPU numbers."""
        return cls.from_iterable(cpus)

    @classmethod
    def from_iterable(cls, cpus: Iterable[int]) -> CpuSet:
        """Build a set from CPU numbers in any order. Raises ValueError for one outside 0..MAX_CPUS-1."""
        mask = 0
        for cpu in cpus:
            if not 0 <= cpu < MAX_CPUS:
                raise ValueError(f"CPU number {cpu} is not within 0-{MAX_CPUS - 1}")
            mask |= 1 << cpu
        return cls(mask)

    @classmethod
    def range(cls, count: int) -> CpuSet:
        """CPUs 0 to count-1."""
        return cls((1 << count) - 1)

    @classmethod
    def parse(cls, text: str) -> CpuSet:
        """Read a Linux CPU list ("0-3,8", "" for none; blanks and a trailing newline are allowed).

        Raises ValueError naming the part that is no number or ascending range.
        """
        mask = 0
        stripped = text.strip()
        if not stripped:
            return cls()
        for part in stripped.split(","):
            first, dash, last = part.strip().partition("-")
            if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
                raise ValueError(f"{part.strip()!r} in the CPU list {stripped!r} is neither a number nor a range such as 2-5")
            low, high = int(first), int(last) if dash else int(first)
            if high < low or high >= MAX_CPUS:
                raise ValueError(f"the range {part.strip()!r} in the CPU list {stripped!r} does not ascend within 0-{MAX_CPUS - 1}")
            mask |= ((1 << (high - low + 1)) - 1) << low
        return cls(mask)

    def __iter__(self) -> Iterator[int]:
        rest = self.mask
        while rest:
            lowest = rest & -rest
            yield lowest.bit_length() - 1
            rest ^= lowest

    def __contains__(self, cpu: object) -> bool:
        return isinstance(cpu, int) and cpu >= 0 and bool(self.mask >> cpu & 1)

    def __len__(self) -> int:
        return self.mask.bit_count()

    def __bool__(self) -> bool:
        return self.mask != 0

    def __or__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask | other.mask)

    def __and__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask & other.mask)

    def __sub__(self, other: CpuSet) -> CpuSet:
        return CpuSet(self.mask & ~other.mask)

    def __le__(self, other: CpuSet) -> bool:
        return not self.mask & ~other.mask

    def __lt__(self, other: CpuSet) -> bool:
        return self <= other and self.mask != other.mask

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CpuSet) and self.mask == other.mask

    def __hash__(self) -> int:
        return hash(self.mask)

    def isdisjoint(self, other: CpuSet) -> bool:
        """Whether the two sets share no CPU."""
        return not self.mask & other.mask

    @property
    def lowest(self) -> int:
        """The smallest CPU number; ValueError for the empty set."""
        if not self.mask:
            raise ValueError("an empty CPU set has no lowest CPU")
        return (self.mask & -self.mask).bit_length() - 1

    @property
    def highest(self) -> int:
        """The largest CPU number; ValueError for the empty set."""
        if not self.mask:
            raise ValueError("an empty CPU set has no highest CPU")
        return self.mask.bit_length() - 1

    def __str__(self) -> str:
        parts: list[str] = []
        rest, base = self.mask, 0
        while rest:
            skip = (rest & -rest).bit_length() - 1
            rest >>= skip
            base += skip
            run = (~rest & (rest + 1)).bit_length() - 1
            parts.append(str(base) if run == 1 else f"{base}-{base + run - 1}")
            rest >>= run
            base += run
        return ",".join(parts)

    def __repr__(self) -> str:
        return f"CpuSet.parse({str(self)!r})"


def union(sets: Iterable[CpuSet]) -> CpuSet:
    """The union of any number of sets."""
    mask = 0
    for cpus in sets:
        mask |= cpus.mask
    return CpuSet(mask)
