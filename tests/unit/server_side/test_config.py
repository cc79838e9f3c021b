from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
from omegaconf import OmegaConf

from lm.settings import SettingsError, to_settings
from protocol.errors import ConfigurationError
from server_side.config import (
    AdmissionConfig,
    EvaluationConfig,
    FilteringConfig,
    FinetuningConfig,
    RankingConfig,
    RefinementConfig,
    SamplingConfig,
    ScoringConfig,
    ServerConfig,
    SynthesisConfig,
    WarmStartConfig,
)


def merged(values: dict[str, object]) -> ServerConfig:
    """Do what an entry point does."""
    return to_settings(ServerConfig, OmegaConf.create(values))


def test_schema_converts_to_the_frozen_dataclasses() -> None:
    assert merged({}) == ServerConfig()


def test_schema_takes_values_of_every_kind() -> None:
    config = merged(
        {
            "synthesis": {
                "client_weights": {"north": 1, "south": 2},
                "prompt_sampling": {"top_p": 0.9},
            },
            "admission": {"allowed_public_keys": ["ab"]},
            "refinement": {"feedback_writer": "target", "max_queries": 5},
        }
    )

    assert config.synthesis.client_weights == {"north": 1.0, "south": 2.0}
    assert config.synthesis.prompt_sampling.top_p == 0.9
    assert config.admission.allowed_public_keys == ["ab"]
    assert config.refinement.feedback_writer == "target"


def test_schema_refuses_an_unknown_key() -> None:
    with pytest.raises(SettingsError):
        merged({"filtering": {"kk": 2}})


