"""Whatever bytes arrive, reading them gives a message or `MalformedMessageError`, nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from protocol.artifacts import AdapterWeights
from protocol.documents import dump_canonical, parse_canonical
from protocol.errors import MalformedMessageError, ProtocolError
from protocol.messages import (
    HelloReply,
    HelloRequest,
    Message,
    Refusal,
    ReleaseReply,
    TrainingRequest,
    WarmTrainingRequest,
)
from protocol.wire import decode, decode_bytes, encode, encode_bytes
from tests.strategies import messages
from tests.support.releases import make_reply

KINDS: list[Any] = [
    HelloRequest,
    HelloReply,
    TrainingRequest,
    WarmTrainingRequest,
    ReleaseReply,
    Refusal,
]
REPLY = encode_bytes(make_reply())
START = len(b"RewardDS\x01\n") + 8

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)


def must_be_malformed_or_read(data: bytes, kind: Any) -> None:
    try:
        message = decode_bytes(data, kind)
    except MalformedMessageError:
        return
    assert encode_bytes(message) == data


@given(data=st.binary(max_size=200), kind=st.sampled_from(KINDS))
def test_arbitrary_bytes_are_malformed_and_nothing_else(data: bytes, kind: Any) -> None:
    with pytest.raises(MalformedMessageError):
        decode_bytes(data, kind)


@given(document=st.binary(max_size=200), weights=st.none() | st.binary(max_size=200))
def test_arbitrary_documents_in_flower_records_are_malformed(
    document: bytes, weights: bytes | None
) -> None:
    records = RecordDict({"document": ConfigRecord({"json": document})})
    if weights is not None:
        array = Array("uint8", (len(weights),), "safetensors", weights)
        records["weights"] = ArrayRecord({"safetensors": array})

    for kind in KINDS:
        with pytest.raises(MalformedMessageError):
            decode(records, kind)


def test_a_release_that_is_cut_short_is_malformed() -> None:
    for length in range(len(REPLY)):
        with pytest.raises(MalformedMessageError):
            decode_bytes(REPLY[:length], ReleaseReply)


@given(position=st.integers(0, len(REPLY) - 1), bit=st.integers(0, 7))
def test_a_release_with_one_flipped_bit_is_refused_or_read_as_what_it_now_says(
    position: int, bit: int
) -> None:
    flipped = bytearray(REPLY)
    flipped[position] ^= 1 << bit

    try:
        reply = decode_bytes(bytes(flipped), ReleaseReply)
    except ProtocolError:
        return  # malformed, or another digit in the version; both are answers

    assert encode_bytes(reply) == bytes(flipped)


@given(message=messages, field=st.integers(0, 100), value=json_values)
def test_a_field_replaced_by_any_json_is_read_back_as_itself_or_malformed(
    message: Message, field: int, value: object
) -> None:
    data = encode_bytes(message)
    size = int.from_bytes(data[START - 8 : START], "big")
    envelope: Any = parse_canonical(data[START : START + size])
    target = envelope["body"]
    if isinstance(message, ReleaseReply) and field % 2:
        target = target["certificate"]
    names = sorted(target)
    target[names[field % len(names)]] = value
    try:
        document = dump_canonical(envelope)
    except (ValueError, UnicodeError):
        return

    changed = data[: START - 8] + len(document).to_bytes(8, "big") + document
    must_be_malformed_or_read(changed + data[START + size :], type(message))


@given(kind=json_values, version=json_values, body=json_values)
def test_an_arbitrary_envelope_never_raises_anything_but_a_protocol_error(
    kind: object, version: object, body: object
) -> None:
    document = dump_canonical({"kind": kind, "version": version, "body": body})
    records = RecordDict({"document": ConfigRecord({"json": document})})

    with pytest.raises(ProtocolError):
        decode(records, ReleaseReply)


@given(data=st.binary(max_size=100))
def test_arbitrary_bytes_are_no_weights(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        AdapterWeights.from_bytes(data)


@pytest.mark.parametrize(
    "records",
    [
        RecordDict({}),
        RecordDict({"document": MetricRecord({"json": 1.0})}),
        RecordDict({"document": ConfigRecord({"json": "text"})}),
        RecordDict({"document": ConfigRecord({"json": [b"a", b"b"]})}),
        RecordDict({"document": ConfigRecord({"json": b"{}", "more": 1})}),
        RecordDict({"weights": ArrayRecord({})}),
        RecordDict({"document": ConfigRecord({"json": b"{}"}), "weights": ArrayRecord({})}),
        RecordDict({"document": ConfigRecord({"json": b"{}"}), "weights": ConfigRecord({})}),
    ],
)
def test_records_of_another_layout_are_malformed(records: RecordDict) -> None:
    with pytest.raises(MalformedMessageError):
        decode(records, ReleaseReply)


@pytest.mark.parametrize(
    "array",
    [
        Array("uint8", (3,), "numpy.ndarray", b"abc"),
        Array("float32", (3,), "safetensors", b"abc"),
        Array("uint8", (4,), "safetensors", b"abc"),
        Array("uint8", (1, 3), "safetensors", b"abc"),
    ],
)
def test_an_array_that_lies_about_itself_is_malformed(array: Array) -> None:
    records = encode(make_reply())
    records["weights"] = ArrayRecord({"safetensors": array})

    with pytest.raises(MalformedMessageError, match="uint8"):
        decode(records, ReleaseReply)


def test_a_document_that_is_too_long_is_not_parsed() -> None:
    document = b"[" * (2 * 1024 * 1024)
    records = RecordDict({"document": ConfigRecord({"json": document})})

    with pytest.raises(MalformedMessageError, match="at most"):
        decode(records, HelloRequest)
