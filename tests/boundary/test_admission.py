"""Gate 4: each check of admission by itself, in their order, with the code that is its own.

`test_hostile_client.py` sends attacks through the whole exchange, and `test_certificate_fields.py`
tampers with every field that a certificate has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from lm.errors import ModelFolderError
from protocol import PROTOCOL_VERSION
from protocol.accounting import MIN_DELTA
from protocol.artifacts import AdapterWeights, Certificate, LoraShape, sign_release
from protocol.errors import (
    AdmissionCode,
    AdmissionError,
    ConfigurationError,
    ProtocolError,
    RefusalCode,
    RefusedError,
)
from protocol.ledger import DpSgdEvent, ProxyKind
from protocol.messages import Refusal, ReleaseReply
from protocol.wire import encode, encode_bytes
from server_side import admission_checks
from server_side.admission import (
    AdmissionPolicy,
    AdmittedRelease,
    admission_code,
    admit,
)
from tests.support.releases import (
    BASE_MODEL_DIGEST,
    LORA,
    OTHER_KEY,
    PUBLIC_KEY,
    RUN_ID,
    SIGNING_KEY,
    expected_shapes,
    make_events,
    make_ledger,
    make_reply,
    make_tensors,
)

POLICY = AdmissionPolicy(
    run_id=RUN_ID,
    base_model_digest=BASE_MODEL_DIGEST,
    max_epsilon=8.0,
    max_delta=1e-5,
    allowed_public_keys=(PUBLIC_KEY,),
)
ANY_KEY = replace(POLICY, allowed_public_keys=None)
A = "layers.0.q_proj.lora_A.weight"


def enter(reply: ReleaseReply | bytes | RecordDict, **others: Any) -> AdmittedRelease:
    content = encode(reply) if isinstance(reply, ReleaseReply) else reply
    return admit(content, **{"policy": POLICY, "expected_shapes": expected_shapes, **others})


def forged(
    change: Callable[[Certificate], Certificate] = lambda certificate: certificate,
    *,
    tensors: dict[str, Any] | None = None,
    signing_key: Ed25519PrivateKey = SIGNING_KEY,
    proxy: ProxyKind = ProxyKind.GENERATOR,
) -> ReleaseReply:
    """Sign whatever a hostile client with a known key would like to state."""
    weights = AdapterWeights(tensors=make_tensors(proxy) if tensors is None else tensors)
    certificate = replace(
        make_reply(proxy=proxy).release.certificate, weights_digest=weights.digest()
    )
    release = sign_release(change(certificate), weights=weights, signing_key=signing_key)
    return ReleaseReply(release=release)


def with_ledger(**others: Any) -> ReleaseReply:
    return forged(lambda certificate: replace(certificate, privacy=make_ledger(**others)))


def refusal_of(reply: ReleaseReply | bytes | RecordDict, **others: Any) -> AdmissionCode:
    with pytest.raises((AdmissionError, ProtocolError)) as caught:
        enter(reply, **others)
    assert isinstance(caught.value, (AdmissionError, ProtocolError))
    message = str(caught.value)
    assert "Expected" in message
    assert message.endswith(".")
    return admission_code(caught.value)


@pytest.mark.parametrize("proxy", list(ProxyKind))
def test_genuine_release_is_admitted_with_the_epsilon_computed_here(proxy: ProxyKind) -> None:
    admitted = enter(make_reply(proxy=proxy), proxy=proxy, client_name="clinic-a")

    assert admitted.epsilon == make_ledger().epsilon
    assert admitted.client_name == "clinic-a"
    assert admitted.proxy is proxy
    assert admitted.lora == LORA
    assert admitted.instruction == "Answer the message."
    assert admitted.weights.keys() == make_tensors(proxy).keys()


def test_bytes_are_admitted_like_records() -> None:
    reply = make_reply()

    assert enter(encode_bytes(reply)).release == enter(reply).release


# One test for each way of tampering, in the order of the checks.


def test_refuses_more_bytes_than_allowed_before_reading_them() -> None:
    garbage = RecordDict({"x": ConfigRecord({"y": b"\x00" * 2000})})

    assert refusal_of(garbage, policy=replace(POLICY, max_release_bytes=1000)) == "oversize"


def test_refuses_a_numpy_array_in_place_of_safetensors() -> None:
    records = encode(make_reply())
    records["weights"] = ArrayRecord({"safetensors": Array(np.zeros(4, dtype=np.uint8))})

    assert refusal_of(records) == "malformed"


def test_refuses_an_additional_record_beside_the_release() -> None:
    records = encode(make_reply())
    records["metrics"] = MetricRecord({"loss": 3.2})

    assert refusal_of(records) == "malformed"


def test_refuses_another_protocol_version() -> None:
    ours = f'"version":{PROTOCOL_VERSION}}}'.encode()
    data = encode_bytes(make_reply()).replace(ours, b'"version":9}')

    assert refusal_of(data) == "version"


def test_passes_on_the_refusal_of_a_client() -> None:
    with pytest.raises(RefusedError) as caught:
        enter(encode(Refusal(code=RefusalCode.BUDGET_EXCEEDED)))

    assert caught.value.code is RefusalCode.BUDGET_EXCEEDED


def test_refuses_an_unknown_key() -> None:
    assert refusal_of(make_reply(signing_key=OTHER_KEY)) == "unknown_key"


def test_refuses_a_certificate_changed_after_signing() -> None:
    release = make_reply().release
    changed = replace(release, certificate=replace(release.certificate, declared_size=10**6))

    assert refusal_of(ReleaseReply(release=changed)) == "signature"


def test_refuses_a_signature_of_another_key_under_a_known_name() -> None:
    release = make_reply().release
    other = make_reply(signing_key=OTHER_KEY).release

    assert refusal_of(ReleaseReply(release=replace(other, public_key=release.public_key))) == (
        "signature"
    )


def test_refuses_a_release_of_another_run() -> None:
    assert refusal_of(make_reply(run_id="run-0")) == "run"


def test_refuses_a_release_in_another_clients_name() -> None:
    assert refusal_of(make_reply(client_name="clinic-b"), client_name="clinic-a") == "client"


def test_refuses_the_other_proxy_than_the_one_asked_for() -> None:
    assert refusal_of(make_reply(), proxy=ProxyKind.REWARD) == "proxy"


def test_refuses_a_replay_of_what_was_admitted() -> None:
    first = enter(make_reply())

    assert refusal_of(make_reply(), admitted=[first]) == "replay"


def test_refuses_a_known_name_under_a_second_key() -> None:
    first = enter(make_reply())
    second = make_reply(proxy=ProxyKind.REWARD, signing_key=OTHER_KEY)

    assert refusal_of(second, admitted=[first], policy=ANY_KEY) == "client"
    with pytest.raises(AdmissionError, match=r"key of its generator release.*old signing_key back"):
        enter(second, admitted=[first], policy=ANY_KEY)


def test_refuses_a_known_key_under_a_second_name() -> None:
    first = enter(make_reply())
    second = make_reply(client_name="clinic-b")

    assert refusal_of(second, admitted=[first]) == "client"


def test_admits_both_proxies_of_one_client_and_then_another_with_a_ledger_of_its_own() -> None:
    first = enter(make_reply())
    second = enter(make_reply(proxy=ProxyKind.REWARD), admitted=[first])
    # Other records, so other events: a ledger goes on with the same client's alone.
    other = make_ledger([replace(event, steps=11) for event in make_events()])
    third = enter(
        make_reply(client_name="clinic-b", signing_key=OTHER_KEY, ledger=other),
        admitted=[first, second],
        policy=ANY_KEY,
    )

    names = [item.client_name for item in (first, second, third)]
    assert names == ["clinic-a", "clinic-a", "clinic-b"]


def test_refuses_another_base_model() -> None:
    assert refusal_of(make_reply(base_model_digest="ef" * 32)) == "base_model"


def test_refuses_code_that_is_not_listed() -> None:
    policy = replace(POLICY, allowed_code_digests=("12" * 32,))

    assert refusal_of(make_reply(), policy=policy) == "code"


def test_refuses_a_ledger_without_an_event_for_the_proxy() -> None:
    only_reward = [event for event in make_events() if event.proxy is ProxyKind.REWARD]

    assert refusal_of(with_ledger(events=only_reward)) == "unaccounted"


def no_noise() -> list[DpSgdEvent]:
    return [DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=0.0, sample_rate=0.1, steps=1)]


def test_refuses_a_release_without_privacy() -> None:
    assert refusal_of(with_ledger(events=no_noise())) == "not_private"


def test_admits_a_release_without_privacy_only_with_a_warning_in_so_many_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = replace(POLICY, accept_unsafe_non_private=True)

    with caplog.at_level(logging.WARNING):
        admitted = enter(with_ledger(events=no_noise()), policy=policy)

    assert admitted.epsilon == float("inf")
    assert "without any privacy" in caplog.text


def test_refuses_noise_from_a_fixed_seed() -> None:
    assert refusal_of(with_ledger(reproducible_noise=True)) == "reproducible_noise"


def test_admits_noise_from_a_fixed_seed_where_told_so() -> None:
    policy = replace(POLICY, accept_reproducible_noise=True)

    assert enter(with_ledger(reproducible_noise=True), policy=policy).epsilon > 0


def test_refuses_delta_above_the_limit() -> None:
    assert refusal_of(with_ledger(delta=1e-3)) == "delta"


def test_refuses_a_delta_too_small_for_anybody_to_check_the_claim() -> None:
    assert refusal_of(with_ledger(delta=0.99 * MIN_DELTA, epsilon=1.0)) == "delta"


def test_refuses_epsilon_above_the_limit() -> None:
    assert refusal_of(make_reply(), policy=replace(POLICY, max_epsilon=0.5)) == "epsilon"


def test_refuses_a_missing_tensor() -> None:
    tensors = make_tensors()
    del tensors[A]

    assert refusal_of(forged(tensors=tensors)) == "tensor_names"


def test_refuses_an_additional_tensor() -> None:
    tensors = {**make_tensors(), "embed_tokens.weight": np.zeros(2, dtype=np.float32)}

    assert refusal_of(forged(tensors=tensors)) == "tensor_names"


def test_refuses_a_renamed_tensor() -> None:
    tensors: dict[str, Any] = make_tensors()
    tensors["../" + A] = tensors.pop(A)

    assert refusal_of(forged(tensors=tensors)) == "tensor_names"


def test_refuses_a_reward_proxy_without_its_head() -> None:
    assert refusal_of(forged(tensors=make_tensors(), proxy=ProxyKind.REWARD)) == "tensor_names"


def test_refuses_a_tensor_of_another_shape() -> None:
    tensors = {**make_tensors(), A: np.zeros((4, 1), dtype=np.float32)}

    assert refusal_of(forged(tensors=tensors)) == "tensor_shapes"


def test_refuses_weights_that_belong_to_another_rank_than_stated() -> None:
    reply = forged(lambda certificate: replace(certificate, lora=replace(LORA, rank=2)))

    assert refusal_of(reply) == "tensor_shapes"


def test_refuses_an_adapter_for_layers_that_the_base_model_lacks() -> None:
    def no_such_layer(lora: LoraShape, has_reward_head: bool) -> dict[str, tuple[int, ...]]:
        raise ModelFolderError("Expected a layer named q_proj, found none. Check target_modules.")

    assert refusal_of(make_reply(), expected_shapes=no_such_layer) == "tensor_names"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_refuses_values_that_are_not_finite(value: float) -> None:
    tensors = make_tensors()
    tensors[A][0, 0] = value

    assert refusal_of(forged(tensors=tensors)) == "not_finite"


def test_refuses_weights_that_were_not_signed() -> None:
    release = make_reply().release
    swapped = {name: -tensor for name, tensor in make_tensors().items()}

    reply = ReleaseReply(release=replace(release, weights=AdapterWeights(tensors=swapped)))
    assert refusal_of(reply) == "weights_digest"


@pytest.mark.parametrize("factor", [0.5, 0.999, 1.5])
def test_refuses_an_epsilon_that_does_not_follow_from_the_events(factor: float) -> None:
    truth = make_ledger().epsilon

    assert refusal_of(with_ledger(epsilon=truth * factor)) == "arithmetic"


def test_refuses_a_ledger_that_hides_a_missing_noise_behind_a_finite_claim() -> None:
    assert refusal_of(with_ledger(events=no_noise(), epsilon=1.0)) == "arithmetic"


@pytest.mark.parametrize("error", [OverflowError, ConfigurationError, MemoryError])
def test_refuses_a_ledger_on_which_the_accountant_fails(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Numbers that a hostile client chose may meet any error of a library."""
    reply = make_reply()

    def fail(*_: object, **__: object) -> float:
        raise error("out of range")

    monkeypatch.setattr(admission_checks, "composed_epsilon", fail)

    assert refusal_of(reply) == "arithmetic"


@pytest.mark.parametrize(
    ("sent", "stated"), [("ab" * 32, "cd" * 32), ("ab" * 32, None), (None, "ab" * 32)]
)
def test_refuses_a_start_other_than_the_one_that_was_sent(
    sent: str | None, stated: str | None
) -> None:
    digests = {"clinic-a.generator": sent} if sent else {}

    reply = make_reply(start_digest=stated)

    assert refusal_of(reply, policy=replace(POLICY, start_digests=digests)) == "start"


def test_admits_the_start_that_was_sent_to_this_client_for_this_proxy() -> None:
    start = "ab" * 32
    policy = replace(POLICY, start_digests={"clinic-a.generator": start})

    assert enter(make_reply(start_digest=start), policy=policy).certificate.start_digest == start
    # Nothing was sent for the other proxy.
    reward = make_reply(proxy=ProxyKind.REWARD, start_digest=start)
    assert refusal_of(reward, policy=policy) == "start"


def test_every_code_has_a_test_above() -> None:
    source = Path(__file__).read_text()

    missing = [code.value for code in AdmissionCode if f'"{code.value}"' not in source]
    assert missing == []
