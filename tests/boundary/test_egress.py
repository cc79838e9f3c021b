"""Gate 3: the only way out lets out what was asked for, paid for and finite, and nothing else."""

from __future__ import annotations

import math
import stat
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_side.egress import load_signing_key
from protocol.artifacts import SECONDS_PER_DAY, Certificate
from protocol.errors import AdmissionCode, UnaccountedReleaseError, UnexpectedTensorError
from protocol.ledger import DpSgdEvent, ProxyKind
from protocol.wire import encode, encode_bytes
from tests.support.releases import (
    PUBLIC_KEY,
    make_events,
    make_ledger,
    make_reply,
    make_tensors,
)

A = "layers.0.q_proj.lora_A.weight"


def test_reply_states_the_whole_ledger_and_is_signed() -> None:
    release = make_reply().release

    release.verify_signature()
    assert release.certificate.privacy == make_ledger()
    assert release.certificate.weights_digest == release.weights.digest()
    assert release.public_key.hex() == PUBLIC_KEY


def test_certificate_has_exactly_the_fields_of_the_allow_list() -> None:
    """A new field is a new release: it needs an event that pays, or a proof that it is public."""
    assert {field.name for field in fields(Certificate)} == {
        "base_model_digest",
        "client_name",
        "code_digest",
        "created_at",
        "declared_size",
        "has_reward_head",
        "instruction",
        "lora",
        "max_prompt_tokens",
        "max_response_tokens",
        "privacy",
        "protocol_version",
        "proxy",
        "run_id",
        "software_version",
        "start_digest",  # names bytes that the server sent before any record was read
        "weights_digest",
    }


def test_reply_tells_the_day_and_not_the_time() -> None:
    created_at = make_reply().release.certificate.created_at

    assert created_at % SECONDS_PER_DAY == 0
    assert 0 <= time.time() - created_at < 2 * SECONDS_PER_DAY


def test_size_of_a_reply_does_not_depend_on_the_values_of_the_weights() -> None:
    zeros = {name: np.zeros_like(tensor) for name, tensor in make_tensors().items()}

    assert len(encode_bytes(make_reply())) == len(encode_bytes(make_reply(tensors=zeros)))


def test_flower_records_hold_the_two_known_names_only() -> None:
    records = encode(make_reply())

    assert {name: set(record) for name, record in records.items()} == {
        "document": {"json"},
        "weights": {"safetensors"},
    }


def test_nothing_leaves_without_an_event_for_its_proxy() -> None:
    only_reward = [event for event in make_events() if event.proxy is ProxyKind.REWARD]

    with pytest.raises(UnaccountedReleaseError, match="generator"):
        make_reply(ledger=make_ledger(only_reward))


@pytest.mark.parametrize(
    "claim",
    [
        lambda _: 0.1,
        lambda _: make_ledger(make_events()[:1]).epsilon,
        lambda _: make_ledger(make_events()[1:]).epsilon,
        lambda truth: truth * 0.999,
    ],
    ids=["made up", "the first proxy alone", "the second proxy alone", "a little too low"],
)
@pytest.mark.parametrize("proxy", ProxyKind)
def test_nothing_leaves_with_an_epsilon_below_that_of_the_whole_ledger(
    claim: Callable[[float], float], proxy: ProxyKind
) -> None:
    understated = make_ledger(epsilon=claim(make_ledger().epsilon))

    with pytest.raises(UnaccountedReleaseError, match="too low"):
        make_reply(proxy=proxy, ledger=understated)


def test_training_without_noise_leaves_only_with_an_infinite_epsilon() -> None:
    naked = [DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=0.0, sample_rate=0.1, steps=1)]

    honest = make_reply(ledger=make_ledger(naked)).release
    with pytest.raises(UnaccountedReleaseError):
        make_reply(ledger=make_ledger(naked, epsilon=8.0))

    assert math.isinf(honest.certificate.privacy.epsilon)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_stay_home(value: float) -> None:
    tensors = make_tensors()
    tensors[A][0, 0] = value

    with pytest.raises(UnexpectedTensorError, match=r"diverged\. Lower .*learning_rate") as caught:
        make_reply(tensors=tensors)

    assert caught.value.code is AdmissionCode.NOT_FINITE


def test_an_additional_tensor_stays_home() -> None:
    tensors = {**make_tensors(), "optimizer.state": np.zeros(3, dtype=np.float32)}

    with pytest.raises(UnexpectedTensorError, match=r"optimizer\.state"):
        make_reply(tensors=tensors)


def test_a_missing_tensor_is_an_error() -> None:
    tensors = make_tensors()
    del tensors[A]

    with pytest.raises(UnexpectedTensorError):
        make_reply(tensors=tensors)


@pytest.mark.parametrize(
    "odd",
    [
        np.zeros((4, 1), dtype=np.float32),
        np.zeros((1, 4), dtype=np.float64),
        np.zeros((1, 4), dtype=np.int32),
        np.array([["a", "b", "c", "d"]], dtype=object),
    ],
    ids=["shape", "float64", "int32", "object"],
)
def test_a_tensor_of_another_shape_or_type_stays_home(odd: Any) -> None:
    with pytest.raises(UnexpectedTensorError):
        make_reply(tensors={**make_tensors(), A: odd})


def test_reward_proxy_leaves_with_its_head() -> None:
    release = make_reply(proxy=ProxyKind.REWARD).release

    assert release.certificate.has_reward_head
    assert "reward_head.weight" in release.weights.tensors


def test_signing_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = load_signing_key(tmp_path / "client")
    again = load_signing_key(tmp_path / "client")

    path = tmp_path / "client" / "signing_key"
    assert first.private_bytes_raw() == again.private_bytes_raw()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
