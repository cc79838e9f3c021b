"""Noise under a fixed seed: repeatable, and still a stream of its own for each step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from client_side.dp_sgd import train_dp_sgd
from client_side.randomness import Randomness
from tests.support.dp_tasks import generator_task, make_config, make_plan


def test_no_two_steps_share_their_noise_even_under_a_fixed_seed(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two steps have in common, whoever sees both takes away."""
    drawn = []
    gaussian = Randomness.gaussian

    def keep(self: Randomness, size: int, *, standard_deviation: float) -> np.ndarray:
        noise = gaussian(self, size, standard_deviation=standard_deviation)
        drawn.append(noise)
        return noise

    monkeypatch.setattr(Randomness, "gaussian", keep)

    train_dp_sgd(
        generator_task(tiny_llama, records_per_unit=1),
        plan=make_plan(noise_multiplier=1.0, steps=3),
        batches=[np.array([], dtype=np.int64)] * 3,
        config=make_config(steps=3),
        randomness=Randomness(seed=0),
    )

    assert len(drawn) == 3
    correlations = np.abs(np.corrcoef(drawn)[np.triu_indices(3, k=1)])
    assert correlations.max() < 5 / math.sqrt(drawn[0].size)
