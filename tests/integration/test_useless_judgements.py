"""The server's job on tiny models where a judge or a proxy gives nothing to go by."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import StageError
from server_side.config import FilteringConfig, JudgeConfig, RefinementConfig, ServerConfig
from server_side.measuring.metrics import read_metrics
from server_side.pipeline import run_pipeline
from tests.support.chat_server import ChatServer
from tests.support.server_jobs import make_config, make_releases, write_test_rows
from tests.support.tiny_models import build_tiny_model

pytestmark = pytest.mark.integration

OUTPUTS = ("metrics.json", "report.html", "dataset", "target_adapter")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def config(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    test_file = write_test_rows(tmp_path_factory.mktemp("data") / "test.jsonl")
    one_round = RefinementConfig(num_rounds=1)
    return dataclasses.replace(make_config(base, test_file), refinement=one_round)


def with_judge(config: ServerConfig, server: ChatServer, **changes: object) -> ServerConfig:
    judge = JudgeConfig(kind="endpoint", model="judge-1", url=server.url, num_attempts=1)
    judge = dataclasses.replace(judge, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(
        config, evaluation=dataclasses.replace(config.evaluation, judge=judge)
    )


def test_judge_without_a_usable_answer_costs_the_run_nothing_and_can_be_replaced(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    releases = make_releases(base)

    def run(changed: ServerConfig) -> dict[str, Any]:
        run_pipeline(releases, config=changed, run_folder=tmp_path)
        return read_metrics(tmp_path / "metrics.json")

    with ChatServer(lambda text: "Answer A is better.") as server:
        talkative = run(with_judge(config, server))
        assert all((tmp_path / name).exists() for name in OUTPUTS)
        server.reply = lambda text: "A"
        unchanged = run(with_judge(config, server))
        other = run(with_judge(config, server, model="judge-2"))
    without = run(config)

    assert talkative["win_rate"]["rate"] is None
    assert talkative["win_rate"]["num_unanswered"] == 5
    assert unchanged["win_rate"] == talkative["win_rate"]  # it is not asked again
    assert other["win_rate"]["rate"]["mean"] == 0.5
    assert other["win_rate"]["num_contradictions"] == 5
    assert "win_rate" not in without
    assert "13_verdicts" not in without["counts"]


def test_judge_that_cannot_be_asked_is_an_error_after_all_else_is_written(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    with ChatServer(lambda text: "A") as server:
        judged = with_judge(config, server)

    with pytest.raises(StageError, match="Everything but the win rate is written"):
        run_pipeline(make_releases(base), config=judged, run_folder=tmp_path)

    assert all((tmp_path / name).exists() for name in OUTPUTS)
    assert "win_rate" not in read_metrics(tmp_path / "metrics.json")


@pytest.mark.parametrize("error", [ImportError("no socksio"), RuntimeError("out of memory")])
def test_judge_that_fails_in_a_way_of_its_own_costs_no_output_and_its_error_is_named(
    base: Path,
    config: ServerConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """Such as a proxy setting that the HTTP client cannot use, or a local model that is too big."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("server_side.outputs.measure_win_rate", fail)

    with pytest.raises(StageError, match=rf"got {type(error).__name__}: {error}\. Everything but"):
        run_pipeline(make_releases(base), config=config, run_folder=tmp_path)

    assert all((tmp_path / name).exists() for name in OUTPUTS)


@pytest.fixture
def constant_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "server_side.proxies.score_chats", lambda model, chats, **kwargs: [0.5] * len(chats)
    )


@pytest.mark.usefixtures("constant_rewards")
def test_reward_proxies_that_all_give_a_constant_are_refused_where_they_choose(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match="constant"):
        run_pipeline(make_releases(base), config=config, run_folder=tmp_path)

    assert not (tmp_path / "10_best_r1.jsonl").exists()


@pytest.mark.usefixtures("constant_rewards")
def test_run_that_chooses_without_the_reward_does_not_stop_because_of_it(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    filtering = FilteringConfig(choose_by="consensus", select_by="consensus", k=2.0)

    run_pipeline(
        make_releases(base),
        config=dataclasses.replace(config, filtering=filtering),
        run_folder=tmp_path,
    )

    metrics = read_metrics(tmp_path / "metrics.json")
    assert metrics["counts"]["09_scored_r1"]["num_reward_proxies_left_out"] == 2
    assert "have no say: 2." in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_client_whose_generator_computes_no_number_does_not_end_the_others_job(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    """Its weights are finite, so that they are admitted."""
    releases = make_releases(base, overflowing=("clinic-a",))

    run_pipeline(releases, config=config, run_folder=tmp_path)

    metrics = read_metrics(tmp_path / "metrics.json")
    assert list(metrics["generators"]) == ["clinic-b"]
    assert metrics["counts"]["07_generators"]["num_left_out"] == 1
    report = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "with both of their proxies: clinic-a." in report
    # Nothing was sampled from it, so the data set owes it nothing; its records paid all the same.
    card = (tmp_path / "dataset" / "README.md").read_text(encoding="utf-8")
    assert "private records of 1 client under" in card
    assert "clinic-a" not in card.split("## Settings")[0]
    assert set(metrics["privacy"]) == {"clinic-a", "clinic-b"}
