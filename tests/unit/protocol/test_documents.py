from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from protocol.documents import (
    from_document,
    parse_canonical,
    to_canonical_bytes,
    to_document,
)
from protocol.errors import MalformedMessageError
from protocol.ledger import PrivacyUnit


@dataclass(frozen=True, kw_only=True)
class Inner:
    count: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    text: str
    ratio: float
    is_set: bool
    blob: bytes
    unit: PrivacyUnit
    inner: tuple[Inner, ...]
    maybe: float | None


VALUE = Outer(
    text="grüß\n",
    ratio=math.inf,
    is_set=True,
    blob=b"\x00\xff",
    unit=PrivacyUnit.GROUP,
    inner=(Inner(count=1), Inner(count=2)),
    maybe=None,
)


def test_value_survives_its_document() -> None:
    assert from_document(Outer, parse_canonical(to_canonical_bytes(VALUE))) == VALUE


@pytest.mark.parametrize(
    "change",
    [
        {"text": 1},
        {"text": None},
        {"ratio": 1},
        {"ratio": "nan"},
        {"ratio": True},
        {"is_set": 1},
        {"blob": "0"},
        {"blob": "FF"},
        {"blob": "0 0"},
        {"unit": "person"},
        {"unit": []},
        {"inner": {}},
        {"inner": [{"count": 1.0}]},
        {"inner": [{"count": True}]},
        {"inner": [{"count": 2**60}]},
        {"inner": [{}]},
        {"maybe": "1.0"},
        {"surplus": 1},
    ],
)
def test_wrong_field_is_malformed(change: dict[str, object]) -> None:
    document = to_document(VALUE)
    assert isinstance(document, dict)

    with pytest.raises(MalformedMessageError):
        from_document(Outer, {**document, **change})


def test_missing_field_is_malformed() -> None:
    document = to_document(VALUE)
    assert isinstance(document, dict)
    del document["text"]

    with pytest.raises(MalformedMessageError, match="text"):
        from_document(Outer, document)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"a": 1}',
        b'{"b":1,"a":1}',
        b'{"a":1,"a":1}',
        b'{"a":1.50}',
        b'{"a":1e999}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        '{"a":"ü"}'.encode(),
        b'{"a":"\\u0041"}',
        b"\xff",
        b"[" * 100_000,
        b'{"a":' + b"1" * 5000 + b"}",
    ],
)
def test_any_other_spelling_is_malformed(data: bytes) -> None:
    """Two spellings of one value would be two byte strings under one signature."""
    with pytest.raises(MalformedMessageError):
        parse_canonical(data)


@pytest.mark.parametrize("value", [math.nan, -math.inf, object(), {"a": 1}, [1], Outer])
def test_what_is_no_protocol_value_has_no_document(value: object) -> None:
    with pytest.raises(TypeError):
        to_document(value)
