"""From the server's settings to what admission is told, and who is asked to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest

from protocol import PROTOCOL_VERSION, SOFTWARE_VERSION
from protocol.errors import ExchangeError
from protocol.ledger import PrivacyUnit
from protocol.messages import HelloReply, HelloRequest, Refusal, TrainingRequest
from server_side.config import AdmissionConfig, ServerConfig
from server_side.exchange.admission_terms import admission_terms
from server_side.exchange.collecting import Content, Waiting, collect


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


class OtherVersion:
    """A channel to one client that runs another version."""

    def clients(self) -> Mapping[int, str | None]:
        return {1: None}

    def ask(
        self,
        action: str,
        requests: Mapping[int, HelloRequest | TrainingRequest],
        *,
        timeout_seconds: float,
    ) -> Mapping[int, Content]:
        assert action == "hello", "it must not be asked to train"
        return dict.fromkeys(requests, b"hello")

    def read_hello(self, content: Content) -> HelloReply | Refusal:
        return HelloReply(
            protocol_version=PROTOCOL_VERSION,
            software_version="9.9.9",
            client_name="ward",
            public_key="a" * 64,
            base_model_digest="b" * 64,
            declared_size=10,
            privacy_unit=PrivacyUnit.RECORD,
        )


def test_a_client_of_another_version_is_not_asked_to_train(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(ServerConfig(), base_model=str(tiny_llama))

    with pytest.raises(ExchangeError, match=r"ward \(hello not admitted: version\)"):
        collect(OtherVersion(), config=config, run_id="run", run_folder=tmp_path, waiting=Waiting())
    assert f"to run RewardDS {SOFTWARE_VERSION}, as this server does, found 9.9.9" in caplog.text
