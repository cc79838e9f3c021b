"""A request on its way to a release: what the trainers get from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client_side import generator, reward_proxy
from client_side.randomness import Purpose, Randomness
from protocol.ledger import ProxyKind
from tests.support.answering import train
from tests.support.clients import client_config, make_client, training_request


def test_the_two_trainings_share_no_noise_even_under_a_fixed_seed(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise that two releases have in common, one of them takes away from the other."""
    config = client_config(tiny_llama)
    folder = make_client(
        tmp_path / "client-1", replace(config, budget=replace(config.budget, noise_seed=7))
    )
    given: list[Randomness] = []

    def noting(trainer: Callable[..., Any]) -> Callable[..., Any]:
        def note(*args: Any, randomness: Randomness, **kwargs: Any) -> Any:
            given.append(randomness)
            return trainer(*args, randomness=randomness, **kwargs)

        return note

    for module in (generator, reward_proxy):
        monkeypatch.setattr(module, "train_dp_sgd", noting(module.train_dp_sgd))

    for proxy in ProxyKind:
        train(training_request(tiny_llama, proxy), proxy=proxy, folder=folder)

    assert [source.is_reproducible for source in given] == [True, True]
    first, second = (
        source.child(Purpose.NOISE).gaussian(10_000, standard_deviation=1.0) for source in given
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(10_000)
