"""`rewardds-client`: what a real node refuses, and the command it becomes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from client_side.folder import ClientFolder
from client_side.node import main, supernode_command, supernode_environment
from lm.settings import save_settings
from tests.support.clients import client_config, make_client


@pytest.fixture
def folder(tmp_path: Path) -> ClientFolder:
    return make_client(tmp_path / "node", client_config(tmp_path))


def test_init_makes_a_folder_and_refuses_to_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["init", str(tmp_path / "new")])

    with pytest.raises(SystemExit, match="Expected a new folder"):
        main(["init", str(tmp_path / "new")])
    assert ClientFolder(path=tmp_path / "new").load_config().name == "client"


def test_a_real_node_refuses_noise_that_can_be_reproduced(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = folder.load_config()
    save_settings(
        replace(config, budget=replace(config.budget, noise_seed=1)), folder.settings_file
    )
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("the node was started"))

    with pytest.raises(SystemExit, match="noise_seed"):
        main(["start", str(folder.path), "--superlink", "127.0.0.1:1", "--insecure"])


def test_a_node_without_tls_must_be_asked_for(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("the node was started"))

    with pytest.raises(SystemExit, match="root-certificates"):
        main(["start", str(folder.path), "--superlink", "127.0.0.1:1"])


def test_start_takes_the_place_of_this_process(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))

    main(["start", str(folder.path), "--superlink", "127.0.0.1:1", "--insecure"])

    ((_, command, environment),) = calls
    assert "--insecure" in command
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"


def test_folder_and_server_are_named_in_the_nodes_own_configuration(folder: ClientFolder) -> None:
    command = supernode_command(
        folder, superlink="host:1", runtime_port=5, insecure=False, root_certificates=Path("ca")
    )

    configuration = parse_config_args([command[command.index("--node-config") + 1]])
    assert configuration == {
        "client-folder": str(folder.path.resolve()),
        "server-address": "host:1",
    }
    assert command[command.index("--root-certificates") + 1] == "ca"
    assert "--insecure" not in command


def test_threads_of_the_node_follow_its_settings(folder: ClientFolder) -> None:
    assert supernode_environment(folder)["OMP_NUM_THREADS"] == "1"


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Error: Expected a settings file"):
        main(["start", str(tmp_path / "absent"), "--superlink", "127.0.0.1:1"])
