"""Step sizes of the optimiser, against values worked out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from client_side.config import DpTrainingConfig, GeneratorConfig, RewardProxyConfig
from client_side.proxy_optimizer import ProxyOptimizer, relative_step_size


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 0.4 x 5 = 2 steps of warm-up in thirds, then from 1 to 0.1 in the 2 after the peak.
        (
            {"steps": 5, "warmup_fraction": 0.4, "decay_to_fraction": 0.1},
            [1 / 3, 2 / 3, 1.0, 0.55, 0.1],
        ),
        (
            {"steps": 5, "warmup_fraction": 0.0, "decay_to_fraction": 0.0},
            [1.0, 0.75, 0.5, 0.25, 0.0],
        ),
        ({"steps": 3, "warmup_fraction": 0.0, "decay_to_fraction": 1.0}, [1.0, 1.0, 1.0]),
        ({"steps": 2, "warmup_fraction": 0.5, "decay_to_fraction": 0.5}, [0.5, 1.0]),
        ({"steps": 1, "warmup_fraction": 0.0, "decay_to_fraction": 0.1}, [1.0]),
    ],
)
def test_the_step_size_rises_to_its_peak_and_falls_to_the_end(
    settings: dict[str, Any], expected: list[float]
) -> None:
    config = DpTrainingConfig(**settings)

    sizes = [relative_step_size(step, config) for step in range(config.steps)]

    assert sizes == pytest.approx(expected)


class _Proxy(nn.Module):
    """One weight of an adapter and one of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.adapter = nn.Parameter(torch.zeros(1))
        self.reward_head = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.reward_head.weight)


@pytest.mark.parametrize(
    ("config", "ratio"),
    [
        (RewardProxyConfig(steps=5, learning_rate=0.01, head_learning_rate_ratio=7.0), 7.0),
        (GeneratorConfig(steps=5, learning_rate=0.01), 1.0),
    ],
    ids=["reward", "generator"],
)
def test_a_step_goes_as_far_as_peak_schedule_and_the_heads_ratio_say(
    config: DpTrainingConfig, ratio: float
) -> None:
    """While the gradient stays the same, Adam goes by its step size, whatever the gradient's."""
    model = _Proxy()
    optimizer = ProxyOptimizer(model, config)
    places = [(0.0, 0.0)]

    for step in range(5):
        optimizer.step(torch.tensor([3.0, 0.2], dtype=torch.float64), number=step)
        places.append((model.adapter.item(), model.reward_head.weight.item()))

    for step, (before, after) in enumerate(itertools.pairwise(places)):
        size = 0.01 * relative_step_size(step, config)
        assert before[0] - after[0] == pytest.approx(size, rel=1e-4)
        assert before[1] - after[1] == pytest.approx(size * ratio, rel=1e-4)
