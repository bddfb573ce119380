"""Model values as JSON and back, by their own type annotations; what the ledger file is written with.

A value reads back equal to what was written. Dataclasses in a union carry their class name as "type",
unless that is the name of a field of theirs.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from quietcore.model import CpuSet, Quantity

Json: TypeAlias = Any  # what json.loads gives: checked against the annotation while it is decoded
_Decoder: TypeAlias = Callable[[Json, str], Any]  # the value of a JSON value, and the place of that one for errors
_TAG: Final = "type"


class DecodeError(ValueError):
    """The JSON does not fit the type; the message names the place ("" is the whole)."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(f"{place}: {message}" if place else message)


def _has_fields(kind: object) -> bool:  # mypy would forget what else the type is
    return is_dataclass(kind)


def encode(value: object) -> Json:
    """A model value as JSON-able values."""
    kind: Any = type(value)  # for mypy, to which not every type has a hash
    return _encoder(kind)(value)


@functools.cache  # looking at a type takes longer than at a value of it, here and below
def _encoder(kind: Any) -> Callable[[Any], Json]:  # noqa: ANN401  # as decode
    if issubclass(kind, CpuSet | Quantity | Fraction):
        return str
    if _has_fields(kind):
        return functools.partial(_encode_dataclass, kind.__name__, tuple(one.name for one in fields(kind)))
    if issubclass(kind, Mapping):
        return lambda value: {str(key): encode(entry) for key, entry in sorted(value.items())}
    if issubclass(kind, frozenset):
        return lambda value: sorted(encode(entry) for entry in value)
    if issubclass(kind, tuple):
        return lambda value: [encode(entry) for entry in value]
    return lambda value: value


def _encode_dataclass(kind: str, names: tuple[str, ...], value: object) -> Json:
    return {_TAG: kind} | {name: encode(getattr(value, name)) for name in names}


def decode(wanted: Any, data: Json, place: str = "") -> Any:  # noqa: ANN401  # generic over annotations, which have no common type
    """Build a value of the annotated type. Raises DecodeError for anything that does not fit."""
    return _decoder(wanted)(data, place)


@functools.cache
def _decoder(wanted: Any) -> _Decoder:  # noqa: ANN401  # as decode
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in {Union, types.UnionType}:
        return _union_decoder(arguments)
    if origin is Literal:
        return functools.partial(_decode_literal, arguments)
    if origin is tuple:
        return functools.partial(_decode_tuple, _decoder(arguments[0]))
    if origin is frozenset:
        return functools.partial(_decode_frozenset, _decoder(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return functools.partial(_decode_mapping, arguments[0], _decoder(arguments[1]))
    if wanted is CpuSet or wanted is Quantity:
        return functools.partial(_decode_text, wanted)
    if wanted is Fraction:
        return _decode_fraction
    if _has_fields(wanted):
        return functools.partial(_decode_dataclass, wanted)
    return functools.partial(_expect, wanted)


def _expect(wanted: type, data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    if not isinstance(data, wanted) or (isinstance(data, bool) and wanted is not bool):
        raise DecodeError(place, f"{data!r} is no {wanted.__name__}")
    return data


def _union_decoder(arguments: tuple[Any, ...]) -> _Decoder:
    candidates: list[Any] = [one for one in arguments if one is not types.NoneType]
    if len(candidates) == 1:
        some = _decoder(candidates[0])
    else:
        some = functools.partial(_decode_named, {one.__name__: _decoder(one) for one in candidates if _has_fields(one)})
    return functools.partial(_decode_optional, some) if types.NoneType in arguments else some


def _decode_optional(some: _Decoder, data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    return None if data is None else some(data, place)


def _decode_named(known: Mapping[str, _Decoder], data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    name = data.get(_TAG) if isinstance(data, dict) else None
    if isinstance(name, str) and name in known:
        return known[name](data, place)
    raise DecodeError(place, f"{name or data!r} is none of the known types")


def _decode_literal(allowed: tuple[Any, ...], data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    if data not in allowed:
        raise DecodeError(place, f"{data!r} is none of {allowed}")
    return data


def _decode_tuple(entry_of: _Decoder, data: Json, place: str) -> tuple[Any, ...]:  # as decode
    return tuple([entry_of(entry, f"{place}[{index}]") for index, entry in enumerate(_expect(list, data, place))])


def _decode_frozenset(entry_of: _Decoder, data: Json, place: str) -> frozenset[Any]:  # as decode
    return frozenset([entry_of(entry, place) for entry in _expect(list, data, place)])


def _decode_mapping(key_type: Any, entry_of: _Decoder, data: Json, place: str) -> Mapping[Any, Any]:  # noqa: ANN401  # as decode
    result = {}
    for key, entry in _expect(dict, data, place).items():
        if key_type is int and not key.lstrip("-").isdigit():
            raise DecodeError(place, f"key {key!r} is no number")
        result[int(key) if key_type is int else key] = entry_of(entry, f"{place}.{key}")
    return MappingProxyType(result)


def _decode_text(wanted: type[CpuSet | Quantity], data: Json, place: str) -> CpuSet | Quantity:
    try:
        return wanted.parse(_expect(str, data, place))
    except ValueError as err:
        raise DecodeError(place, str(err)) from err


def _decode_fraction(data: Json, place: str) -> Fraction:
    try:
        return Fraction(_expect(str, data, place))
    except (ValueError, ZeroDivisionError) as err:
        raise DecodeError(place, f"{data!r} is no fraction") from err


@functools.cache
def _fields(wanted: type) -> Mapping[str, _Decoder]:
    """How to decode each field: asked for when the first value arrives, since a type may hold values of itself."""
    return {name: _decoder(hint) for name, hint in get_type_hints(wanted).items()}


def _decode_dataclass(wanted: Any, data: Json, place: str) -> Any:  # noqa: ANN401  # as decode
    table = dict(_expect(dict, data, place))
    known = _fields(wanted)
    if _TAG not in known and table.pop(_TAG, wanted.__name__) != wanted.__name__:
        raise DecodeError(place, f"{data[_TAG]} is no {wanted.__name__}")
    if not table.keys() <= known.keys():
        raise DecodeError(place, f"unknown field {min(table.keys() - known.keys())!r} in {wanted.__name__}")
    try:
        return wanted(**{name: known[name](entry, f"{place}.{name}" if place else name) for name, entry in table.items()})
    except (TypeError, ValueError) as err:
        raise err if isinstance(err, DecodeError) else DecodeError(place, str(err)) from err
