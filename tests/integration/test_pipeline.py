"""The server's whole job on tiny models: undisturbed, killed and resumed, and on bad input."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from protocol.errors import ConfigurationError, ExchangeError
from server_side.config import (
    FilteringConfig,
    RankingConfig,
    SamplingConfig,
    ScoringConfig,
    ServerConfig,
)
from server_side.inputs import gather_inputs
from server_side.measuring.metrics import read_metrics
from server_side.pipeline import run_pipeline
from server_side.ranking import RANKING_STAGE
from server_side.shared_stages import SharedStages
from tests.support.forked import exit_status
from tests.support.server_jobs import make_config, make_releases, write_test_rows
from tests.support.tiny_models import build_tiny_model

pytestmark = pytest.mark.integration


class StopAfter:
    """A watcher that stops the job after a stage."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def start(self, stage: str) -> None:
        pass

    def advance(self, done: int, total: int) -> None:
        assert 0 <= done <= total

    def end(self, stage: str, *, seconds: float, was_whole: bool) -> None:
        if stage == self._stage:
            raise KeyboardInterrupt


class KillAtCheckpoint(StopAfter):
    """A watcher that kills its process while the target is tuned."""

    def start(self, stage: str) -> None:
        self._at_work = stage

    def advance(self, done: int, total: int) -> None:
        if self._at_work == "11_target_r1" and done == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(base: Path, config: ServerConfig, run_folder: Path) -> None:
    watcher = KillAtCheckpoint("never")
    run_pipeline(make_releases(base), config=config, run_folder=run_folder, progress=watcher)


