"""`rewardds-client`: what it makes, what it refuses, and the node that it starts."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.common.config import parse_config_args

from client_side import supervising
from client_side.budget import BudgetLedger
from client_side.config import ClientConfig
from client_side.folder import SIMULATED_VARIABLE, ClientFolder
from client_side.network import NodeFiles, join
from client_side.node import main, supernode_command, supernode_environment
from lm.locks import held
from lm.settings import save_settings, to_mapping
from protocol.errors import ConfigurationError
from protocol.introductions import Introduction, read_introduction
from tests.support.budgets import reserve
from tests.support.clients import client_config, make_client
from tests.support.parties import invitation


@pytest.fixture
def folder(tmp_path: Path) -> ClientFolder:
    main(["init", str(tmp_path / "node"), "--name", "client-1"])
    return make_client(tmp_path / "node", client_config(tmp_path))


@pytest.fixture
def joined(folder: ClientFolder) -> ClientFolder:
    join(folder, invitation())
    return folder


def catch_start(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], dict[str, str]]]:
    calls: list[tuple[list[str], dict[str, str]]] = []

    def keep(
        _: ClientFolder, command: list[str], environment: dict[str, str], **__: object
    ) -> None:
        calls.append((command, environment))

    monkeypatch.setattr(supervising, "keep_running", keep)
    monkeypatch.setattr(supervising, "stop_on_signals", lambda: None)
    return calls


def test_init_makes_a_folder_for_its_owner_and_refuses_to_overwrite(tmp_path: Path) -> None:
    main(["init", str(tmp_path / "new"), "--name", "ward-7", "--declared-size", "500"])

    with pytest.raises(SystemExit, match="Expected a new folder"):
        main(["init", str(tmp_path / "new")])
    config = ClientFolder(path=tmp_path / "new").load_config()
    assert (config.name, config.records.declared_size) == ("ward-7", 500)
    assert not [file.name for file in (tmp_path / "new").iterdir() if file.stat().st_mode & 0o077]


def test_few_records_get_small_batches(tmp_path: Path) -> None:
    main(["init", str(tmp_path / "new"), "--declared-size", "40"])

    config = ClientFolder(path=tmp_path / "new").load_config()
    assert config.generator.expected_batch_size == 10
    assert config.reward_proxy.expected_batch_size == 10


def test_settings_explain_each_key(tmp_path: Path) -> None:
    main(["init", str(tmp_path / "new")])

    text = (tmp_path / "new" / "client_node.yaml").read_text(encoding="utf-8")
    explained = set(re.findall(r"^ *#.*\n *([a-z_0-9]+):", text, flags=re.MULTILINE))
    assert explained == _keys(to_mapping(ClientConfig()))
    assert "# Public number of privacy units;" in text
    assert "# Composed ε of everything ever released from these records." in text


def _keys(settings: Mapping[str, Any]) -> set[str]:
    """Give every key of a settings file but those of a mapping that its operator fills."""
    groups = (value for key, value in settings.items() if key != "pair_weights")
    return set(settings).union(*(_keys(group) for group in groups if isinstance(group, dict)))


def test_the_introduction_names_the_client_and_its_public_keys_only(folder: ClientFolder) -> None:
    introduction = read_introduction(Introduction, folder.path / "introduction.json")

    private = NodeFiles(folder=folder).node_key.read_text(encoding="ascii")
    assert introduction.client_name == "client-1"
    assert introduction.node_key.startswith("ecdsa-sha2-nistp384 ")
    assert private.splitlines()[1] not in introduction.node_key


def test_a_real_node_refuses_noise_that_can_be_reproduced(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = joined.load_config()
    save_settings(
        replace(config, budget=replace(config.budget, noise_seed=1)), joined.settings_file
    )
    calls = catch_start(monkeypatch)

    with pytest.raises(SystemExit, match="noise_seed"):
        main(["start", str(joined.path)])
    assert not calls


def test_a_real_node_refuses_a_folder_in_which_somebody_simulated(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve(BudgetLedger(joined.ledger_folder), reproducible_noise=True)
    calls = catch_start(monkeypatch)

    with pytest.raises(SystemExit, match="a folder of its own"):
        main(["start", str(joined.path)])
    assert not calls


def test_a_real_node_refuses_to_train_without_noise(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = joined.load_config()
    save_settings(
        replace(config, budget=replace(config.budget, unsafe_non_private=True)),
        joined.settings_file,
    )
    calls = catch_start(monkeypatch)

    with pytest.raises(SystemExit, match="unsafe_non_private"):
        main(["start", str(joined.path)])
    assert not calls


def test_a_node_that_has_not_joined_does_not_start(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = catch_start(monkeypatch)

    with pytest.raises(SystemExit, match="rewardds-client join"):
        main(["start", str(folder.path)])
    assert not calls


def test_a_node_whose_records_are_not_what_it_declares_does_not_start(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later the server would see a refusal that follows from their number, and pay nothing."""
    calls = catch_start(monkeypatch)
    config = joined.load_config()
    wrong = replace(config, records=replace(config.records, declared_size=240))
    save_settings(wrong, joined.settings_file)

    with pytest.raises(SystemExit, match="declared_size"):
        main(["start", str(joined.path)])
    assert not calls


