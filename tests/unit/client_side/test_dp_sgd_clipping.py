"""The clipped sum of a step against a naive loop over units: both proxies, groups and pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client_side import dp_sgd, row_gradients
from client_side.dp_sgd import DpSgdTask
from client_side.randomness import Randomness
from lm.adapters import freeze_a
from lm.loading import load_causal_lm, load_tokenizer
from tests.support.dp_tasks import (
    LORA,
    generator_task,
    make_config,
    make_plan,
    reward_task,
)

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _naive_clipped_sum(
    task: DpSgdTask[Any], drawn: Sequence[int], *, max_grad_norm: float
) -> torch.Tensor:
    """One unit at a time, plain autograd, clip, add up."""
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for index in drawn:
        losses, _ = task.unit_loss(task.model, [task.units[index]])
        grads = torch.autograd.grad(losses.sum(), parameters)
        flat = torch.cat([g.flatten() for g in grads]).double()
        total += flat * min(1.0, max_grad_norm / float(flat.norm()))
    return total


def _clipped_sum(
    task: DpSgdTask[Any], drawn: Sequence[int], *, max_grad_norm: float, max_batch_tokens: int
) -> torch.Tensor:
    task.model.train()
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    total, _ = dp_sgd._clipped_sum(
        task,
        np.array(drawn),
        parameters,
        plan=make_plan(max_grad_norm=max_grad_norm),
        max_batch_tokens=max_batch_tokens,
    )
    return total


def _biased(folder: Path) -> Path:
    """Give a model biases that are not zero, as its trained relatives have."""
    model = load_causal_lm(folder)
    torch.manual_seed(2)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases
    for bias in biases:
        bias.normal_(std=0.3)
    copy = folder.parent / f"{folder.name}-biased"
    load_tokenizer(folder).save_pretrained(copy)
    model.save_pretrained(copy)
    return copy


@pytest.mark.parametrize("make_task", [generator_task, reward_task])
@pytest.mark.parametrize("records_per_unit", [1, 2, 3])
@pytest.mark.parametrize("max_batch_tokens", [1, 150, 10_000])
@pytest.mark.parametrize("max_grad_norm", [0.05, 1e6])
def test_clipped_sum_equals_a_naive_loop_over_units(
    tiny_model: Path,
    make_task: Any,
    records_per_unit: int,
    max_batch_tokens: int,
    max_grad_norm: float,
) -> None:
    """Both proxies, with groups and pairs, however the logical batch is cut."""
    task = make_task(tiny_model, records_per_unit=records_per_unit)
    drawn = list(range(len(task.units)))

    found = _clipped_sum(
        task, drawn, max_grad_norm=max_grad_norm, max_batch_tokens=max_batch_tokens
    )

    expected = _naive_clipped_sum(task, drawn, max_grad_norm=max_grad_norm)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make_task", [generator_task, reward_task])
@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("freezes_a", [False, True])
def test_clipped_sum_equals_the_naive_loop_with_all_linear_layers_and_biases(
    tiny_qwen2: Path, make_task: Any, use_rslora: bool, freezes_a: bool
) -> None:
    """Every linear layer of a Qwen2 whose frozen biases are not zero, both scalings of LoRA."""
    lora = replace(LORA, target_modules=ALL_LINEAR, rank=4, use_rslora=use_rslora)
    task = make_task(_biased(tiny_qwen2), records_per_unit=2, lora=lora)
    if freezes_a:
        freeze_a(getattr(task.model, "adapted", task.model))
    drawn = list(range(len(task.units)))

    found = _clipped_sum(task, drawn, max_grad_norm=0.05, max_batch_tokens=150)

    expected = _naive_clipped_sum(task, drawn, max_grad_norm=0.05)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator is here")
@pytest.mark.parametrize("make_task", [generator_task, reward_task])
def test_clipped_sum_on_an_accelerator_equals_that_on_a_cpu(
    tiny_model: Path, make_task: Any
) -> None:
    tasks = [make_task(tiny_model, records_per_unit=2, device=d) for d in ("cpu", "cuda")]
    drawn = list(range(len(tasks[0].units)))

    expected, found = (
        _clipped_sum(task, drawn, max_grad_norm=0.05, max_batch_tokens=150) for task in tasks
    )

    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("records_per_unit", [1, 3])
def test_no_unit_adds_more_than_the_clip(tiny_llama: Path, records_per_unit: int) -> None:
    task = generator_task(tiny_llama, records_per_unit=records_per_unit)

    for unit in range(len(task.units)):
        total = _clipped_sum(task, [unit], max_grad_norm=0.05, max_batch_tokens=500)

        assert float(total.norm()) <= 0.05 * (1 + 1e-9)


def test_a_unit_whose_gradient_is_not_finite_adds_nothing(tiny_llama: Path) -> None:
    task = generator_task(tiny_llama, records_per_unit=1)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad_sample = torch.ones((2, *parameter.shape))
        parameter.grad_sample[0] = math.nan
        parameter.grad = parameter.grad_sample.sum(dim=0)

    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    dp_sgd._add_clipped(total, parameters, [0, 1], num_units=2, max_grad_norm=0.05)

    assert float(total.norm()) == pytest.approx(0.05)


def test_gradients_that_do_not_add_up_are_noticed(tiny_llama: Path) -> None:
    """Opacus issue 820: hooks that return wrong LoRA gradients without a word."""
    task = generator_task(tiny_llama, records_per_unit=1)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad_sample = torch.ones((2, *parameter.shape))
        parameter.grad = torch.ones_like(parameter)

    with pytest.raises(RuntimeError, match="do not add up"):
        dp_sgd._check_rows(parameters)


@pytest.mark.parametrize("make_task", [generator_task, reward_task])
def test_wrong_row_gradients_end_a_training_before_its_first_batch(
    tiny_llama: Path, make_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows come out doubled; autograd's own gradient says so."""
    task = make_task(tiny_llama, records_per_unit=1)
    original = row_gradients._watch

    def doubled(layer: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return original(layer, (2 * inputs[0],), output)

    monkeypatch.setattr(row_gradients, "_watch", doubled)

    with pytest.raises(RuntimeError, match="do not add up"):
        dp_sgd.train_dp_sgd(
            task,
            plan=make_plan(),
            batches=[np.array([], dtype=np.int64)],
            config=make_config(),
            randomness=Randomness(seed=0),
        )
