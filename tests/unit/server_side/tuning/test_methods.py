"""LoRA, QLoRA and full: which weights move, what is left on disk, and that later stages take it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

from lm.adapters import adapter_tensors
from lm.loading import load_causal_lm
from protocol.errors import ConfigurationError, StageError
from server_side.config import FinetuningConfig
from server_side.tuning import trainers as tuning_trainers
from server_side.tuning.model import trainable_target
from server_side.tuning.target_adapter import read_adapter
from server_side.tuning.tuned_target import (
    TunedTarget,
    is_adapter,
    load_tuned_target,
    merge_tuned_target,
)
from tests.support.tiny_models import build_tiny_model
from tests.unit.server_side.test_finetuning import CONFIG, _tune

FULL = CONFIG | {"method": "full", "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Wide enough for a block of 4-bit weights.
    return build_tiny_model(tmp_path_factory.mktemp("target"), hidden_size=64)


@pytest.fixture(scope="module")
def full(target: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedTarget:
    return _tune(target, tmp_path_factory.mktemp("full"), config=FinetuningConfig(**FULL))


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(torch.arange(3, 40)[None]).logits
    return found


def test_full_tuning_lowers_the_loss_and_moves_every_weight(
    target: Path, full: TunedTarget
) -> None:
    before = load_causal_lm(target).state_dict()
    after = load_causal_lm(full.folder).state_dict()

    assert full.losses[-1] < full.losses[0]
    assert before.keys() == after.keys()
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_full_tuning_leaves_an_ordinary_model_folder_in_float32(
    target: Path, full: TunedTarget, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(full.folder)
    ours = load_tuned_target(target, full.folder, dtype=torch.float32, device="cpu")

    assert not is_adapter(full.folder)
    assert model.dtype == torch.float32
    assert torch.equal(logits(model), logits(ours))
    assert AutoTokenizer.from_pretrained(full.folder).chat_template
    assert (
        merge_tuned_target(target_folder=target, tuned=full.folder, out_folder=tmp_path / "merged")
        == full.folder
    )


@pytest.mark.parametrize("settings", [CONFIG, FULL])
def test_a_tuning_that_diverges_in_its_very_last_step_leaves_nothing(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """The loss is finite and its gradient is not; no later loss tells of the weights."""
    loss_of = tuning_trainers._SftTrainer.compute_loss

    def spoiled(self: Any, model: Any, *others: Any, **named: Any) -> Any:
        weight = next(p for p in model.parameters() if p.requires_grad)
        return loss_of(self, model, *others, **named) + (weight * 0).sum().sqrt()

    monkeypatch.setattr(tuning_trainers._SftTrainer, "compute_loss", spoiled)
    config = FinetuningConfig(**settings | {"num_steps": 1, "warmup_fraction": 0.0})

    with pytest.raises(StageError, match=r"diverged\. Lower finetuning\.learning_rate"):
        _tune(target, tmp_path, config=config)
    assert not (tmp_path / "tuned").exists()


def test_full_tuning_goes_on_from_the_previous_round(
    target: Path, full: TunedTarget, tmp_path: Path
) -> None:
    config = FinetuningConfig(**FULL)
    second = _tune(target, tmp_path, config=config, previous=full.folder, round_index=2)

    assert second.losses[0] < full.losses[-1] + 0.1 < full.losses[0]
    assert second.digest != full.digest


def test_full_tuning_in_bfloat16_keeps_weights_that_a_bfloat16_cannot_hold(
    target: Path, tmp_path: Path
) -> None:
    tuned = _tune(target, tmp_path, config=FinetuningConfig(**FULL | {"dtype": "bfloat16"}))
    weights = load_causal_lm(tuned.folder).state_dict().values()

    assert tuned.losses[-1] < tuned.losses[0]
    assert any(not torch.equal(weight, weight.bfloat16().float()) for weight in weights)


def test_a_round_by_another_method_is_refused(
    target: Path, full: TunedTarget, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="method=lora, found a whole model"):
        _tune(target, tmp_path, previous=full.folder, round_index=2)


def test_rank_stabilised_lora_scales_by_the_root_of_the_rank(target: Path, tmp_path: Path) -> None:
    config = FinetuningConfig(**CONFIG, use_rslora=True)
    tuned = _tune(target, tmp_path, config=config)
    model = trainable_target(target, tuned.folder, config, seed=0)
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    scales = {layer.scaling["default"] for layer in layers}

    assert read_adapter(tuned.folder).lora.use_rslora
    assert list(scales) == [pytest.approx(4.0 / 2**0.5)]
    with pytest.raises(ConfigurationError, match="use_rslora"):
        trainable_target(target, tuned.folder, FinetuningConfig(**CONFIG), seed=0)


def test_later_rounds_may_make_fewer_passes(target: Path, tmp_path: Path) -> None:
    config = FinetuningConfig(**CONFIG, num_epochs_later_rounds=1)
    first = _tune(target, tmp_path / "1", config=config)
    second = _tune(target, tmp_path / "2", config=config, previous=first.folder, round_index=2)

    assert (first.num_steps, second.num_steps) == (9, 3)


def test_qlora_without_its_package_is_an_early_error(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigurationError, match=r"bitsandbytes .* pip install -e '\.\[qlora\]'"):
        _tune(target, tmp_path, config=FinetuningConfig(**CONFIG | {"method": "qlora"}))


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_qlora_trains_a_float32_adapter_over_a_base_in_4_bits(
    target: Path, tmp_path: Path, objective: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="optional: holds a base in 4 bits")
    config = FinetuningConfig(
        **CONFIG | {"method": "qlora", "lora_dropout": 0.0, "objective": objective}
    )
    first = _tune(target, tmp_path / "1", config=config)
    second = _tune(target, tmp_path / "2", config=config, previous=first.folder, round_index=2)
    weights = read_adapter(second.folder).tensors
    model = trainable_target(target, first.folder, config, seed=0)
    types = {type(parameter).__name__ for parameter in model.parameters()}

    assert first.losses[-1] < first.losses[0]
    assert second.losses[-1] < second.losses[0]
    assert "Params4bit" in types
    # TRL would have rounded what the round started from, and what it ended with.
    for name, tensor in weights.items():
        rounded = torch.tensor(tensor).bfloat16().float().numpy()
        assert not np.array_equal(tensor, rounded), name
    # Later stages put the adapter over the target's own weights.
    over_own = load_tuned_target(target, second.folder, dtype=torch.float32, device="cpu")
    assert (logits(over_own) - logits(load_causal_lm(target))).abs().max() > 0.01


def test_qlora_goes_on_from_the_very_adapter_of_the_previous_round(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL rounds a quantised model's adapter to bfloat16 when a trainer is made."""
    pytest.importorskip("bitsandbytes", reason="optional: holds a base in 4 bits")
    config = FinetuningConfig(**CONFIG | {"method": "qlora"})
    first = _tune(target, tmp_path / "1", config=config)
    started: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "transformers.Trainer.train",
        lambda self, **kwargs: started.append(adapter_tensors(self.model)),
    )

    _tune(target, tmp_path / "2", config=config, previous=first.folder, round_index=2)
    stored = read_adapter(first.folder).tensors
    assert all(np.array_equal(started[0][name], stored[name]) for name in stored)
