"""Dataclasses of the server's job as JSON values, and back by their type hints.

Written for files of this project's own making (`server_side/run_store.py`): reading checks shape
and type so that a damaged file is noticed, but it is no defence against a peer; what comes over the
wire goes through `protocol/`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")

# A JSON value as the `json` module gives and takes it.
Json = Any


def to_json(value: object) -> Json:
    """Turn a dataclass, enum member, mapping, sequence, number, text or None into JSON values.

    Raises:
        TypeError: The value is of another type.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_json(getattr(value, name)) for name in names}
    match value:
        case Enum():
            return value.value
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(to_json(key)): to_json(item) for key, item in value.items()}
        case Sequence():
            return [to_json(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no JSON form.")


def from_json(value_type: type[T], value: Json) -> T:
    """Read back what `to_json` made of a value.

    Args:
        value_type: A dataclass whose fields are dataclasses, enums, mappings, tuples, numbers,
            texts, or one of these or None.
        value: JSON values.

    Returns:
        The value.

    Raises:
        ValueError: The JSON has another shape.
    """
    result: T = _read(value_type, value)
    return result


def differences(old: Json, new: Json, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names under which two JSON values differ.

    Args:
        old: One value. Objects are compared key by key, all else as a whole.
        new: The other.
        prefix: Dotted name of both; empty at the top.

    Yields:
        The names, in no fixed order. A key that is missing is the same as one that holds null.

    >>> list(differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}))
    ['a.c']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            name = f"{prefix}.{key}" if prefix else key
            yield from differences(old.get(key), new.get(key), name)
    elif old != new:
        yield prefix


def _read(hint: Any, value: Json) -> Any:  # a type hint is no type to the type checker
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(inner, value)
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, dict):
        key_hint, item_hint = arguments
        return {
            _read(key_hint, int(key) if key_hint is int else key): _read(item_hint, item)
            for key, item in value.items()
        }
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    raise ValueError(f"Expected {hint}, found a value of type {type(value).__name__}.")


def _read_dataclass(hint: Any, value: Json) -> Any:
    hints = typing.get_type_hints(hint)
    names = {field.name for field in dataclasses.fields(hint)}
    if not isinstance(value, dict) or value.keys() != names:
        raise ValueError(f"Expected the fields of {hint.__name__}, found others.")
    return hint(**{name: _read(hints[name], item) for name, item in value.items()})
