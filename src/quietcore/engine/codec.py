"""Model values as JSON and back, by their own type annotations; what the ledger file is written with.

A value reads back equal to what was written. Dataclasses in a union carry their class name as "type",
unless that is the name of a field of theirs.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from quietcore.model import CpuSet, Quantity

Json: TypeAlias = Any  # what json.loads gives: checked against the annotation while it is decoded
_TAG: Final = "type"


class DecodeError(ValueError):
    """The JSON does not fit the type; the message names the place ("" is the whole)."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)


def encode(value: object) -> Json:
    """A model value as JSON-able values."""
    if isinstance(value, CpuSet | Quantity | Fraction):
        return str(value)
    if is_dataclass(value):
        return {_TAG: type(value).__name__} | {one.name: encode(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(entry) for key, entry in sorted(value.items())}
    if isinstance(value, frozenset):
        return sorted(encode(entry) for entry in value)
    if isinstance(value, tuple):
        return [encode(entry) for entry in value]
    return value


def decode(wanted: Any, data: Json, place: str = "") -> Any:  # noqa: ANN401  # generic over annotations, which have no common type
    """Build a value of the annotated type. Raises DecodeError for anything that does not fit."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in {Union, types.UnionType}:
        return _decode_union(arguments, data, place)
    if origin is Literal:
        if data not in arguments:
            raise DecodeError(place, f"{data!r} is none of {arguments}")
        return data
    if origin is tuple:
        return tuple(decode(arguments[0], entry, f"{place}[{index}]") for index, entry in enumerate(_expect(list, data, place)))
    if origin is frozenset:
        return frozenset(decode(arguments[0], entry, place) for entry in _expect(list, data, place))
    if origin is not None and issubclass(origin, Mapping):
        return _decode_mapping(arguments, data, place)
    return _decode_plain(wanted, data, place)


def _decode_plain(wanted: Any, data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    if wanted is CpuSet or wanted is Quantity:
        try:
            return wanted.parse(_expect(str, data, place))
        except ValueError as err:
            raise DecodeError(place, str(err)) from err
    if wanted is Fraction:
        try:
            return Fraction(_expect(str, data, place))
        except (ValueError, ZeroDivisionError) as err:
            raise DecodeError(place, f"{data!r} is no fraction") from err
    if is_dataclass(wanted):
        return _decode_dataclass(wanted, data, place)
    return _expect(wanted, data, place)


def _expect(wanted: Any, data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    if wanted is types.NoneType:
        wanted_type: type = types.NoneType
    else:
        wanted_type = wanted
    if not isinstance(data, wanted_type) or (isinstance(data, bool) and wanted_type is not bool):
        raise DecodeError(place, f"{data!r} is no {wanted_type.__name__}")
    return data


def _decode_union(arguments: tuple[Any, ...], data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    if data is None and types.NoneType in arguments:
        return None
    candidates = [one for one in arguments if one is not types.NoneType]
    if len(candidates) == 1:
        return decode(candidates[0], data, place)
    name = data.get(_TAG) if isinstance(data, dict) else None
    for candidate in candidates:
        if is_dataclass(candidate) and getattr(candidate, "__name__", "") == name:
            return decode(candidate, data, place)
    raise DecodeError(place, f"{name or data!r} is none of the known types")


def _decode_mapping(arguments: tuple[Any, ...], data: Json, place: str) -> Mapping[Any, Any]:  # as decode
    key_type, value_type = arguments
    result = {}
    for key, entry in _expect(dict, data, place).items():
        if key_type is int and not key.lstrip("-").isdigit():
            raise DecodeError(place, f"key {key!r} is no number")
        result[int(key) if key_type is int else key] = decode(value_type, entry, f"{place}.{key}")
    return MappingProxyType(result)


@functools.cache
def _hints(wanted: type) -> Mapping[str, Any]:  # annotations have no common type
    return get_type_hints(wanted)


def _decode_dataclass(wanted: Any, data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    table = dict(_expect(dict, data, place))
    hints = _hints(wanted)
    if _TAG not in hints and table.pop(_TAG, wanted.__name__) != wanted.__name__:
        raise DecodeError(place, f"{data[_TAG]} is no {wanted.__name__}")
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise DecodeError(place, f"unknown field {unknown[0]!r} in {wanted.__name__}")
    try:
        return wanted(**{name: decode(hints[name], entry, f"{place}.{name}" if place else name) for name, entry in table.items()})
    except (TypeError, ValueError) as err:
        raise err if isinstance(err, DecodeError) else DecodeError(place, str(err)) from err
