"""Our gradients by row against those of Opacus's hooks, which are the oracle."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from torch import nn

from client_side.dp_sgd import DpSgdTask
from client_side.row_gradients import RowGradients, clear
from lm.adapters import freeze_a
from tests.support.dp_tasks import LORA, generator_task, reward_task

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _opacus_rows(task: DpSgdTask[Any]) -> list[torch.Tensor]:
    hooked = GradSampleModule(task.model.train(), loss_reduction="sum", strict=False)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    losses, _ = task.unit_loss(task.model, task.units)
    with warnings.catch_warnings():
        # The lowest adapted layer reads frozen embeddings, which need no gradient.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        losses.sum().backward()
    rows = [p.grad_sample.clone() for p in parameters]
    hooked.to_standard_module()
    for parameter in parameters:
        clear(parameter)
    return rows


def _own_rows(task: DpSgdTask[Any], *, also_whole: bool) -> list[torch.Tensor]:
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    with RowGradients(task.model.train(), also_whole=also_whole):
        losses, _ = task.unit_loss(task.model, task.units)
        losses.sum().backward()
        assert all((p.grad is not None) == also_whole for p in parameters)
        return [p.grad_sample.clone() for p in parameters]


@pytest.mark.parametrize("make_task", [generator_task, reward_task])
@pytest.mark.parametrize("modules", [("q_proj", "v_proj"), ALL_LINEAR])
@pytest.mark.parametrize("freezes_a", [False, True])
@pytest.mark.parametrize("also_whole", [False, True])
def test_rows_equal_those_of_opacus(
    tiny_model: Path,
    make_task: Any,
    modules: tuple[str, ...],
    freezes_a: bool,
    also_whole: bool,
) -> None:
    """Both proxies, Llama and Qwen2, attention and all linear layers, A trained or frozen."""
    lora = replace(LORA, target_modules=modules)
    task = make_task(tiny_model, records_per_unit=2, lora=lora)
    if freezes_a:
        freeze_a(getattr(task.model, "adapted", task.model))

    found = _own_rows(task, also_whole=also_whole)

    expected = _opacus_rows(task)
    assert any(bool(rows.abs().max() > 1e-3) for rows in expected)
    for own, oracle in zip(found, expected, strict=True):
        torch.testing.assert_close(own, oracle, rtol=1e-4, atol=1e-7)


def test_afterwards_a_model_is_as_it_was(tiny_llama: Path) -> None:
    task = generator_task(tiny_llama, records_per_unit=1)
    trainable = [name for name, p in task.model.named_parameters() if p.requires_grad]

    _own_rows(task, also_whole=False)

    assert [name for name, p in task.model.named_parameters() if p.requires_grad] == trainable
    assert all(p.grad is None for p in task.model.parameters())
    assert not any(m._forward_hooks for m in task.model.modules() if isinstance(m, nn.Linear))


def test_a_layer_that_is_called_twice_gets_the_sum_of_both(tiny_llama: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2, bias=False)
    first, second = torch.randn(4, 3), torch.randn(4, 3)

    with RowGradients(layer, also_whole=False):
        (layer(first).sin() + layer(second).square()).sum().backward()
        found = layer.weight.grad_sample.clone()

    for row in range(4):
        (expected,) = torch.autograd.grad(
            (layer(first[row]).sin() + layer(second[row]).square()).sum(), layer.weight
        )
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.LayerNorm(2), nn.Embedding(3, 2)])
def test_any_other_trainable_weight_is_refused(model: nn.Module) -> None:
    """It would be trained without a clip."""
    with pytest.raises(RuntimeError, match="Expected every trainable weight"):
        RowGradients(model, also_whole=False)
