"""What a plain YAML scalar means to kubectl, which agrees with no Python loader.

The rules are those of sigs.k8s.io/yaml (its goyaml.v2): YAML 1.1 booleans (y, yes, on), octal as 0777 and 0o17, underscores in
numbers, no sexagesimal numbers (12:30:45 is text), dates stay text.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

Scalar: TypeAlias = str | int | float | bool | None

_WORDS: Final[dict[str, Scalar]] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
}
_UNBOUNDED: Final = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMERIC_START: Final = frozenset("+-.0123456789")
_INTEGER: Final = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LONGEST: Final = 400
_INT_MIN: Final = -(1 << 63)
_UINT_MAX: Final = (1 << 64) - 1
_JSON_INTEGER_LIMIT: Final = 1e21
"""Go writes a float below this as an integer in JSON, so 4.0 reaches the API server as 4."""


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar. Raises ValueError for .nan and .inf, which JSON cannot carry."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMERIC_START or len(text) > _LONGEST:
        return text
    if _UNBOUNDED.fullmatch(text):
        raise ValueError(f"{text} is a number that JSON cannot carry")
    plain = text if text[0] == "." else text.replace("_", "")
    if _INTEGER.fullmatch(plain):
        number = _integer(plain)
        if _INT_MIN <= number <= _UINT_MAX:
            return number
    if _FLOAT.fullmatch(plain):
        value = float(plain)
        if value in (float("inf"), float("-inf")):
            return text  # Go's ParseFloat reports the range error and the scalar stays text
        return int(value) if value.is_integer() and abs(value) < _JSON_INTEGER_LIMIT else value
    return text


def _integer(plain: str) -> int:
    sign, digits = (-1, plain[1:]) if plain[0] == "-" else (1, plain.lstrip("+"))
    prefix = digits[:2].lower()
    if prefix in {"0x", "0b", "0o"}:
        return sign * int(digits, 0)
    if digits[0] == "0" and len(digits) > 1:
        return sign * int(digits, 8)
    return sign * int(digits)
