"""Every setting of a client fails before a record is read or a model loaded."""

from __future__ import annotations

import math
from typing import Any

import pytest

from client_side.config import (
    BudgetConfig,
    ClientConfig,
    DpTrainingConfig,
    GeneratorConfig,
    LoraConfig,
    PreferencesConfig,
    RecordsConfig,
    RewardProxyConfig,
    Unit,
)
from protocol.errors import ConfigurationError


@pytest.mark.parametrize(
    ("schema", "values", "told"),
    [
        (BudgetConfig, {"target_epsilon": 0.0}, "budget.target_epsilon"),
        (BudgetConfig, {"target_epsilon": -1.0}, "budget.target_epsilon"),
        (BudgetConfig, {"target_epsilon": math.inf}, "budget.target_epsilon"),
        (BudgetConfig, {"target_delta": 0.0}, "budget.target_delta"),
        (BudgetConfig, {"target_delta": 1.0}, "budget.target_delta"),
        # The accountant takes none below 1e-9, and says so when the first request comes.
        (BudgetConfig, {"target_delta": 1e-10}, "budget.target_delta"),
        (BudgetConfig, {"noise_seed": -1}, "budget.noise_seed"),
        (BudgetConfig, {"lifetime_epsilon_cap": 0.0}, "budget.lifetime_epsilon_cap"),
        (BudgetConfig, {"target_epsilon": 9.0}, "lifetime_epsilon_cap >= budget.target_epsilon"),
        (BudgetConfig, {"reward_noise_ratio": 0.0}, "budget.reward_noise_ratio"),
        (RecordsConfig, {"path": ""}, "records.path"),
        (RecordsConfig, {"instruction": " "}, "records.instruction"),
        # The certificate takes none of these, and is made only after the training.
        (RecordsConfig, {"instruction": "Answer\u00a0it."}, "records.instruction"),
        (RecordsConfig, {"instruction": "Answer\u202fit."}, "records.instruction"),
        (RecordsConfig, {"instruction": "Answer\u200bit."}, "records.instruction"),
        (RecordsConfig, {"instruction": "Answer\tit."}, "records.instruction"),
        (RecordsConfig, {"instruction": "a" * 4001}, "records.instruction"),
        (RecordsConfig, {"declared_size": 0}, "records.declared_size"),
        (RecordsConfig, {"max_prompt_tokens": 0}, "records.max_prompt_tokens"),
        (RecordsConfig, {"max_records_per_unit": 2}, "records.max_records_per_unit"),
        (RecordsConfig, {"privacy_unit": Unit.GROUP}, "records.group_column"),
        (LoraConfig, {"rank": 0}, "lora.rank"),
        (LoraConfig, {"alpha": 0.0}, "lora.alpha"),
        (LoraConfig, {"target_modules": []}, "lora.target_modules"),
        (LoraConfig, {"num_upper_layers": 0}, "lora.num_upper_layers"),
        (DpTrainingConfig, {"steps": 0}, "steps"),
        (DpTrainingConfig, {"expected_batch_size": 0}, "expected_batch_size"),
        (DpTrainingConfig, {"max_grad_norm": 0.0}, "max_grad_norm"),
        (DpTrainingConfig, {"learning_rate": math.nan}, "learning_rate"),
        (DpTrainingConfig, {"warmup_fraction": 1.5}, "warmup_fraction"),
        (DpTrainingConfig, {"adam_beta2": 1.0}, "adam_beta2"),
        (GeneratorConfig, {"prompt_loss_weight": 1.5}, "prompt_loss_weight"),
        (GeneratorConfig, {"end_token_weight": 0.0}, "end_token_weight"),
        (RewardProxyConfig, {"head_learning_rate_ratio": 0.0}, "head_learning_rate_ratio"),
        (RewardProxyConfig, {"head_learning_rate_ratio": 1e7}, "head_learning_rate_ratio"),
        (
            PreferencesConfig,
            {"chosen_over_base": 0.0, "chosen_over_generator": 0.0},
            "not all zero",
        ),
        (PreferencesConfig, {"temperature": math.inf}, "preferences.temperature"),
        (PreferencesConfig, {"temperature": 1e-40}, "preferences.temperature"),
        (PreferencesConfig, {"top_p": 0.0}, "preferences.top_p"),
        (PreferencesConfig, {"when_cut": "burn"}, "one of keep, trim"),
        (PreferencesConfig, {"engine": "fast"}, "one of auto, openvino, transformers"),
        (PreferencesConfig, {"engine": "vllm"}, "one of auto, openvino, transformers"),
        (ClientConfig, {"name": "../up"}, "client_side.name"),
        (ClientConfig, {"name": "Straße"}, "A-Z, a-z, 0-9"),
        (ClientConfig, {"name": "-ward"}, "client_side.name"),
        (ClientConfig, {"name": "ward\n"}, "client_side.name"),
        (ClientConfig, {"num_threads": 0}, "client_side.num_threads"),
        (
            ClientConfig,
            {"records": RecordsConfig(declared_size=10)},
            "expected_batch_size <= records.declared_size",
        ),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(
    schema: type, values: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told.replace(".", r"\.")):
        schema(**values)


def test_the_defaults_are_valid() -> None:
    assert ClientConfig().budget.target_epsilon <= ClientConfig().budget.lifetime_epsilon_cap
