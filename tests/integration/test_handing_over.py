"""What the server's job hands over: of the last round, as an adapter or in all weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from lm.model_folders import base_model_digest
from server_side import pipeline
from server_side.config import SamplingConfig
from server_side.examination import Examination, judge_arm
from server_side.pipeline import run_pipeline
from tests.support.server_jobs import make_config, make_releases, write_test_rows
from tests.support.tiny_models import build_tiny_model

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def test_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_test_rows(tmp_path_factory.mktemp("data") / "test.jsonl")


def test_a_whole_model_goes_through_refinement_judgement_and_outputs(
    base: Path, test_file: Path, tmp_path: Path
) -> None:
    config = make_config(base, test_file)
    finetuning = replace(config.finetuning, method="full", objective="dpo")
    out = tmp_path / "out"
    (out / "target_adapter").mkdir(parents=True)  # of an earlier run

    run_pipeline(
        make_releases(base),
        config=replace(config, finetuning=finetuning),
        run_folder=tmp_path / "run",
        output_folder=out,
    )

    assert {path.name for path in out.iterdir()} == {
        "dataset", "metrics.json", "report.html", "target_model",
    }  # fmt: skip
    AutoModelForCausalLM.from_pretrained(out / "target_model")
    untuned, first, last, handed_over = (
        base_model_digest(folder)
        for folder in (
            base,
            *(tmp_path / "run" / f"11_target_r{number}" / "tuned" for number in (1, 2)),
            out / "target_model",
        )
    )
    assert len({untuned, first, last}) == 3
    assert handed_over == last


def test_an_adapter_is_handed_over_merged_as_well_when_asked(
    base: Path, test_file: Path, tmp_path: Path
) -> None:
    config = make_config(base, test_file)
    config = replace(
        config,
        finetuning=replace(config.finetuning, export_merged=True),
        refinement=replace(config.refinement, num_rounds=1),
    )

    run_pipeline(make_releases(base), config=config, run_folder=tmp_path)

    AutoModelForCausalLM.from_pretrained(tmp_path / "target_model")
    assert (tmp_path / "target_adapter" / "adapter_config.json").is_file()


def test_the_last_rounds_target_and_pool_are_judged_and_handed_over(
    base: Path, test_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Path | None] = []

    def note_and_judge(test: Examination, tuned: Path | None, **others: Any) -> object:
        judged.append(tuned)
        return judge_arm(test, tuned, **others)

    monkeypatch.setattr(pipeline, "judge_arm", note_and_judge)
    config = make_config(base, test_file)
    # Many and long, though a tiny model seldom ends a text: some rewrite shall join.
    often = SamplingConfig(max_new_tokens=128, top_p=1.0)
    config = replace(
        config,
        synthesis=replace(
            config.synthesis, num_queries=4, num_candidates=12, response_sampling=often
        ),
        refinement=replace(config.refinement, num_candidates=12, rewrite_sampling=often),
    )
    run_pipeline(make_releases(base), config=config, run_folder=tmp_path)

    targets = [
        (tmp_path / folder / "adapter_model.safetensors").read_bytes()
        for folder in ("11_target_r1/tuned", "11_target_r2/tuned", "target_adapter")
    ]
    pools = [
        {row["query_id"]: row["chosen"] for row in map(json.loads, rows.splitlines())}
        for rows in (
            (tmp_path / name).read_text(encoding="utf-8")
            for name in ("10_pool_r1.jsonl", "10_pool_r2.jsonl", "dataset/train.jsonl")
        )
    ]
    assert judged == [None, tmp_path / "11_target_r2" / "tuned"]
    for first, last, handed_over in (targets, pools):
        assert first != last == handed_over