def test_value_out_of_range_fails_when_the_config_is_made() -> None:
    with pytest.raises(ConfigurationError, match=r"filtering\.alpha.*1\.5"):
        merged({"filtering": {"alpha": 1.5}})


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SynthesisConfig(num_queries=0), "synthesis.num_queries"),
        (lambda: SynthesisConfig(num_candidates=1), "synthesis.num_candidates"),
        (lambda: SynthesisConfig(max_prompt_words=1), "synthesis.max_prompt_words"),
        (lambda: SynthesisConfig(client_weights={"a": 0.0}), "synthesis.client_weights"),
        (lambda: SynthesisConfig(engine="fast"), "synthesis.engine"),
        (lambda: SynthesisConfig(max_attempts_factor=float("nan")), "max_attempts_factor"),
        (lambda: SynthesisConfig(max_attempts_factor=1e308), "max_attempts_factor"),
        (lambda: EvaluationConfig(temperature=0.0), "Expected evaluation.temperature to"),
        (lambda: EvaluationConfig(temperature=1e-40), "Expected evaluation.temperature to"),
        (lambda: EvaluationConfig(temperature=1e7), "Expected evaluation.temperature to"),
        (lambda: EvaluationConfig(repetition_penalty=1e-40), "evaluation.repetition_penalty"),
        (
            lambda: SynthesisConfig(prompt_sampling=SamplingConfig(temperature=0.0)),
            "Expected synthesis.prompt_sampling.temperature to",
        ),
        (
            lambda: SynthesisConfig(response_sampling=SamplingConfig(top_p=1.1)),
            "Expected synthesis.response_sampling.top_p to",
        ),
        (
            lambda: RefinementConfig(feedback_sampling=SamplingConfig(max_new_tokens=0)),
            "Expected refinement.feedback_sampling.max_new_tokens to",
        ),
        (
            lambda: RefinementConfig(rewrite_sampling=SamplingConfig(repetition_penalty=0.0)),
            "Expected refinement.rewrite_sampling.repetition_penalty to",
        ),
        (lambda: ScoringConfig(max_batch_tokens=0), "scoring.max_batch_tokens"),
        (lambda: SynthesisConfig(min_yield=1.5), "synthesis.min_yield"),
        (lambda: ScoringConfig(ensemble="max"), "scoring.ensemble"),
        (lambda: FilteringConfig(k=0.5), "filtering.k"),
        (lambda: FilteringConfig(choose_by="luck"), "filtering.choose_by"),
        (lambda: FilteringConfig(select_by="luck"), "filtering.select_by"),
        (lambda: FilteringConfig(max_similarity=0.0), "filtering.max_similarity"),
        (lambda: RefinementConfig(threshold="mean"), "refinement.threshold"),
        (lambda: RefinementConfig(pool_growth="shrink"), "refinement.pool_growth"),
        (lambda: RankingConfig(max_rows=-1), "ranking.max_rows"),
        (lambda: EvaluationConfig(max_rows=1), "evaluation.max_rows"),
        (lambda: FilteringConfig(consensus_weight=-1.0), "filtering.consensus_weight"),
        (lambda: RefinementConfig(num_rounds=0), "refinement.num_rounds"),
        (lambda: RefinementConfig(feedback_writer="me"), "refinement.feedback_writer"),
        (lambda: FinetuningConfig(learning_rate=-1.0), "finetuning.learning_rate"),
        (lambda: WarmStartConfig(learning_rate=math.inf), "warm_start.learning_rate"),
        (lambda: FinetuningConfig(target_modules=[]), "finetuning.target_modules"),
        (lambda: FinetuningConfig(method="dora"), "finetuning.method"),
        (lambda: FinetuningConfig(objective="ppo"), "finetuning.objective"),
        (lambda: FinetuningConfig(warmup_fraction=1.0), "finetuning.warmup_fraction"),
        (lambda: FinetuningConfig(report_to="all"), "finetuning.report_to"),
        (lambda: FinetuningConfig(preference_beta=0.0), "finetuning.preference_beta"),
        (lambda: FinetuningConfig(num_epochs_later_rounds=0), "finetuning.num_epochs_later_rounds"),
        (lambda: FinetuningConfig(num_steps=0), "finetuning.num_steps"),
        (
            lambda: FinetuningConfig(method="full", num_upper_layers=2),
            "finetuning.num_upper_layers",
        ),
        (lambda: FinetuningConfig(objective="dpo", lora_dropout=0.1), "finetuning.lora_dropout"),
        (lambda: EvaluationConfig(confidence_level=1.0), "evaluation.confidence_level"),
        (lambda: EvaluationConfig(pass_k=[2]), "evaluation.pass_k"),
        (lambda: EvaluationConfig(pass_k=[0]), "evaluation.pass_k"),
        (lambda: EvaluationConfig(pass_k=[]), "evaluation.pass_k"),
        (lambda: EvaluationConfig(pass_k=[1, 1]), "evaluation.pass_k"),
        (lambda: EvaluationConfig(samples_per_prompt=4, pass_k=[1, 5]), "evaluation.pass_k"),
        (lambda: EvaluationConfig(execution_seconds=0), "evaluation.execution_seconds"),
        (lambda: EvaluationConfig(execution_memory_bytes=1), "evaluation.execution_memory_bytes"),
        (lambda: EvaluationConfig(execution_memory_bytes=10**15), "execution_memory_bytes"),
        (lambda: EvaluationConfig(execution_seconds=10**9), "evaluation.execution_seconds"),
        (lambda: AdmissionConfig(max_delta=1.0), "admission.max_delta"),
        (lambda: ServerConfig(min_clients=0), "server_side.min_clients"),
        (
            lambda: ServerConfig(
                finetuning=FinetuningConfig(num_steps=2),
                refinement=RefinementConfig(num_rounds=3),
            ),
            "server_side.finetuning.num_steps",
        ),
        (
            lambda: ServerConfig(
                finetuning=FinetuningConfig(objective="dpo"),
                filtering=FilteringConfig(choose_by="first"),
            ),
            "server_side.finetuning.objective",
        ),
        (
            lambda: ServerConfig(synthesis=SynthesisConfig(engine="vllm")),
            "server_side.base_model_vllm_url",
        ),
        (
            lambda: ServerConfig(evaluation=EvaluationConfig(engine="vllm")),
            "server_side.target_model_vllm_url",
        ),
        (
            lambda: ServerConfig(
                refinement=RefinementConfig(engine="vllm"), target_model_vllm_url="http://host:1"
            ),
            "server_side.base_model_vllm_url",
        ),
        (
            lambda: ServerConfig(target_model_vllm_url="host:8000"),
            "server_side.target_model_vllm_url",
        ),
    ],
)
def test_bad_value_is_named_as_the_user_typed_it(make: Callable[[], object], name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()

    assert name in str(caught.value)
    assert str(caught.value).endswith(".")


def test_weights_that_pass_over_a_client_are_refused_and_an_explicit_zero_is_not() -> None:
    config = SynthesisConfig(client_weights={"north": 1.0, "suoth": 2.0, "west": 0.0})

    with pytest.raises(ConfigurationError, match=r"north, suoth, west and none for south, whose"):
        config.check_weights(["north", "south", "west"])
    config.check_weights(["north", "west"])
    SynthesisConfig().check_weights(["north", "south"])


def test_a_single_round_without_vllm_needs_no_server() -> None:
    """The refinement stage does not run then, whatever its engine."""
    config = ServerConfig(refinement=RefinementConfig(num_rounds=1, engine="vllm"))

    assert config.base_model_vllm_url is None


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        FilteringConfig().alpha = 0.1  # type: ignore[misc]
