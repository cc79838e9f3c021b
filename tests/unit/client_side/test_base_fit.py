"""Settings that the base model cannot serve are refused before anybody has paid."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.app import answer_bytes
from client_side.budget import BudgetLedger
from client_side.checking import Verdict, check_client
from client_side.config import ClientConfig, LoraConfig, PreferencesConfig
from client_side.network import make_node_files
from client_side.request_checks import check_fit
from lm import sampling
from protocol.errors import ConfigurationError, RefusalCode
from protocol.ledger import ProxyKind
from protocol.messages import Refusal
from protocol.wire import decode_bytes, encode_bytes
from tests.support.clients import client_config, make_client, training_request


def misnamed_layers(config: ClientConfig) -> ClientConfig:
    lora = LoraConfig(rank=1, target_modules=["no_such_layer"])
    # Of the second training: its settings matter as soon as the first request pays for both.
    return replace(config, reward_proxy=replace(config.reward_proxy, lora=lora))


def too_high_a_rank(config: ClientConfig) -> ClientConfig:
    lora = LoraConfig(rank=5000, target_modules=["q_proj"])
    return replace(config, generator=replace(config.generator, lora=lora))


def too_long_texts(config: ClientConfig) -> ClientConfig:
    return replace(config, records=replace(config.records, max_response_tokens=1_000_000))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (misnamed_layers, "no_such_layer"),
        (too_high_a_rank, "rank"),
        (too_long_texts, "max_position_embeddings"),
    ],
)
def test_what_no_training_could_use_costs_nothing(
    spoil: Callable[[ClientConfig], ClientConfig], said: str, tiny_llama: Path, tmp_path: Path
) -> None:
    client = make_client(tmp_path / "client-1", spoil(client_config(tiny_llama)))
    request = encode_bytes(training_request(tiny_llama, ProxyKind.GENERATOR))

    reply = decode_bytes(answer_bytes("generator", request, folder=client.path), Refusal)

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    assert said in json.loads(client.status_file.read_text(encoding="utf-8"))["reason"]
    assert not BudgetLedger(client.ledger_folder).reservations()
    make_node_files(client)
    (finding,) = (f for f in check_client(client, offline=True) if f.name == "base model")
    assert said in finding.text


def test_an_engine_that_cannot_sample_here_costs_nothing(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is wanted by the second training, and the first request pays for both."""
    monkeypatch.setattr(sampling, "_openvino_obstacle", lambda *_: "it is not installed")
    config = client_config(tiny_llama)
    config = replace(config, preferences=replace(config.preferences, engine="openvino"))
    client = make_client(tmp_path / "client-1", config)
    request = encode_bytes(training_request(tiny_llama, ProxyKind.GENERATOR))

    reply = decode_bytes(answer_bytes("generator", request, folder=client.path), Refusal)

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    reason = json.loads(client.status_file.read_text(encoding="utf-8"))["reason"]
    assert "Use engine=transformers, or engine=auto" in reason
    assert not BudgetLedger(client.ledger_folder).reservations()


def test_an_engine_that_no_pair_needs_is_not_looked_for(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_openvino_obstacle", lambda *_: "it is not installed")
    damaged = PreferencesConfig(
        engine="openvino", chosen_over_generator=0.0, chosen_over_damaged=1.0
    )

    check_fit(tiny_llama, replace(client_config(tiny_llama), preferences=damaged))


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def forget_the_architecture(folder: Path) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")


def tear_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": ', encoding="utf-8")


def claim_more_layers(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    more = {**config, "num_hidden_layers": config["num_hidden_layers"] + 1}
    file.write_text(json.dumps(more), encoding="utf-8")


@pytest.mark.parametrize(
    "spoil", [cut_weights, forget_the_architecture, tear_the_tokenizer, claim_more_layers]
)
def test_a_base_model_that_cannot_be_used_costs_nothing(
    spoil: Callable[[Path], None], tiny_llama: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    spoil(base)
    client = make_client(tmp_path / "client-1", client_config(base))
    request = encode_bytes(training_request(base, ProxyKind.GENERATOR))

    reply = decode_bytes(answer_bytes("generator", request, folder=client.path), Refusal)

    assert reply == Refusal(code=RefusalCode.INTERNAL)
    assert not BudgetLedger(client.ledger_folder).reservations()
    make_node_files(client)
    (finding,) = (f for f in check_client(client, offline=True) if f.name == "base model")
    assert finding.verdict is Verdict.FAILED
    assert str(base) in finding.text


@pytest.mark.parametrize("value", [0.0, 1e30, float("nan"), float("inf")])
def test_a_clip_or_a_step_size_of_no_use_is_refused(value: float) -> None:
    generator = ClientConfig().generator

    for name in ("max_grad_norm", "learning_rate"):
        with pytest.raises(ConfigurationError, match=rf"{name} to be a number in \(0, 10\^6\]"):
            replace(generator, **{name: value})  # type: ignore[arg-type]


def test_an_absurd_number_of_threads_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"client_side\.num_threads to be a whole number from 1"
    ):
        replace(ClientConfig(), num_threads=10**12)
