"""Gate 2: what may leave and what may be used have types of their own."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import types
import typing
from collections.abc import Iterator
from enum import StrEnum
from typing import Any, Final

import pytest

from client_side.records import PrivateRecord
from protocol.artifacts import AdapterWeights, Certificate, LoraShape, Release
from protocol.documents import to_document
from protocol.ledger import DpSgdEvent, PrivacyLedger
from protocol.messages import Message
from protocol.wire import encode, encode_bytes
from server_side.admission import AdmissionPolicy, AdmittedRelease, admit
from tests.support.releases import BASE_MODEL_DIGEST, RUN_ID, expected_shapes, make_reply

CANARY = "canary-prompt-90d1"
PLAIN: Final = {bool, int, float, str, bytes, type(None)}
RECORD = PrivateRecord(prompt=CANARY, response=CANARY, unit_id=CANARY)


def admitted() -> AdmittedRelease:
    return admit(
        encode_bytes(make_reply()),
        policy=AdmissionPolicy(run_id=RUN_ID, base_model_digest=BASE_MODEL_DIGEST),
        expected_shapes=expected_shapes,
    )


@pytest.mark.parametrize("write", [encode, encode_bytes])
def test_a_record_cannot_be_written_to_the_wire(write: Any) -> None:
    with pytest.raises((TypeError, KeyError)) as caught:
        write(RECORD)

    assert CANARY not in str(caught.value)


def test_messages_have_no_field_that_could_hold_a_record() -> None:
    """Free text exists in a certificate alone: names, versions and the public instruction."""
    met: set[type] = set()
    names: set[str] = set()
    waiting: list[Any] = list(Message.__args__)
    while waiting:
        kind = waiting.pop()
        if kind in met:
            continue
        met.add(kind)
        for name, hint in typing.get_type_hints(kind).items():
            names.add(name)
            inner = list(types_in(hint))
            waiting.extend(item for item in inner if dataclasses.is_dataclass(item))
            # A closed set of kinds: no `Any`, no `object`, and one mapping, of names to tensors.
            others = {item for item in inner if not dataclasses.is_dataclass(item)}
            plain = {item for item in others if item in PLAIN or issubclass(item, StrEnum)}
            assert others == plain or (kind, name) == (AdapterWeights, "tensors"), (kind, name)

    assert {Certificate, PrivacyLedger, DpSgdEvent, LoraShape, Release, AdapterWeights} <= met
    assert names.isdisjoint({"prompt", "response", "record", "records", "loss", "num_records"})


def types_in(hint: Any) -> Iterator[Any]:
    """Name every type that a hint is made of, without the unions and tuples around them."""
    arguments = [item for item in typing.get_args(hint) if item is not ...]
    if not arguments:
        yield hint
    elif typing.get_origin(hint) not in (tuple, types.UnionType, typing.Union):
        yield typing.get_origin(hint)
    for argument in arguments:
        yield from types_in(argument)


def test_repr_of_a_record_shows_lengths_only() -> None:
    assert CANARY not in repr(RECORD)
    assert CANARY not in f"{RECORD}"


@pytest.mark.parametrize("copy_it", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_record_cannot_be_copied_out_of_its_process(copy_it: Any) -> None:
    with pytest.raises(TypeError) as caught:
        copy_it(RECORD)

    assert CANARY not in str(caught.value)


def test_only_admit_makes_an_admitted_release() -> None:
    with pytest.raises(TypeError, match="admit"):
        AdmittedRelease(release=make_reply().release, epsilon=0.0, token=object())


def test_an_admitted_release_cannot_be_given_other_contents() -> None:
    good = admitted()
    other = make_reply(client_name="clinic-b").release

    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(good, release=other)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        good.release = other  # type: ignore[misc]


@pytest.mark.parametrize("copy_it", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_admitted_release_is_not_copied_around_the_gate(copy_it: Any) -> None:
    with pytest.raises(TypeError):
        copy_it(admitted())


@pytest.mark.parametrize("write", [to_document, encode, encode_bytes])
def test_what_is_admitted_has_no_document(write: Any) -> None:
    """Storage goes through `store_admitted`, whose reader checks everything again."""
    with pytest.raises((TypeError, KeyError)):
        write(admitted())