def answering_often(config: ServerConfig) -> ServerConfig:
    """Leave every prompt a choice, though a tiny model seldom ends a text."""
    often = SamplingConfig(max_new_tokens=128, top_p=1.0)
    return dataclasses.replace(
        config,
        synthesis=dataclasses.replace(
            config.synthesis, num_queries=4, num_candidates=12, response_sampling=often
        ),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def config(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    return make_config(base, write_test_rows(tmp_path_factory.mktemp("data") / "test.jsonl"))


@pytest.fixture(scope="module")
def undisturbed(base: Path, config: ServerConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_pipeline(make_releases(base), config=config, run_folder=folder)
    return folder


def stage_files(folder: Path) -> dict[str, bytes]:
    """Return what the stages up to the last pool and adapter wrote."""
    files = [*folder.glob("*_r?.jsonl"), folder / "07_queries.jsonl"]
    files += folder.glob("11_target_r?/tuned/*.safetensors")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_job_leaves_the_journey_and_the_results(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}

    assert names == {
        *{".lock", "manifest.json", "07_generators.jsonl", "07_queries.jsonl"},
        "12_feedback_r2.jsonl",
        *{f"{stage}_r{n}.jsonl" for n in (1, 2) for stage in ("08_candidates", "09_scored")},
        *{f"{stage}_r{n}.jsonl" for n in (1, 2) for stage in ("10_best", "10_pool")},
        *{"11_target_r1", "11_target_r2", "13_untuned.jsonl", "13_tuned.jsonl"},
        *{"metrics.json", "dataset", "target_adapter", "report.html"},
    }


def test_metrics_tell_what_each_stage_took(undisturbed: Path) -> None:
    metrics = read_metrics(undisturbed / "metrics.json")

    assert metrics["privacy"].keys() == {"clinic-a", "clinic-b"}
    assert metrics["generators"].keys() == {"clinic-a", "clinic-b"}
    assert metrics["peak_rss_bytes"] > 0
    assert metrics["counts"]["07_queries"]["num_kept"] == 10
    assert set(metrics["seconds"]) == {
        *json.loads((undisturbed / "manifest.json").read_text())["stages"],
        "total",
    }


def test_job_that_is_stopped_again_and_again_ends_as_an_undisturbed_one(
    undisturbed: Path, base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    releases = make_releases(base)
    for stage in ("07_queries", "09_scored_r1", "10_pool_r1", "11_target_r1", "08_candidates_r2"):
        with pytest.raises(KeyboardInterrupt):
            run_pipeline(releases, config=config, run_folder=tmp_path, progress=StopAfter(stage))
        assert not (tmp_path / "metrics.json").exists()

    run_pipeline(releases, config=config, run_folder=tmp_path)

    assert stage_files(tmp_path) == stage_files(undisturbed)


def test_killed_job_ends_as_an_undisturbed_one(
    undisturbed: Path, base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    """`kill -9` while the target is tuned, with a checkpoint on disk."""
    status = exit_status(run_and_die, base, config, tmp_path)
    assert status == -signal.SIGKILL
    assert (tmp_path / "11_target_r1.part" / "checkpoints" / "checkpoint-1").is_dir()

    run_pipeline(make_releases(base), config=config, run_folder=tmp_path)

    assert stage_files(tmp_path) == stage_files(undisturbed)


def test_whole_job_is_not_done_again(undisturbed: Path, base: Path, config: ServerConfig) -> None:
    done_again: list[str] = []

    class Watcher(StopAfter):
        def end(self, stage: str, *, seconds: float, was_whole: bool) -> None:
            if not was_whole:
                done_again.append(stage)

    run_pipeline(
        make_releases(base), config=config, run_folder=undisturbed, progress=Watcher("never")
    )

    assert done_again == []


def test_other_seed_in_the_same_folder_is_refused(
    undisturbed: Path, base: Path, config: ServerConfig
) -> None:
    other = make_config(base, Path(str(config.evaluation.path)))
    object.__setattr__(other, "seed", 1)

    with pytest.raises(ConfigurationError, match=r"config\.seed"):
        run_pipeline(make_releases(base), config=other, run_folder=undisturbed)


def test_client_with_one_proxy_is_left_out(
    base: Path, config: ServerConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(
            make_releases(base)[:3],
            config=config,
            run_folder=tmp_path,
            progress=StopAfter("07_queries"),
        )

    lines = (tmp_path / "07_queries.jsonl").read_text().splitlines()
    assert {json.loads(line)["client_name"] for line in lines} == {"clinic-a"}
    assert "clinic-b is left out" in caplog.text
    # The releases say 64 and 96 tokens, the settings 48.
    assert "learnt prompts of up to 64 tokens" in caplog.text
    assert "response_sampling.max_new_tokens=48 are cut to their last whole" in caplog.text


def test_release_on_another_base_model_is_refused(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    other = build_tiny_model(tmp_path / "other", seed=5)

    with pytest.raises(ConfigurationError, match=r"clinic-a belongs to .*base_model"):
        run_pipeline(
            make_releases(base),
            config=dataclasses.replace(config, base_model=str(other)),
            run_folder=tmp_path / "run",
        )

    assert not (tmp_path / "run").exists()


def test_weight_of_a_client_that_refused_costs_the_others_nothing(
    base: Path, config: ServerConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights = {"clinic-a": 1.0, "clinic-b": 2.0}
    synthesis = dataclasses.replace(config.synthesis, client_weights=weights)

    with pytest.raises(KeyboardInterrupt):
        run_pipeline(
            make_releases(base, client_names=("clinic-a",)),
            config=dataclasses.replace(config, synthesis=synthesis),
            run_folder=tmp_path,
            progress=StopAfter("07_queries"),
        )

    assert len((tmp_path / "07_queries.jsonl").read_text().splitlines()) == 10
    assert "client_weights names clinic-b" in caplog.text


def test_a_client_without_a_weight_that_has_paid_is_named(
    base: Path, config: ServerConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as where the weights were given, with a typo, after the releases had come."""
    weights = {"clinic-a": 1.0, "clinic-x": 2.0}
    synthesis = dataclasses.replace(config.synthesis, client_weights=weights)
    weighted = dataclasses.replace(config, synthesis=synthesis)

    gather_inputs(make_releases(base), config=weighted, run_folder=tmp_path)

    assert "no weight for clinic-b: nothing is written by that generator" in caplog.text
    assert "client_weights names clinic-x" in caplog.text
    assert "shared out among clinic-a by their weights" in caplog.text


def test_a_test_beyond_rouge_is_told_also_where_the_job_is_started_by_itself(
    base: Path, config: ServerConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`finetune` after `collect`: nobody had looked at the test before."""
    file = tmp_path / "foreign.jsonl"
    file.write_text('{"prompt": "Можно?", "response": "Нет."}\n' * 2, encoding="utf-8")
    evaluation = dataclasses.replace(config.evaluation, path=str(file))
    foreign = dataclasses.replace(config, evaluation=evaluation)

    gather_inputs(make_releases(base), config=foreign, run_folder=tmp_path)

    assert "2 of 2 test references hold no word" in caplog.text


def test_clients_of_different_domains_need_one_instruction_for_the_test(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    """The test has one system turn; which client's that is must not hang on their names."""
    stated = {"clinic-a": "Answer the patient.", "bank-b": "Answer the customer."}
    releases = make_releases(base, client_names=("clinic-a", "bank-b"), instructions=stated)
    often = SamplingConfig(max_new_tokens=128, top_p=1.0)  # a tiny model seldom ends a text
    given = dataclasses.replace(
        config,
        synthesis=dataclasses.replace(config.synthesis, num_candidates=12, response_sampling=often),
        evaluation=dataclasses.replace(config.evaluation, instruction="Answer."),
        refinement=dataclasses.replace(config.refinement, num_rounds=1),
    )

    with pytest.raises(
        ConfigurationError, match=r"evaluation\.instruction .*bank-b: 'Answer the c"
    ):
        run_pipeline(releases, config=config, run_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run_pipeline(releases, config=given, run_folder=tmp_path / "run")

    lines = (tmp_path / "run" / "10_best_r1.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert {sample["client_name"]: sample["instruction"] for sample in samples} == stated


def test_weights_for_absent_clients_alone_are_refused_before_the_run_folder_is_begun(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    synthesis = dataclasses.replace(config.synthesis, client_weights={"clinic-z": 1.0})

    with pytest.raises(ConfigurationError, match="clinic-z"):
        run_pipeline(
            make_releases(base),
            config=dataclasses.replace(config, synthesis=synthesis),
            run_folder=tmp_path / "run",
        )

    assert not (tmp_path / "run").exists()


def test_baseline_and_ranking_are_settings_alone(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    """Raw synthetic data without refinement, and the scores judged beside it."""
    raw = dataclasses.replace(
        answering_often(config),
        filtering=FilteringConfig(choose_by="first", select_by="all", max_similarity=1.0),
        refinement=dataclasses.replace(config.refinement, num_rounds=1),
        scoring=ScoringConfig(ensemble="min", length_debias=True),
        ranking=RankingConfig(max_rows=4),
        evaluation=dataclasses.replace(config.evaluation, max_rows=2),
    )

    run_pipeline(make_releases(base), config=raw, run_folder=tmp_path)

    pool = [json.loads(line) for line in (tmp_path / "10_pool_r1.jsonl").read_text().splitlines()]
    metrics = read_metrics(tmp_path / "metrics.json")
    assert len(pool) == metrics["counts"]["10_pool_r1"]["num_pairs"]
    assert {sample["joined_round"] for sample in pool} == {1}
    assert metrics["ranking"]["scores"].keys() == {"reward", "likelihood", "consensus", "choice"}
    # The rows that one judges by do not bound those of the other.
    assert metrics["counts"][RANKING_STAGE]["num_prompts"] == 4
    assert metrics["counts"]["13_tuned"]["num_rows"] == 2
    assert -1 <= metrics["figures"]["09_scored_r1"]["reward_length_correlation"] <= 1


def test_too_few_clients_are_refused(base: Path, config: ServerConfig, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match="min_clients"):
        run_pipeline(make_releases(base)[:1], config=config, run_folder=tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_runs_share_what_does_not_depend_on_their_releases(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    shared = SharedStages(tmp_path / "shared")
    releases = make_releases(base)
    other = make_releases(base, client_names=("clinic-a",))

    for name, items in (("one", releases), ("two", releases), ("three", other)):
        run_pipeline(items, config=config, run_folder=tmp_path / name, shared=shared)

    manifests = {
        name: json.loads((tmp_path / name / "manifest.json").read_text(encoding="utf-8"))
        for name in ("one", "two", "three")
    }
    assert manifests["one"]["taken"] == {}
    # Every stage has a fingerprint: the second run does none of them itself.
    assert manifests["two"]["taken"].keys() == manifests["one"]["stages"].keys()
    assert set(manifests["three"]["taken"]) == {"13_untuned"}
    metrics = [read_metrics(tmp_path / name / "metrics.json") for name in ("one", "two")]
    assert metrics[0]["tuned"] == metrics[1]["tuned"]


def test_runs_that_differ_in_filtering_share_the_answers_that_are_ranked(
    base: Path, config: ServerConfig, tmp_path: Path
) -> None:
    shared = SharedStages(tmp_path / "shared")
    releases = make_releases(base)
    config = dataclasses.replace(answering_often(config), ranking=RankingConfig(max_rows=4))
    rankings = {}
    for choose_by in ("ranks", "first"):
        own = dataclasses.replace(
            config, filtering=dataclasses.replace(config.filtering, choose_by=choose_by)
        )
        run_pipeline(releases, config=own, run_folder=tmp_path / choose_by, shared=shared)
        rankings[choose_by] = read_metrics(tmp_path / choose_by / "metrics.json")["ranking"]

    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text(encoding="utf-8"))
    assert RANKING_STAGE in manifest["taken"]
    ranks, first = rankings["ranks"]["scores"], rankings["first"]["scores"]
    assert first["likelihood"] == ranks["likelihood"]
    # What chooses is each run's own: the first answer is chosen without a look at any.
    assert first["choice"]["rank_correlation"]["mean"] == 0.0
    assert ranks["choice"]["rank_correlation"]["mean"] != 0.0
