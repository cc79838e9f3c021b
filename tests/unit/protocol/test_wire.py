from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, RecordDict
from hypothesis import given

from protocol import PROTOCOL_VERSION
from protocol.artifacts import AdapterWeights, Certificate, sign_release
from protocol.documents import dump_canonical
from protocol.errors import MalformedMessageError, RefusalCode, VersionMismatchError
from protocol.ledger import DpSgdEvent, PrivacyLedger, PrivacyUnit, ProxyKind
from protocol.messages import (
    HelloReply,
    HelloRequest,
    Message,
    Refusal,
    ReleaseReply,
    TrainingRequest,
    WarmTrainingRequest,
)
from protocol.wire import (
    decode,
    decode_bytes,
    encode,
    encode_bytes,
    num_bytes,
    records_to_bytes,
)
from tests.strategies import messages
from tests.support.releases import LORA, make_tensors

GOLDEN: Final = Path(__file__).parents[2] / "golden" / f"wire_v{PROTOCOL_VERSION}.json"


def _pinned_messages() -> dict[str, Message]:
    event = DpSgdEvent(
        proxy=ProxyKind.GENERATOR, noise_multiplier=0.75, sample_rate=0.125, steps=40
    )
    weights = AdapterWeights(tensors=make_tensors())
    certificate = Certificate(
        protocol_version=2,
        software_version="0.1.0",
        client_name="clinic-a",
        run_id="run-1",
        proxy=ProxyKind.GENERATOR,
        privacy=PrivacyLedger(
            unit=PrivacyUnit.RECORD,
            events=(event,),
            epsilon=float("inf"),
            delta=1e-05,
            accountant="PLD",
            accountant_version="1",
            reproducible_noise=False,
        ),
        declared_size=1000,
        lora=LORA,
        has_reward_head=False,
        base_model_digest="ab" * 32,
        weights_digest=weights.digest(),
        code_digest="cd" * 32,
        instruction="Answer the patient’s message.",
        max_prompt_tokens=64,
        max_response_tokens=96,
        created_at=86_400 * 20_000,
    )
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    return {
        "hello_request": HelloRequest(protocol_version=2),
        "hello_reply": HelloReply(
            protocol_version=2,
            software_version="0.1.0",
            client_name="clinic-a",
            public_key="01" * 32,
            base_model_digest="ab" * 32,
            declared_size=1000,
            privacy_unit=PrivacyUnit.GROUP,
            epsilon_cap=8.0,
            generator_start=LORA,
            reward_start=None,
        ),
        "training_request": TrainingRequest(
            protocol_version=2,
            run_id="run-1",
            proxy=ProxyKind.REWARD,
            base_model_digest="ab" * 32,
            target_epsilon=8.0,
            target_delta=None,
            steps=10,
        ),
        "warm_training_request": WarmTrainingRequest(
            request=TrainingRequest(
                protocol_version=2,
                run_id="run-1",
                proxy=ProxyKind.GENERATOR,
                base_model_digest="ab" * 32,
                start_digest=weights.digest(),
            ),
            start=weights,
        ),
        "release_reply": ReleaseReply(
            release=sign_release(certificate, weights=weights, signing_key=key)
        ),
        "refusal": Refusal(code=RefusalCode.POLICY),
    }


@given(message=messages)
def test_message_survives_flower_records(message: Message) -> None:
    assert decode(encode(message), type(message)) == message


@given(message=messages)
def test_message_survives_bytes(message: Message) -> None:
    data = encode_bytes(message)

    assert decode_bytes(data, type(message)) == message
    assert records_to_bytes(encode(message)) == data


@pytest.mark.parametrize("kind", sorted(_pinned_messages()))
def test_bytes_of_each_message_are_pinned(kind: str) -> None:
    """A change here needs a higher PROTOCOL_VERSION and a new file of golden bytes."""
    pinned = json.loads(GOLDEN.read_text())["messages"]

    assert encode_bytes(_pinned_messages()[kind]).hex() == pinned[kind]


@pytest.mark.parametrize("kind", sorted(_pinned_messages()))
def test_pinned_bytes_can_be_read(kind: str) -> None:
    pinned = json.loads(GOLDEN.read_text())["messages"]
    message = _pinned_messages()[kind]

    assert decode_bytes(bytes.fromhex(pinned[kind]), type(message)) == message


def test_other_kind_than_expected_is_malformed() -> None:
    records = encode(HelloRequest(protocol_version=2))

    with pytest.raises(MalformedMessageError, match="hello_reply"):
        decode(records, HelloReply)


def test_either_of_two_kinds_can_be_expected() -> None:
    reply = decode(encode(Refusal(code=RefusalCode.BUSY)), ReleaseReply, Refusal)

    assert reply == Refusal(code=RefusalCode.BUSY)


def test_message_of_another_protocol_version_says_so() -> None:
    data = encode_bytes(HelloRequest(protocol_version=2))
    newer = data.replace(b'"version":2}', b'"version":3}')

    with pytest.raises(VersionMismatchError, match="protocol version 2, found 3"):
        decode_bytes(newer, HelloRequest)


def test_num_bytes_counts_what_was_sent() -> None:
    reply = _pinned_messages()["release_reply"]
    assert isinstance(reply, ReleaseReply)

    size = num_bytes(encode(reply))

    weights = len(reply.release.weights.to_bytes())
    assert weights < size <= len(encode_bytes(reply)) + 32


def test_flower_carries_the_weights_as_one_raw_array() -> None:
    reply = _pinned_messages()["release_reply"]
    assert isinstance(reply, ReleaseReply)

    (array,) = encode(reply).array_records["weights"].values()

    assert array.data == reply.release.weights.to_bytes()
    assert (array.dtype, array.stype) == ("uint8", "safetensors")


def test_a_release_without_its_weights_is_malformed() -> None:
    records = encode(_pinned_messages()["release_reply"])
    bare = RecordDict({"document": records["document"]})

    with pytest.raises(MalformedMessageError, match="weights"):
        decode(bare, ReleaseReply)


@pytest.mark.parametrize("spell", [str.upper, lambda text: text[:2] + " " + text[2:], lambda _: 7])
@pytest.mark.parametrize("field", ["signature", "public_key"])
def test_signature_and_key_have_one_spelling(field: str, spell: Callable[[str], object]) -> None:
    """Two spellings of one release would be two messages that mean the same."""
    records = encode(_pinned_messages()["release_reply"])
    document = json.loads(records.config_records["document"]["json"])  # type: ignore[arg-type]
    document["body"][field] = spell(document["body"][field])
    records["document"] = ConfigRecord({"json": dump_canonical(document)})

    with pytest.raises(MalformedMessageError, match="as hexadecimal text"):
        decode(records, ReleaseReply)


def test_starting_weights_that_the_request_does_not_name_are_malformed() -> None:
    data = encode_bytes(_pinned_messages()["warm_training_request"])
    other = AdapterWeights(tensors={"other": np.zeros(3, dtype=np.float32)}).to_bytes()
    named = make_tensors()
    swapped = data.removesuffix(AdapterWeights(tensors=named).to_bytes()) + other

    with pytest.raises(MalformedMessageError, match="starting weights that the request names"):
        decode_bytes(swapped, WarmTrainingRequest)


def test_a_request_of_another_version_can_be_written_for_tests_of_the_client() -> None:
    """The field is free, so that a client can be shown a version it does not speak."""
    request = replace(HelloRequest(protocol_version=2), protocol_version=3)

    assert decode(encode(request), HelloRequest).protocol_version == 3
