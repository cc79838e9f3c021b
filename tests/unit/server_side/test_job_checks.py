"""What would end a job after clients have paid is found before they are asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, MistralConfig

from lm.errors import ModelFolderError
from protocol.errors import ConfigurationError, StageError
from server_side.config import (
    FinetuningConfig,
    RefinementConfig,
    SamplingConfig,
    ServerConfig,
    SynthesisConfig,
)
from server_side.job_checks import check_job
from tests.support.server_jobs import make_config, write_test_rows

SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
)
LONG = SamplingConfig(max_new_tokens=2000)


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> ServerConfig:
    return make_config(tiny_model, write_test_rows(tmp_path / "test.jsonl"))


def test_a_job_that_fits_its_models_passes(config: ServerConfig) -> None:
    check_job(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finetuning": FinetuningConfig(target_modules=["c_attn"])}, "c_attn.*It has .*q_proj"),
        ({"finetuning": FinetuningConfig(lora_rank=9999)}, r"server_side\.finetuning.*rank"),
        ({"synthesis": SynthesisConfig(prompt_sampling=LONG)}, "prompt_sampling"),
        ({"synthesis": SynthesisConfig(response_sampling=LONG)}, "response_sampling"),
        ({"refinement": RefinementConfig(feedback_sampling=LONG)}, "feedback_sampling"),
        ({"refinement": RefinementConfig(rewrite_sampling=LONG)}, "refinement"),
    ],
)
def test_settings_that_fit_no_model_are_named(
    changes: dict[str, object], said: str, config: ServerConfig
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check_job(replace(config, **changes))  # type: ignore[arg-type]  # by name


def test_answers_that_the_target_cannot_hold_are_not_found_only_at_the_end(
    config: ServerConfig,
) -> None:
    evaluation = replace(config.evaluation, max_new_tokens=2000)

    with pytest.raises(ConfigurationError, match=r"evaluation\.max_prompt_tokens and max_new"):
        check_job(replace(config, evaluation=evaluation))


def test_answers_longer_than_the_targets_window_are_not_found_only_at_the_end(
    config: ServerConfig, tmp_path: Path
) -> None:
    """A sampler refuses them, however many positions the model has."""
    folder = Path(shutil.copytree(config.target_model, tmp_path / "target"))
    shape = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    windowed = MistralConfig(
        **{name: shape[name] for name in SHAPE}, sliding_window=64, tie_word_embeddings=True
    )
    AutoModelForCausalLM.from_config(windowed).save_pretrained(folder)

    with pytest.raises(ConfigurationError, match="texts of at most 64 tokens"):
        check_job(replace(config, target_model=str(folder)))


def test_samplings_of_a_stage_that_is_left_out_do_not_count(config: ServerConfig) -> None:
    unused = RefinementConfig(num_rounds=1, feedback_sampling=LONG, rewrite_sampling=LONG)
    plain = RefinementConfig(feedback_writer="none", feedback_sampling=LONG)

    check_job(replace(config, refinement=unused))
    check_job(replace(config, refinement=plain))


def test_a_target_that_is_tuned_as_a_whole_needs_no_layers_by_name(config: ServerConfig) -> None:
    whole = FinetuningConfig(method="full", target_modules=["c_attn"])

    check_job(replace(config, finetuning=whole))


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def forget_the_architecture(folder: Path) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")


def take_an_unknown_one(folder: Path) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "model_type": "nobodys"}), encoding="utf-8")


def tear_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": ', encoding="utf-8")


@pytest.mark.parametrize(
    "spoil", [cut_weights, forget_the_architecture, take_an_unknown_one, tear_the_tokenizer]
)
def test_a_target_that_cannot_be_loaded_is_one_line(
    spoil: Callable[[Path], None], config: ServerConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "target"
    shutil.copytree(config.target_model, folder)
    spoil(folder)

    with pytest.raises(ModelFolderError, match="Expected a loadable causal") as caught:
        check_job(replace(config, target_model=str(folder)))
    assert len(str(caught.value).splitlines()) == 1


def test_prompts_of_which_none_can_be_answered_are_told_before_anybody_is_asked(
    config: ServerConfig, tmp_path: Path
) -> None:
    """Without them the job would be another one than was asked for."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "what about 3?"}\n{"prompt": "Ouch."}\n', encoding="utf-8")
    answered = replace(config.synthesis, public_prompts_path=str(file), min_prompt_words=2)

    with pytest.raises(StageError, match=r"found none of 2 \((in_test_set|too_short): 1, "):
        check_job(replace(config, synthesis=answered))


def test_a_test_beyond_rouge_is_told_before_anybody_is_asked(
    config: ServerConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every figure of ROUGE will be 0, whatever is paid for."""
    file = tmp_path / "foreign.jsonl"
    row = {"prompt": "Это опасно?", "response": "Нет, отдыхайте."}
    file.write_text(f"{json.dumps(row)}\n" * 2, encoding="utf-8")
    evaluation = replace(config.evaluation, path=str(file))

    check_job(config)
    assert not caplog.text
    check_job(replace(config, evaluation=evaluation))

    assert "2 of 2 test references hold no word" in caplog.text


def test_too_few_prompts_to_show_are_told_before_anybody_is_asked(
    config: ServerConfig, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "How long does it take to heal?"}\n', encoding="utf-8")
    shown = replace(config.synthesis, public_prompts_path=str(file), public_prompts_use="few_shot")

    with pytest.raises(StageError, match=r"num_public_examples.*found 1 of 1"):
        check_job(replace(config, synthesis=shown))
