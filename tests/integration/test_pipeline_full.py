"""The server's job with a target of which every weight is tuned, by preference, from end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from lm.model_folders import base_model_digest
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
    digests = {
        base_model_digest(folder)
        for folder in (base, *tmp_path.glob("run/11_target_r?/tuned"), out / "target_model")
    }
    assert len(digests) == 3  # the untuned one, round 1, and round 2, which is handed over


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
