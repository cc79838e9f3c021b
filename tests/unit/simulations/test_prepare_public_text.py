"""Text that either party calls public, as a simulation's parties find it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lm.errors import TableError
from protocol.errors import ConfigurationError, RecordsError, StageError
from simulations.config import SimulateConfig
from simulations.prepare import prepare_world
from tests.support.laid_out import simulation, with_records, write_rows


def with_public_prompts(start: SimulateConfig, path: str) -> SimulateConfig:
    synthesis = replace(start.server_side.synthesis, public_prompts_path=path)
    return replace(start, server_side=replace(start.server_side, synthesis=synthesis))


def test_public_prompts_are_found_from_wherever_the_server_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("public.jsonl"), [{"prompt": "May I walk today?"}])

    world = prepare_world(with_public_prompts(simulation(), "public.jsonl"), tmp_path / "run")

    assert world.server.synthesis.public_prompts_path == str(tmp_path.resolve() / "public.jsonl")


def with_start_text(start: SimulateConfig, path: str) -> SimulateConfig:
    client, server = start.client_side, start.server_side
    accepts = replace(client, warm_start=replace(client.warm_start, accept=True))
    sends = replace(server, warm_start=replace(server.warm_start, path=path))
    return replace(start, client_side=accepts, server_side=sends)


def with_prompts_for_pairs(start: SimulateConfig, path: str) -> SimulateConfig:
    preferences = replace(start.client_side.preferences, public_prompts_path=path)
    return replace(start, client_side=replace(start.client_side, preferences=preferences))


@pytest.mark.parametrize("name_it", [with_public_prompts, with_start_text, with_prompts_for_pairs])
def test_missing_public_text_is_said_before_any_folder_is_made(
    name_it: Callable[[SimulateConfig, str], SimulateConfig], tmp_path: Path
) -> None:
    with pytest.raises((TableError, RecordsError), match=r"missing\.jsonl"):
        prepare_world(name_it(simulation(), str(tmp_path / "missing.jsonl")), tmp_path / "run")

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("spelling", ["as it is", "~", "hard link", "symbolic link", "relative"])
@pytest.mark.parametrize(
    ("name_it", "setting"),
    [
        (with_public_prompts, "server_side.synthesis.public_prompts_path"),
        (with_start_text, "server_side.warm_start.path"),
        (with_prompts_for_pairs, "client_side.preferences.public_prompts_path"),
    ],
)
def test_the_file_of_the_records_is_never_taken_for_public_text(
    name_it: Callable[[SimulateConfig, str], SimulateConfig],
    setting: str,
    spelling: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each client has a copy of its part under another name, so no client could see it."""
    rows = [{"prompt": f"What of pill {n}?", "response": "Ask."} for n in range(60)]
    records = Path(write_rows(tmp_path / "records.jsonl", rows))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hard link.jsonl").hardlink_to(records)
    (tmp_path / "symbolic link.jsonl").symlink_to(records)
    spelled = {"as it is": str(records), "~": "~/records.jsonl", "relative": "records.jsonl"}
    start = with_records(simulation(), path=str(records))

    with pytest.raises(ConfigurationError, match=f"{setting} .* got the file of the records"):
        prepare_world(name_it(start, spelled.get(spelling, f"{spelling}.jsonl")), tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_the_clients_find_public_prompts_from_wherever_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("public.jsonl"), [{"prompt": "May I walk?"}, {"prompt": "May I run?"}])

    world = prepare_world(with_prompts_for_pairs(simulation(), "public.jsonl"), tmp_path / "run")

    found = {client.load_config().preferences.public_prompts_path for client in world.clients}
    assert found == {str(tmp_path.resolve() / "public.jsonl")}


def test_a_test_beyond_rouge_is_told_before_anybody_pays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": f"Можно {n}?", "response": "Нет, отдыхайте."} for n in range(4)]
    tests = write_rows(tmp_path / "test.jsonl", rows)
    start = simulation()
    evaluation = replace(start.server_side.evaluation, path=tests)

    prepare_world(
        replace(start, server_side=replace(start.server_side, evaluation=evaluation)),
        tmp_path / "run",
    )

    assert caplog.text.count("4 of 4 test references hold no word") == 1


def test_an_arm_whose_public_prompts_are_all_tested_is_refused_before_anybody_pays(
    tmp_path: Path,
) -> None:
    rows = [{"prompt": f"What of pill number {n}?", "response": "Ask."} for n in range(4)]
    tests = write_rows(tmp_path / "test.jsonl", rows)
    start = with_public_prompts(simulation(arm="public_prompts"), tests)
    evaluation = replace(start.server_side.evaluation, path=tests)
    start = replace(start, server_side=replace(start.server_side, evaluation=evaluation))

    with pytest.raises(StageError, match=r"found none of 4 \(in_test_set: 4\)"):
        prepare_world(start, tmp_path / "run")

    assert not (tmp_path / "run" / "clients").exists()

    # What stands in the test file alone, and is not judged, is as public and gives nothing away.
    judged = replace(start.server_side.evaluation, max_rows=2)
    prepare_world(
        replace(start, server_side=replace(start.server_side, evaluation=judged)), tmp_path / "run"
    )


@pytest.mark.parametrize(
    ("arm", "setting"),
    [
        ("public_prompts", "synthesis.public_prompts_path"),
        ("public_warm_start", "warm_start.path"),
    ],
)
def test_an_arm_that_lives_on_public_text_wants_some(
    arm: str, setting: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=rf"server_side\.{setting} to name public text"):
        prepare_world(simulation(arm=arm), tmp_path / "run")
