"""Every ready-made experiment goes the whole way on tiny models, with its own choices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from client_side.records import SHIPPED_RECORDS
from lm.settings import save_settings, to_settings
from server_side.measuring.metrics import read_metrics
from simulations.config import TINY_MODEL, SimulateConfig
from simulations.run import simulate

pytestmark = pytest.mark.integration

CONF = Path(__file__).resolve().parents[2] / "conf"
# Other tests run the smoke experiment in many ways.
EXPERIMENTS = sorted({file.stem for file in (CONF / "experiment").glob("*.yaml")} - {"smoke"})

SMALL = (
    "num_records=60",
    "num_evaluation_records=12",
    "client_side.records.max_prompt_tokens=32",
    "client_side.records.max_response_tokens=32",
    "client_side.generator.steps=1",
    "client_side.generator.expected_batch_size=8",
    "client_side.reward_proxy.steps=1",
    "client_side.reward_proxy.expected_batch_size=8",
    "server_side.synthesis.num_queries=8",
    "server_side.finetuning.batch_size=4",
    "server_side.evaluation.max_rows=2",
    "server_side.evaluation.max_new_tokens=16",
    "server_side.evaluation.num_resamples=100",
)
"""Sizes of seconds."""

# A tiny model seldom ends a text and writes few words.
PATIENT = (
    "server_side.synthesis.min_prompt_words=1",
    "server_side.synthesis.min_response_words=1",
    "server_side.synthesis.max_attempts_factor=64",
    "server_side.synthesis.response_sampling.max_new_tokens=128",
    "server_side.refinement.min_response_words=1",
    "server_side.refinement.feedback_sampling.max_new_tokens=16",
    "server_side.refinement.rewrite_sampling.max_new_tokens=96",
)

# To compile a model for the other engine takes longer than to sample from it here.
ONE_PROCESS = (
    "runtime=in_process",
    "client_side.num_threads=1",
    "client_side.preferences.engine=transformers",
    "server_side.num_threads=1",
    "server_side.synthesis.engine=transformers",
    "server_side.refinement.engine=transformers",
    "server_side.evaluation.engine=transformers",
)


def settings(*overrides: str) -> SimulateConfig:
    with initialize_config_dir(str(CONF), version_base=None):
        return to_settings(SimulateConfig, compose("simulate", overrides=list(overrides)))


def made_up_records(experiment: SimulateConfig, folder: Path) -> list[str]:
    """Write the files that an experiment leaves to its user; none where records are shipped."""
    records, test = experiment.client_side.records, experiment.server_side.evaluation
    if records.path == SHIPPED_RECORDS:
        return []
    training = folder / "train.jsonl"
    write_rows(training, 40, records.prompt_column, records.response_column)
    testing = folder / "test.jsonl"
    write_rows(testing, 8, test.prompt_column, test.response_column, test.tests_column)
    return [f"client_side.records.path={training}", f"server_side.evaluation.path={testing}"]


def write_rows(
    file: Path, count: int, prompt: str | None, response: str | None, tests: str | None = None
) -> None:
    lines = []
    for i in range(count):
        row: dict[str, object] = {
            prompt or "prompt": f"Task {i} of {file.stem}.",
            response or "response": f"Answer {i}.",
        }
        if tests:
            row[tests] = ["assert add(1, 1) == 2"]
        lines.append(json.dumps(row) + "\n")
    file.write_text("".join(lines), encoding="utf-8")


def tiny(experiment: str, folder: Path) -> SimulateConfig:
    chosen = f"experiment={experiment}"
    as_it_is = settings(chosen)
    server = as_it_is.server_side
    return settings(
        chosen,
        *SMALL,
        *PATIENT,
        *ONE_PROCESS,
        *made_up_records(as_it_is, folder),
        f"client_side.base_model={TINY_MODEL}",
        f"server_side.target_model={TINY_MODEL}",
        f"server_side.finetuning.num_steps={server.refinement.num_rounds}",
        f"server_side.ranking.max_rows={min(server.ranking.max_rows, 2)}",
    )


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_ends_with_all_that_it_asks_for(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny(experiment, tmp_path)
    server, target_epsilon = config.server_side, config.client_side.budget.target_epsilon
    folder = tmp_path / "run"
    folder.mkdir()
    save_settings(config, folder / "simulate.yaml")

    simulate(config, folder)

    metrics = read_metrics(folder / "metrics.json")
    rounds = [stage for stage in metrics["seconds"] if stage.startswith("11_target_r")]
    assert len(rounds) == server.refinement.num_rounds
    ks = server.evaluation.pass_k if server.evaluation.tests_column else []
    for arm in (metrics["untuned"], metrics["tuned"]):
        assert set(arm.get("pass_at_k", {})) == {str(k) for k in ks}
    assert ("ranking" in metrics) == (server.ranking.max_rows > 0)
    assert set(metrics["privacy"]) == set(config.client_names)
    for ledger in metrics["privacy"].values():
        assert 0.9 * target_epsilon < ledger["epsilon"] <= target_epsilon
    assert (folder / "report.html").is_file()
