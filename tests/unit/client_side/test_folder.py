"""A client's folder is readable by its owner alone, and keeps its key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from client_side.egress import load_signing_key
from client_side.folder import make_client_folder, private_file, write_private_file
from lm.settings import SettingsError
from protocol.errors import ConfigurationError
from tests.support.clients import client_config, make_client


def test_folder_and_files_are_for_the_owner_alone(tmp_path: Path) -> None:
    folder = make_client(tmp_path / "client-1", client_config(tmp_path))
    folder.write_status({"phase": "records"})

    assert folder.path.stat().st_mode & 0o777 == 0o700
    for file in folder.path.iterdir():
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_made_again_it_keeps_its_key(tmp_path: Path) -> None:
    config = client_config(tmp_path)
    make_client_folder(tmp_path / "client-1", config)
    before = load_signing_key(tmp_path / "client-1").private_bytes_raw()

    make_client_folder(tmp_path / "client-1", config)

    assert load_signing_key(tmp_path / "client-1").private_bytes_raw() == before


def test_settings_read_back_as_written(tmp_path: Path) -> None:
    config = client_config(tmp_path)

    assert make_client_folder(tmp_path / "client-1", config).load_config() == config


def test_settings_that_lost_their_end_never_allow_another_budget_or_other_records(
    tmp_path: Path,
) -> None:
    config = client_config(tmp_path)
    config = replace(
        config, budget=replace(config.budget, target_epsilon=1.0, lifetime_epsilon_cap=1.5)
    )
    folder = make_client_folder(tmp_path / "client-1", config)
    whole = folder.settings_file.read_text(encoding="utf-8")
    refused = 0

    for end in [at for at, character in enumerate(whole) if character == "\n"]:
        folder.settings_file.write_text(whole[:end], encoding="utf-8")
        try:
            found = folder.load_config()
        except (SettingsError, ConfigurationError):
            refused += 1
        else:
            assert found.budget == config.budget
            assert found.records == config.records

    assert refused > whole.count("\n") / 4


def test_relative_records_are_meant_from_the_folder(tmp_path: Path) -> None:
    folder = make_client(tmp_path / "client-1", client_config(tmp_path))

    assert folder.records_path(folder.load_config()) == str(folder.path / "records.jsonl")


def test_what_only_the_callers_folder_has_is_missed_as_the_node_will_miss_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = client_config(Path("base"))
    config = replace(config, records=replace(config.records, path="mine.jsonl"))
    folder = make_client_folder(tmp_path / "client-1", config)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "mine.jsonl").touch()

    found = folder.load_config()

    assert found.base_model == str(folder.path / "base")
    assert folder.records_path(found) == str(folder.path / "mine.jsonl")


def test_status_is_always_whole(tmp_path: Path) -> None:
    folder = make_client_folder(tmp_path / "client-1", client_config(tmp_path))

    folder.write_status({"phase": "training", "done": 1})

    assert json.loads(folder.status_file.read_text(encoding="utf-8"))["done"] == 1
    assert not [file for file in folder.path.iterdir() if file.name.endswith(".part")]


def test_two_processes_that_write_one_file_do_not_share_what_is_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with private_file(tmp_path / "status.json") as ours:
        ours.write_text("ours")
        with monkeypatch.context() as patch:
            patch.setattr("os.getpid", lambda: 0)
            write_private_file(tmp_path / "status.json", b"theirs")

    assert (tmp_path / "status.json").read_text() == "ours"


def test_a_file_that_finds_no_room_stays_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server_authority.pem"
    write_private_file(file, b"before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private_file(file, b"after")

    assert file.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [file]


def test_a_private_file_has_its_mode_from_its_first_moment_on(tmp_path: Path) -> None:
    with private_file(tmp_path / "program", mode=0o700) as part:
        assert part.stat().st_mode & 0o777 == 0o700

    assert (tmp_path / "program").stat().st_mode & 0o777 == 0o700
