"""Protocol values as canonical JSON: one value, one byte string, and back, strictly.

Which fields a document has is read from the dataclass, so the dataclass is the allow-list. Reading
refuses an unknown, missing or wrongly typed field, a number that no sender could have written, and
any spelling that differs from what `to_canonical_bytes` would have written: no duplicated keys, no
other order or spacing, no second way to say the same thing under one signature.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

from protocol.errors import ConfigurationError, MalformedMessageError, RewardDSError

_INFINITE: Final = "infinite"
"""JSON has no infinity; a float field may hold this text instead."""

_MAX_INTEGER: Final = 2**53
"""Integers beyond this are not the same number to every JSON reader."""

T = TypeVar("T")

# A JSON value as `json` gives it; nothing is assumed about it until it was read against a type.
Json = object


def to_document(value: object) -> Json:
    """Turn a protocol value into what `json` can write.

    Args:
        value: A dataclass, enum member, number, text, bytes, tuple of such, or None.

    Returns:
        The same as dictionaries, lists, texts and numbers; bytes become hexadecimal text.

    Raises:
        TypeError: The value is none of these, or a number that is not one.
    """
    match value:
        case StrEnum():
            return value.value
        case None | bool() | str():
            return value
        case int():
            return value
        case float():
            if math.isnan(value) or value == -math.inf:
                raise TypeError(f"Expected a number, got {value!r}. Check it before sending.")
            return _INFINITE if math.isinf(value) else value
        case bytes():
            return value.hex()
        case tuple():
            return [to_document(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_document(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    raise TypeError(f"Expected a protocol value, got {type(value).__name__}. It has no document.")


def dump_canonical(document: Json) -> bytes:
    """Write JSON in its one form: sorted keys, no spaces, ASCII."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def to_canonical_bytes(value: object) -> bytes:
    """Serialize a protocol value; equal values give equal bytes."""
    return dump_canonical(to_document(value))


def parse_canonical(data: bytes) -> Json:
    """Read JSON that is in its one form.

    Raises:
        MalformedMessageError: The bytes are not JSON, or not spelled as `dump_canonical` would.
    """
    try:
        document: Json = json.loads(data.decode("ascii"))
        is_canonical = dump_canonical(document) == data
    except (ValueError, RecursionError):
        raise MalformedMessageError(
            "Expected a JSON document, found bytes that are none. Ask the sender for its version."
        ) from None
    if not is_canonical:
        raise MalformedMessageError(
            "Expected JSON in canonical form, found another spelling. "
            "Ask the sender for its version."
        )
    return document


def from_document(kind: type[T], document: Json, *, path: str = "document") -> T:
    """Read a dataclass from a parsed document, strictly.

    Args:
        kind: The dataclass to read.
        document: What `parse_canonical` gave.
        path: Where in the message the document stands, for the error.

    Returns:
        The value, validated by its own constructor.

    Raises:
        MalformedMessageError: A field is unknown, missing, wrongly typed or out of range.
    """
    hints = typing.get_type_hints(kind)
    if not isinstance(document, dict) or document.keys() != hints.keys():
        found = sorted(document) if isinstance(document, dict) else type(document).__name__
        raise MalformedMessageError(
            f"Expected the fields {', '.join(sorted(hints))} in {path}, "
            f"found {ascii(found)[:300]}. Ask the sender for its version."
        )
    values = {
        name: _read(hint, document[name], path=f"{path}.{name}") for name, hint in hints.items()
    }
    try:
        return kind(**values)
    except RewardDSError as error:
        raise MalformedMessageError(f"In {path}: {error}") from None


def _read(hint: object, value: Json, *, path: str) -> object:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and types.NoneType in typing.get_args(hint):
            return None
        (hint,) = (arm for arm in typing.get_args(hint) if arm is not types.NoneType)
        return _read(hint, value, path=path)
    if origin is tuple:
        if not isinstance(value, list):
            raise _mistyped(path, expected="a list", value=value)
        item_hint = typing.get_args(hint)[0]
        return tuple(
            _read(item_hint, item, path=f"{path}[{index}]") for index, item in enumerate(value)
        )
    assert isinstance(hint, type), f"{path} is annotated with {hint!r}, which has no document form"
    if dataclasses.is_dataclass(hint):
        return from_document(hint, value, path=path)
    return _read_scalar(hint, value, path=path)


def _read_scalar(hint: type, value: Json, *, path: str) -> object:
    if hint is float:
        if value == _INFINITE:
            return math.inf
        if type(value) is float:
            return value
    elif hint is int:
        if type(value) is int and abs(value) <= _MAX_INTEGER:
            return value
    elif hint in (str, bool):
        if type(value) is hint:
            return value
    elif hint is bytes:
        if isinstance(value, str) and len(value) % 2 == 0:
            try:
                data = bytes.fromhex(value)
            except ValueError:
                data = b""
            # `fromhex` skips spaces and takes capitals; only one spelling may pass.
            if data.hex() == value:
                return data
    elif issubclass(hint, StrEnum):
        members: Mapping[str, StrEnum] = {member.value: member for member in hint}
        if isinstance(value, str) and value in members:
            return members[value]
    else:
        raise ConfigurationError(f"{path} is annotated with {hint!r}, which has no document form.")
    raise _mistyped(path, expected=hint.__name__, value=value)


def _mistyped(path: str, *, expected: str, value: Json) -> MalformedMessageError:
    return MalformedMessageError(
        f"Expected {expected} at {path}, found {ascii(value)[:80]}. Ask the sender for its version."
    )