def test_a_node_starts_with_tls_its_key_and_the_pinned_bundle(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = catch_start(monkeypatch)
    monkeypatch.setenv(SIMULATED_VARIABLE, "1")

    main(["start", str(joined.path)])

    ((command, environment),) = calls
    assert SIMULATED_VARIABLE not in environment
    assert "--insecure" not in command
    assert command[command.index("--root-certificates") + 1].endswith("server_authority.pem")
    assert command[command.index("--auth-supernode-private-key") + 1].endswith("node_key")
    assert environment["REWARDDS_BUNDLE_SHA256"] == invitation().bundle_sha256
    assert environment["PATH"].split(os.pathsep)[0] == str(joined.path.resolve() / "bin")
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"


def test_a_node_of_a_relative_folder_finds_its_keys(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node works in its folder, from which a path as the caller typed it leads elsewhere."""
    calls = catch_start(monkeypatch)
    monkeypatch.chdir(joined.path.parent)

    main(["start", joined.path.name])

    ((command, _),) = calls
    for option in ("--root-certificates", "--auth-supernode-private-key"):
        named = Path(command[command.index(option) + 1])
        assert named.is_absolute()
        assert named.is_file()


def test_every_program_that_the_server_could_name_is_ours(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task type comes from the server; a type without a shim would run unchecked code."""
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    catch_start(monkeypatch)
    main(["start", str(joined.path)])

    shims = {file.name: file.read_text() for file in (joined.path / "bin").iterdir()}
    assert set(shims) == set(TASK_TYPE_TO_COMMAND.values())
    assert "pinning.py" in shims.pop("flwr-clientapp")
    assert all("exit 1" in text and "exec" not in text for text in shims.values())


def test_a_folder_that_a_search_path_cannot_name_is_refused(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flower's own client process would be found there, and would run any bundle."""
    calls = catch_start(monkeypatch)
    moved = str(joined.path.rename(joined.path.parent / "a:b"))

    for words in (["init", f"{moved}/new"], ["start", moved]):
        with pytest.raises(SystemExit, match="without ':' in its path"):
            main(words)
    with pytest.raises(SystemExit, match="settings"):
        main(["check", "--offline", moved])

    assert "without ':' in its path" in capsys.readouterr().out
    assert not calls
    assert not (Path(moved) / "bin").exists()


def test_the_client_process_is_found_whatever_the_interpreters_path_holds(
    joined: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = joined.path / 'a "$(b)' / "python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\necho found "$3"\n')
    python.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(python))

    shim = supervising.make_shims(joined) / "flwr-clientapp"

    done = subprocess.run([shim, "one word"], capture_output=True, text=True, check=True)
    assert done.stdout == "found one word\n"


def test_one_node_at_a_time(joined: ClientFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    catch_start(monkeypatch)

    held_by_another = held(supervising.running_file(joined), busy=AssertionError())
    with held_by_another, pytest.raises(SystemExit, match="another that runs"):
        main(["start", str(joined.path)])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bundle_sha256": "0" * 64}, "app bundle"),
        ({"software_version": "9.9"}, "9.9"),
        ({"protocol_version": 99}, "protocol 99"),
        ({"authority": "no certificate"}, "certificate of one authority"),
        ({"server": "host-without-port"}, "HOST:PORT"),
    ],
)
def test_join_refuses_a_server_that_differs(
    folder: ClientFolder, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        join(folder, replace(invitation(), **changes))  # type: ignore[arg-type]  # by name
    assert NodeFiles(folder=folder).load().server == ""
    assert not NodeFiles(folder=folder).authority.exists()


def test_a_new_key_needs_a_new_introduction(folder: ClientFolder) -> None:
    before = read_introduction(Introduction, folder.path / "introduction.json")

    main(["rotate-key", str(folder.path)])

    after = read_introduction(Introduction, folder.path / "introduction.json")
    assert after.node_key != before.node_key
    assert after.signing_key == before.signing_key


def test_folder_and_server_are_named_in_the_nodes_own_configuration(folder: ClientFolder) -> None:
    command = supernode_command(
        folder, superlink="host:1", runtime_port=5, insecure=False, root_certificates=Path("ca")
    )

    configuration = parse_config_args([command[command.index("--node-config") + 1]])
    assert configuration == {
        "client-folder": str(folder.path.resolve()),
        "server-address": "host:1",
    }
    assert command[command.index("--root-certificates") + 1] == str(Path.cwd() / "ca")
    assert "--insecure" not in command


def test_threads_of_the_node_follow_its_settings(folder: ClientFolder) -> None:
    assert supernode_environment(folder)["OMP_NUM_THREADS"] == "1"


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Error: Expected a settings file"):
        main(["start", str(tmp_path / "absent")])


def test_status_tells_node_and_budget(
    joined: ClientFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["status", str(joined.path)])

    printed = capsys.readouterr().out
    assert "never started" in printed
    assert "ε = 0 of 8 spent, in 0 reservations" in printed


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"phase"', b"\xff"])
def test_a_damaged_note_of_a_training_is_one_line(folder: ClientFolder, content: bytes) -> None:
    folder.status_file.write_bytes(content)

    with pytest.raises(SystemExit, match=r"status\.json as it was written"):
        main(["status", str(folder.path)])


@pytest.mark.parametrize(
    ("phase", "said"), [("sampling", "3 of 9 responses"), ("training", "3 of 9 steps")]
)
def test_status_names_what_it_counts(
    folder: ClientFolder, capsys: pytest.CaptureFixture[str], phase: str, said: str
) -> None:
    folder.write_status({"proxy": "reward", "phase": phase, "done": 3, "total": 9, "epsilon": 1.0})

    main(["status", str(folder.path)])

    assert said in capsys.readouterr().out


def test_init_leaves_a_folder_of_somebody_else_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    tmp_path.chmod(0o755)

    with pytest.raises(SystemExit, match="Expected a new folder"):
        main(["init", str(tmp_path)])

    assert [item.name for item in tmp_path.iterdir()] == ["theirs"]
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("is_there", [False, True])
def test_init_that_finds_no_room_leaves_nothing_and_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    folder = tmp_path / "node"
    if is_there:
        folder.mkdir()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("client_side.network.write_introduction", full)
        with pytest.raises(SystemExit, match="No space left"):
            main(["init", str(folder)])

    assert [*tmp_path.rglob("*")] == ([folder] if is_there else [])
    main(["init", str(folder)])


def test_init_with_a_name_that_no_server_takes_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"client_side\.name"):
        main(["init", str(tmp_path / "node"), "--name", "Straße"])

    assert not (tmp_path / "node").exists()


def test_a_new_key_that_finds_no_room_leaves_both_old_ones(
    folder: ClientFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["rotate-key", str(folder.path)])
    keys = [folder.path / name for name in ("node_key", "node_key.old")]
    before = [key.read_bytes() for key in keys]

    def full(path: Path, data: bytes) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("client_side.network.write_private_file", full)
    with pytest.raises(SystemExit, match="No space left"):
        main(["rotate-key", str(folder.path)])

    assert [key.read_bytes() for key in keys] == before
