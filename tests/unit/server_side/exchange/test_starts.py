"""Starts of `rewardds-server` that are refused, and what a start leaves behind."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lm.settings import save_settings
from protocol.bundle import sources_digest
from protocol.introductions import Introduction
from server_side.config import (
    EvaluationConfig,
    FinetuningConfig,
    JudgeConfig,
    ServerConfig,
    SynthesisConfig,
    WarmStartConfig,
)
from server_side.exchange.clients import allow_client
from server_side.exchange.folder import ServerFolder
from server_side.exchange.gateway import run_gateway
from server_side.node import main
from server_side.provenance import read_provenance
from tests.support.server_jobs import make_config, write_test_rows


@pytest.fixture
def folder(tmp_path: Path) -> ServerFolder:
    main(["init", str(tmp_path / "server"), "--host", "server.test"])
    return ServerFolder(path=tmp_path / "server")


@pytest.fixture
def able(folder: ServerFolder, tmp_path: Path, tiny_model: Path) -> ServerFolder:
    """A folder whose long work could begin, were there any releases."""
    config = make_config(tiny_model, write_test_rows(tmp_path / "test.jsonl"))
    save_settings(config, folder.settings_file)
    return folder


def test_collect_wants_enough_allowed_clients(folder: ServerFolder) -> None:
    with pytest.raises(SystemExit, match="Expected at least 1 allowed clients, found 0"):
        main(["collect", str(folder.path)])


def test_collect_wants_min_clients_also_where_it_waits_for_fewer(folder: ServerFolder) -> None:
    """An exchange of fewer must fail, after they have trained and paid."""
    save_settings(replace(folder.load_config(), min_clients=3), folder.settings_file)
    save_settings(replace(folder.load_network(), num_clients=2), folder.network_file)

    with pytest.raises(SystemExit, match="Expected at least 3 allowed clients, found 0"):
        main(["collect", str(folder.path)])


def test_collect_wants_a_weight_for_every_allowed_client_where_some_have_one(
    folder: ServerFolder,
) -> None:
    """Whoever is not named would pay for prompts that its generator never writes."""
    public = ec.generate_private_key(ec.SECP384R1()).public_key()
    line = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    introduction = Introduction(client_name="ward", node_key=line, signing_key="a" * 64)
    allow_client(folder.clients_folder, introduction)
    synthesis = SynthesisConfig(client_weights={"wrad": 1.0})
    save_settings(replace(folder.load_config(), synthesis=synthesis), folder.settings_file)

    with pytest.raises(SystemExit, match="a weight for wrad and none for ward"):
        main(["collect", str(folder.path)])

    assert not folder.logs_folder.exists()


@pytest.mark.parametrize("listen", ["203.0.113.1", "a..b"])
def test_collect_refuses_an_address_that_this_machine_does_not_have(
    folder: ServerFolder, listen: str
) -> None:
    save_settings(replace(folder.load_network(), listen=listen), folder.network_file)

    with pytest.raises(SystemExit, match=f"Expected to open listen='{listen}', as network.yaml"):
        main(["collect", str(folder.path)])


def test_the_gateway_says_which_address_is_taken_and_what_to_do(folder: ServerFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        network = replace(folder.load_network(), listen="127.0.0.1", port=port)

        with pytest.raises(SystemExit, match=f"listen='127.0.0.1', port={port}, .* in use.* free"):
            run_gateway(folder, network)


@pytest.mark.parametrize("command", ["check", "finetune", "run"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"evaluation": EvaluationConfig()}, r"evaluation\.path"),
        ({"evaluation": EvaluationConfig(path="absent.jsonl")}, "absent"),
        ({"synthesis": SynthesisConfig(public_prompts_path="absent.jsonl")}, "absent"),
        ({"target_model": "./no-such-model"}, "no-such-model"),
        ({"finetuning": FinetuningConfig(report_to="mlflow")}, "package mlflow"),
        (
            {
                "evaluation": EvaluationConfig(
                    path="test.jsonl", judge=JudgeConfig(kind="local", model="./no-such-judge")
                )
            },
            "no-such-judge",
        ),
    ],
)
def test_no_client_is_asked_and_nothing_computed_before_the_inputs_are_there(
    folder: ServerFolder,
    tmp_path: Path,
    tiny_llama: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    message: str,
    command: str,
) -> None:
    """A client that has trained has spent budget, whatever the server then finds."""
    row = json.dumps({"prompt": "Is it safe?", "response": "Yes."}) + "\n"
    (tmp_path / "test.jsonl").write_text(row * 2, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    whole = ServerConfig(
        base_model=str(tiny_llama),
        target_model=str(tiny_llama),
        evaluation=EvaluationConfig(path="test.jsonl"),
    )
    save_settings(replace(whole, **settings), folder.settings_file)

    with pytest.raises(SystemExit, match=message):
        main([command, str(folder.path)])

    assert not read_provenance(folder.path)  # so that the start may be made again as the first


def test_collect_asks_no_client_before_the_text_of_a_warm_start_is_there(
    folder: ServerFolder, tmp_path: Path
) -> None:
    test_file = write_test_rows(tmp_path / "test.jsonl")
    config = ServerConfig(
        warm_start=WarmStartConfig(path=str(tmp_path / "public-text.jsonl")),
        evaluation=EvaluationConfig(path=str(test_file)),
    )
    save_settings(config, folder.settings_file)

    with pytest.raises(SystemExit, match=r"public-text\.jsonl"):
        main(["collect", str(folder.path)])


def test_check_says_that_the_work_could_begin_and_leaves_no_trace(
    able: ServerFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(able.path.rglob("*"))

    main(["check", str(able.path)])

    assert "could begin" in capsys.readouterr().out
    assert sorted(able.path.rglob("*")) == before


def test_finetune_wants_releases(able: ServerFolder) -> None:
    with pytest.raises(SystemExit, match="Expected admitted releases"):
        main(["finetune", str(able.path)])


def test_the_folder_tells_by_which_command_and_versions_each_start_computed(
    able: ServerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["finetune", str(able.path)]
    monkeypatch.setattr("sys.argv", ["rewardds-server", *words])

    for _ in range(2):
        with pytest.raises(SystemExit, match="admitted releases"):
            main(words)

    first = read_provenance(able.path)
    (second,) = first["resumed"]
    assert first["command"] == second["command"] == ["rewardds-server", *words]
    assert first["sources_digest"] == sources_digest()
    assert first["libraries"]["torch"] == version("torch")


def test_a_start_that_is_refused_for_its_settings_is_not_noted(folder: ServerFolder) -> None:
    folder.settings_file.write_text("no_such_key: 1\n", encoding="utf-8")

    with pytest.raises(SystemExit, match="no_such_key"):
        main(["finetune", str(folder.path)])

    assert not read_provenance(folder.path)
