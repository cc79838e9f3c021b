"""Stage 0 through the whole exchange: tuned on public text, sent, started from, admitted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from client_side.app import answer_bytes
from client_side.config import WarmStartConfig as TakingConfig
from client_side.folder import ClientFolder
from lm.errors import TableError
from lm.settings import to_settings
from protocol.artifacts import AdapterWeights
from protocol.errors import AdmissionCode, AdmissionError, ConfigurationError
from protocol.ledger import ProxyKind
from server_side.admission import AdmittedRelease
from server_side.app import BytesChannel
from server_side.config import EvaluationConfig, ServerConfig, WarmStartConfig
from server_side.exchange.collecting import Waiting, collect, load_collected
from server_side.exchange.starts import STARTS, sent_digests, start_counts
from simulations.audit.auditing import Audited, attack_weights
from simulations.audit.config import AuditConfig
from simulations.audit.judging import AttackScores
from simulations.audit.run import audit
from simulations.command_line import CONF
from tests.support.clients import client_config, make_client, server_config

pytestmark = pytest.mark.integration


@pytest.fixture
def server(tmp_path: Path, tiny_llama: Path) -> ServerConfig:
    rows = [{"prompt": f"ask {n}", "response": f"Rest and drink, case {n}."} for n in range(30)]
    public = tmp_path / "public.jsonl"
    public.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    warm_start = WarmStartConfig(
        path=str(public), steps=4, batch_size=4, max_response_tokens=16, engine="transformers"
    )
    tests = tmp_path / "test.jsonl"
    tests.write_text(json.dumps({"prompt": "ask 7", "response": "Rest."}) + "\n", encoding="utf-8")
    evaluation = EvaluationConfig(path=str(tests))
    return replace(server_config(tiny_llama), warm_start=warm_start, evaluation=evaluation)


@pytest.fixture
def clients(tmp_path: Path, tiny_llama: Path) -> tuple[ClientFolder, ClientFolder]:
    """One that takes starting weights, and one that does not."""
    taker = replace(client_config(tiny_llama, name="taker"), warm_start=TakingConfig(accept=True))
    other = client_config(tiny_llama, name="other")
    return make_client(tmp_path / "taker", taker), make_client(tmp_path / "other", other)


def run(
    server: ServerConfig, clients: tuple[ClientFolder, ClientFolder], folder: Path
) -> tuple[AdmittedRelease, ...]:
    channel = BytesChannel(
        {n: partial(answer_bytes, folder=client.path) for n, client in enumerate(clients)}
    )
    return collect(
        channel, config=server, run_id="run-1", run_folder=folder, waiting=Waiting(num_clients=2)
    )


def test_those_who_take_a_start_state_it_and_the_rest_start_fresh(
    server: ServerConfig, clients: tuple[ClientFolder, ClientFolder], tmp_path: Path
) -> None:
    folder = tmp_path / "server"

    admitted = run(server, clients, folder)

    stated = {
        f"{item.client_name}.{item.proxy.value}": item.certificate.start_digest for item in admitted
    }
    assert sent_digests(folder).keys() == {"taker.generator", "taker.reward"}
    assert stated == {
        **sent_digests(folder),
        "other.generator": None,
        "other.reward": None,
    }
    again = load_collected(server, run_id="run-1", run_folder=folder)
    assert len(again) == 4
    counts = start_counts(folder)["00_warm_start"]
    assert (counts["num_rows"], counts["num_in_test_set"], counts["num_kept"]) == (30, 1, 29)

    # A release that started elsewhere than the run folder says does not pass a second time.
    file = folder / STARTS / "taker.generator.safetensors"
    weights = AdapterWeights.from_bytes(file.read_bytes())
    moved = {name: tensor + 1 for name, tensor in weights.tensors.items()}
    file.write_bytes(AdapterWeights(tensors=moved).to_bytes())
    with pytest.raises(AdmissionError) as caught:
        load_collected(server, run_id="run-1", run_folder=folder)
    assert caught.value.code is AdmissionCode.START


def test_an_exchange_that_starts_anew_sends_what_it_sent_before(
    server: ServerConfig, clients: tuple[ClientFolder, ClientFolder], tmp_path: Path
) -> None:
    """The client then answers from its store; another start would be paid for again."""
    folder = tmp_path / "server"
    run(server, clients, folder)
    before = sent_digests(folder)
    for file in (folder / "releases").glob("taker.*"):
        file.unlink()

    with pytest.raises(ConfigurationError, match=r"found another warm_start\.steps"):
        run(replace(server, warm_start=replace(server.warm_start, steps=9)), clients, folder)
    again = run(server, clients, folder)

    assert sent_digests(folder) == before
    assert {item.proxy for item in again if item.client_name == "taker"} == set(ProxyKind)
    assert {item.epsilon for item in again if item.client_name == "taker"} == {
        item.epsilon for item in again if item.client_name == "other"
    }


def test_public_text_that_is_not_there_ends_the_exchange_before_anybody_trains(
    server: ServerConfig, clients: tuple[ClientFolder, ClientFolder], tmp_path: Path
) -> None:
    (tmp_path / "server").mkdir()
    missing = replace(server, warm_start=replace(server.warm_start, path=str(tmp_path / "no.csv")))

    with pytest.raises(TableError, match=r"no\.csv"):
        run(missing, clients, tmp_path / "server")

    assert not list((clients[0].ledger_folder).rglob("*.release"))


def test_an_audit_knows_the_public_start_that_its_client_was_sent(
    server: ServerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attacked = []

    def attack(audited: Audited, **rest: Any) -> Iterator[AttackScores]:
        attacked.append(audited)
        return attack_weights(audited, **rest)

    monkeypatch.setattr("simulations.audit.auditing.attack_weights", attack)
    words = ["audit=smoke", "num_canaries=8", "num_records=120", "attack_text=false"]
    words += ["client_side.generator.steps=1", "client_side.reward_proxy.steps=1"]
    words += [
        "client_side.warm_start.accept=true",
        f"server_side.warm_start.path={tmp_path}/public.jsonl",
    ]
    words += ["server_side.warm_start.steps=2", "server_side.warm_start.engine=transformers"]
    with initialize_config_dir(str(CONF), version_base=None):
        config = to_settings(AuditConfig, compose("audit", overrides=words))
    (tmp_path / "audit").mkdir()

    audit(config, tmp_path / "audit")

    (audited,) = attacked
    assert {
        proxy: AdapterWeights(tensors=dict(start)).digest()
        for proxy, start in audited.starts.items()
    } == {proxy: item.certificate.start_digest for proxy, item in audited.released.items()}
    assert audited.starts.keys() == set(ProxyKind)
