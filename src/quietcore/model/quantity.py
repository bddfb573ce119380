"""Kubernetes quantities ("1500m", "2Gi", "1e3") as exact numbers, by the grammar of apimachinery's resource.Quantity."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal, TypeAlias

_GRAMMAR: Final = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?")
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
FORMAT_ERROR: Final = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
"""The text of apimachinery's ErrFormatWrong, which KubeVirt's messages quote."""
_LONGEST: Final = 64
_NANO: Final = 10**9
"""apimachinery keeps no smaller part of a unit."""
_LARGEST: Final = Fraction((1 << 63) - 1)
_MOST_DIGITS: Final = 93
"""A power of ten above every quantity that is read here."""
Form: TypeAlias = Literal["decimal", "binary", "exponent"]


def _away_from_zero(value: Fraction) -> int:
    """The next whole number, away from zero: apimachinery rounds every quantity so."""
    size = -(-abs(value.numerator) // value.denominator)
    return size if value >= 0 else -size


@dataclass(frozen=True, slots=True, order=True)
class Quantity:
    """An exact amount. Compares by value: "1", "1000m" and "1e0" are equal.

    `form` remembers which family of suffixes it was written with, because Kubernetes prints it in the same one.
    """

    amount: Fraction
    form: Form = field(default="decimal", compare=False)

    @classmethod
    def parse(cls, text: str | float) -> Quantity:
        """Read a quantity as Kubernetes does; a YAML number counts as its text. Raises ValueError with apimachinery's text."""
        if isinstance(text, bool):
            raise ValueError(FORMAT_ERROR)  # noqa: TRY004  # one error for one fault: the text is no quantity
        return _parsed(str(text))

    @classmethod
    def of(cls, value: int) -> Quantity:
        """A whole number of units."""
        return cls(Fraction(value))

    @classmethod
    def milli(cls, value: int) -> Quantity:
        """A number of thousandths."""
        return cls(Fraction(value, 1000))

    @property
    def value(self) -> int:
        """The amount in whole units, rounded away from zero (apimachinery's Value())."""
        return _away_from_zero(self.amount)

    @property
    def milli_value(self) -> int:
        """The amount in thousandths, rounded away from zero (apimachinery's MilliValue())."""
        return _away_from_zero(self.amount * 1000)

    @property
    def is_whole(self) -> bool:
        """Whether the amount is a whole number of units."""
        return self.amount.denominator == 1

    def __add__(self, other: Quantity) -> Quantity:
        return Quantity(self.amount + other.amount, self.form if self.amount else other.form)

    def __str__(self) -> str:
        """The canonical form of apimachinery: the largest suffix of its own family that needs no fraction."""
        if not self.amount:
            return "0"
        if self.form == "binary" and self.is_whole:
            whole = self.amount.numerator
            suffix, shift = next(((s, b) for s, b in reversed(_BINARY.items()) if whole % (1 << b) == 0), ("", 0))
            return f"{whole >> shift}{suffix}"
        if self.form == "exponent":
            power = next(p for p in range(_MOST_DIGITS, -10, -3) if (self.amount / Fraction(10) ** p).denominator == 1)
            suffix = f"e{power}" if power else ""
        else:
            suffix, power = next((s, p) for s, p in reversed(_DECIMAL.items()) if (self.amount / Fraction(10) ** p).denominator == 1)
        return f"{(self.amount / Fraction(10) ** power).numerator}{suffix}"


@lru_cache(maxsize=512)
def _parsed(written: str) -> Quantity:
    """Remembered, because manifests repeat their few sizes."""
    match = _GRAMMAR.fullmatch(written) if len(written) <= _LONGEST else None
    if match is None:
        raise ValueError(FORMAT_ERROR)
    number, suffix = Fraction(match[1].rstrip(".")), match[2] or ""
    form: Form = "decimal"
    if suffix in _BINARY:
        form = "binary"
        amount = number * (1 << _BINARY[suffix])
    elif suffix in _DECIMAL:
        amount = number * Fraction(10) ** _DECIMAL[suffix]
    else:
        exponent = int(suffix[1:])
        if abs(exponent) > 30:
            raise ValueError(FORMAT_ERROR)
        form = "exponent"
        amount = number * Fraction(10) ** exponent
    amount = Fraction(_away_from_zero(amount * _NANO), _NANO)
    if form == "binary":  # apimachinery bounds these alone, and shows parts of one unit in the decimal family
        amount = max(-_LARGEST, min(_LARGEST, amount))
        form = "decimal" if 0 < abs(amount) < 1 else form
    return Quantity(amount, form)
