"""From the server's settings to what admission is told, and who is asked to train."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lm.model_folders import base_model_digest
from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.artifacts import AdapterWeights
from protocol.errors import ConfigurationError, ExchangeError
from protocol.ledger import PrivacyUnit, ProxyKind
from protocol.messages import HelloReply, Refusal, Request, TrainingRequest
from server_side.config import AdmissionConfig, ServerConfig, SynthesisConfig
from server_side.exchange.admission_terms import admission_terms
from server_side.exchange.collecting import Content, Waiting, collect
from server_side.exchange.outcome import outcomes_of, read_outcome
from server_side.exchange.starts import STARTS, sent_digests, strayed_clients
from tests.support.clients import server_config, training_request
from tests.support.hostile import Exchange, with_ledger
from tests.support.releases import make_events, make_ledger

HELLO = {
    "protocol_version": PROTOCOL_VERSION,
    "software_version": SOFTWARE_VERSION,
    "client_name": "ward",
    "public_key": "a" * 64,
    "base_model_digest": "b" * 64,
    "declared_size": 10,
    "privacy_unit": PrivacyUnit.RECORD,
}


def test_every_admission_setting_reaches_the_policy(tiny_llama: Path) -> None:
    """A setting that is read and then forgotten would let in what the operator forbade."""
    chosen = AdmissionConfig(
        max_epsilon=3.0,
        max_delta=1e-6,
        allowed_public_keys=["ab" * 32],
        allowed_code_digests=["cd" * 32],
        accept_reproducible_noise=True,
        accept_unsafe_non_private=True,
        max_release_bytes=12345,
    )
    config = replace(ServerConfig(), base_model=str(tiny_llama), admission=chosen)

    policy, _ = admission_terms(config, run_id="run")

    for field in fields(AdmissionConfig):
        value = getattr(chosen, field.name)
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(policy, field.name) == expected, field.name


class OneClient:
    """A channel to one client, which must not be asked to train."""

    def __init__(self, **hello: Any) -> None:
        self._hello = HELLO | hello

    def clients(self) -> Mapping[int, str | None]:
        return {1: None}

    def ask(
        self, action: str, requests: Mapping[int, Request], *, timeout_seconds: float
    ) -> Mapping[int, Content]:
        assert action == "hello", "it must not be asked to train"
        return dict.fromkeys(requests, b"hello")

    def read_hello(self, content: Content) -> HelloReply | Refusal:
        return HelloReply(**self._hello)


def test_a_client_of_another_version_is_not_asked_to_train(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(ServerConfig(), base_model=str(tiny_llama))
    channel = OneClient(software_version="9.9.9")

    with pytest.raises(ExchangeError, match=r"ward \(hello not admitted: version\)"):
        collect(channel, config=config, run_id="run", run_folder=tmp_path, waiting=Waiting())
    assert f"to run RewardDS {SOFTWARE_VERSION}, as this server does, found 9.9.9" in caplog.text


def test_nobody_is_asked_before_min_clients_are_there(tiny_llama: Path, tmp_path: Path) -> None:
    """Also where the exchange waits for fewer: it could only fail, after they have paid."""
    config = replace(ServerConfig(), base_model=str(tiny_llama), min_clients=2)
    waiting = Waiting(num_clients=1, wait_seconds=0.0)

    with pytest.raises(ExchangeError, match=r"Expected 2 clients within 0 s, found 1"):
        collect(OneClient(), config=config, run_id="run", run_folder=tmp_path, waiting=waiting)


def test_whoever_came_is_asked_where_there_are_min_clients_and_no_more_come(
    tiny_llama: Path, tmp_path: Path
) -> None:
    config = replace(ServerConfig(), base_model=str(tiny_llama), min_clients=1)
    waiting = Waiting(num_clients=2, wait_seconds=0.0, poll_seconds=0.01)
    channel = OneClient(software_version="9.9.9")

    # Only its answer to hello tells the version.
    with pytest.raises(ExchangeError, match=r"ward \(hello not admitted: version\)"):
        collect(channel, config=config, run_id="run", run_folder=tmp_path, waiting=waiting)


def test_the_outcome_states_what_a_client_spent_in_all(tiny_llama: Path, tmp_path: Path) -> None:
    """A ledger lists a lifetime, so the last release's ε is that of both proxies."""
    exchange = Exchange(config=server_config(tiny_llama), folder=tmp_path)
    exchange.attacks["generator"] = with_ledger(events=make_events()[:1])

    exchange.meet()

    outcome = read_outcome(tmp_path)
    assert outcome is not None
    in_all = make_ledger().epsilon
    assert [client.epsilon for client in outcomes_of(outcome)] == [in_all, in_all]


def test_a_client_whose_generator_would_write_nothing_by_oversight_is_not_asked_to_train(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """Such as one whose name has a typo in the weights: it would pay its full ε."""
    synthesis = SynthesisConfig(client_weights={"wrad": 2.0})
    config = replace(ServerConfig(), base_model=str(tiny_llama), synthesis=synthesis)
    channel = OneClient(base_model_digest=base_model_digest(tiny_llama))

    with pytest.raises(ConfigurationError, match=r"a weight for wrad and none for ward"):
        collect(channel, config=config, run_id="run", run_folder=tmp_path, waiting=Waiting())

    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert "none for ward" in str(outcome["error"])


def test_a_client_is_not_asked_to_train_otherwise_than_from_the_weights_that_are_kept(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as after warm_start.path was set to null: its release could not be admitted."""
    (tmp_path / STARTS).mkdir()
    weights = AdapterWeights(tensors={"a": np.zeros((1, 1), np.float32)})
    (tmp_path / STARTS / "ward.generator.safetensors").write_bytes(weights.to_bytes())
    config = replace(ServerConfig(), base_model=str(tiny_llama))
    channel = OneClient(base_model_digest=base_model_digest(tiny_llama))

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ExchangeError, match=r"generator not admitted: start"),
    ):
        collect(channel, config=config, run_id="run", run_folder=tmp_path, waiting=Waiting())

    assert "ward is not asked: it was sent the weights in" in caplog.text
    assert "a fresh adapter" in caplog.text


def test_weights_that_are_kept_hold_for_their_own_client_and_proxy_alone(
    tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / STARTS).mkdir()
    weights = AdapterWeights(tensors={"a": np.zeros((1, 1), np.float32)})
    (tmp_path / STARTS / "ward.generator.safetensors").write_bytes(weights.to_bytes())
    fresh = training_request(tiny_llama, ProxyKind.GENERATOR)
    warm = replace(fresh, start_digest=weights.digest())

    def strayed(proxy: ProxyKind, **requests: TrainingRequest) -> frozenset[str]:
        sent = {"ward.generator": weights.digest()}
        assert sent_digests(tmp_path) == sent
        return strayed_clients(sent, requests, proxy=proxy, run_folder=tmp_path)

    assert strayed(ProxyKind.GENERATOR, ward=warm, clinic=fresh) == frozenset()
    assert strayed(ProxyKind.REWARD, ward=fresh) == frozenset()
    assert strayed(ProxyKind.GENERATOR, ward=fresh, clinic=fresh) == {"ward"}
    assert strayed(ProxyKind.GENERATOR, ward=replace(fresh, start_digest="0" * 64)) == {"ward"}
