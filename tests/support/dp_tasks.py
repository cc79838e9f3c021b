"""Small DP trainings for tests: both proxies on six records each, off the start of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from client_side.config import DpTrainingConfig, Precision
from client_side.dp_sgd import DpSgdPlan, DpSgdTask
from client_side.generator import GeneratorLoss
from client_side.preferences import PreferencePair, RecordPreferences
from client_side.reward_proxy import PairwiseLoss
from lm.adapters import attach_lora
from lm.encoding import encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.reward_head import build_reward_model
from protocol.artifacts import LoraShape

LORA = LoraShape(
    rank=2, alpha=4.0, target_modules=("q_proj", "v_proj"), num_upper_layers=None, use_rslora=False
)


def make_plan(**changes: Any) -> DpSgdPlan:
    values = {
        "noise_multiplier": 0.0,
        "sample_rate": 0.5,
        "expected_batch_size": 4.0,
        "steps": 1,
        "max_grad_norm": 0.05,
    }
    return DpSgdPlan(**(values | changes))


def make_config(**changes: Any) -> DpTrainingConfig:
    values: dict[str, Any] = {"steps": 1, "learning_rate": 1e-2, "precision": Precision.FLOAT32}
    return DpTrainingConfig(**(values | changes))


def generator_task(
    folder: Path, *, records_per_unit: int, lora: LoraShape = LORA, device: str = "cpu"
) -> DpSgdTask[Any]:
    tokenizer = load_tokenizer(folder)
    texts = [(f"question {'x' * i}", f"answer {'y' * (9 - i)}") for i in range(6)]
    chats = [
        encode_chat(tokenizer, instruction="Go.", prompt=prompt, response=response)
        for prompt, response in texts
    ]
    units = [chats[i : i + records_per_unit] for i in range(0, len(chats), records_per_unit)]
    model = attach_lora(load_causal_lm(folder, device=device), lora, seed=0)
    _shake(model)
    return DpSgdTask(
        model=model,
        units=units,
        unit_loss=GeneratorLoss(prompt_loss_weight=0.4),
        unit_size=lambda unit: (len(unit), max(len(chat.input_ids) for chat in unit)),
        probe=[[chats[0]], [chats[-1]]],
    )


def reward_task(
    folder: Path, *, records_per_unit: int, lora: LoraShape = LORA, device: str = "cpu"
) -> DpSgdTask[Any]:
    tokenizer = load_tokenizer(folder)
    pairs = (
        PreferencePair(chosen=0, rejected=1, weight=0.5),
        PreferencePair(chosen=0, rejected=2, weight=0.3),
        PreferencePair(chosen=1, rejected=2, weight=0.2),
    )
    records = [
        RecordPreferences(
            prefix=tuple(tokenizer(f"question {'x' * i}")["input_ids"]),
            responses=tuple(tuple(tokenizer(text)["input_ids"]) for text in ("own", "other", "x")),
            pairs=pairs,
        )
        for i in range(6)
    ]
    units = [records[i : i + records_per_unit] for i in range(0, len(records), records_per_unit)]
    model = build_reward_model(folder, lora, seed=0, dtype=torch.float32, device=device)
    _shake(model)
    return DpSgdTask(
        model=model,
        units=units,
        unit_loss=PairwiseLoss(),
        unit_size=lambda unit: (len(unit), 30),
        probe=[[records[0]], [records[-1]]],
    )


def _shake(model: nn.Module) -> None:
    """Move off the start, where half of the LoRA gradients are zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape) * 0.1
                parameter.add_(noise.to(parameter.device))
