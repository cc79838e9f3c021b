"""The quick audit: the right code stays below its claim, and each broken variant is caught.

Every variant is a mistake that was made somewhere, kept here only. What stands in the last column
catches it as well, without attacking anything.

| Variant | Caught by the audit | and by |
| --- | --- | --- |
| no clipping | yes | clipped sums against a naive loop, `test_dp_sgd_clipping.py` |
| no noise | yes | the noise's deviation, `test_dp_sgd.py` |
| a person's records clipped one by one | yes | clipped sums of units, `test_dp_sgd_clipping.py` |
| ghost clipping with a (B, 1) loss | yes | clipped sums against a naive loop |
| noise from a seed that the attacker knows | yes | the certificate's mark, refused on admission |
| batches of a shuffled order | no, see below | the plan's draws in each step, `test_proxies.py` |
| negatives from a model tuned without noise | not tried | `ReleasedGenerator`, a type |

Canaries do not tell batches of a shuffled order from Poisson draws. Simulated for ideal ones (200
or 2000 orthogonal gradients, ε of 1 or 4), an attacker who weighs all steps by their likelihood
proves about as much in both cases, and less than the claim. So the draws themselves are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client_side import dp_sgd
from client_side.randomness import Randomness
from tests.support.auditing import (
    CLAIMED_EPSILON,
    Canaries,
    attack,
    build_wordy_model,
    make_canaries,
    noisy_gradients,
)

pytestmark = pytest.mark.timeout(300)

Clip = Callable[..., None]
_ADD_CLIPPED: Clip = dp_sgd._add_clipped
_RECORDS_PER_PERSON = 12


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wordy_model(tmp_path_factory.mktemp("wordy"))


@pytest.fixture(scope="module")
def canaries() -> Canaries:
    return make_canaries()


@pytest.fixture(scope="module")
def people() -> Canaries:
    return make_canaries(records_per_unit=_RECORDS_PER_PERSON)


def without_clipping(
    total: torch.Tensor,
    parameters: Sequence[nn.Parameter],
    unit_of_row: Sequence[int],
    *,
    num_units: int,
    max_grad_norm: float,
) -> None:
    _ADD_CLIPPED(total, parameters, unit_of_row, num_units=num_units, max_grad_norm=1e9)


def clipping_each_row(
    total: torch.Tensor,
    parameters: Sequence[nn.Parameter],
    unit_of_row: Sequence[int],
    *,
    num_units: int,
    max_grad_norm: float,
) -> None:
    rows = range(len(unit_of_row))
    _ADD_CLIPPED(total, parameters, rows, num_units=len(rows), max_grad_norm=max_grad_norm)


def ghost_clipping_with_a_column_of_losses(
    total: torch.Tensor,
    parameters: Sequence[nn.Parameter],
    unit_of_row: Sequence[int],
    *,
    num_units: int,
    max_grad_norm: float,
) -> None:
    """Coefficients (B,) times losses (B, 1) is (B, B): every loss gets the sum of all of them."""
    gradients = torch.cat([p.grad_sample.flatten(1) for p in parameters], dim=1).double()  # type: ignore[attr-defined]
    coefficients = (max_grad_norm / gradients.norm(dim=1)).clamp(max=1.0)
    broadcast = (coefficients[None, :] * torch.ones(len(gradients), 1)).sum(dim=1)
    total += broadcast.double() @ gradients


def test_the_right_code_stays_below_its_claim(base: Path, canaries: Canaries) -> None:
    gradient = noisy_gradients(canaries.trained(), base_folder=base)

    assert attack(gradient, canaries, base_folder=base).epsilon <= CLAIMED_EPSILON


def test_the_right_code_stays_below_its_claim_for_persons(base: Path, people: Canaries) -> None:
    gradient = noisy_gradients(people.trained(), base_folder=base)

    assert attack(gradient, people, base_folder=base).epsilon <= CLAIMED_EPSILON


@pytest.mark.parametrize("variant", [without_clipping, ghost_clipping_with_a_column_of_losses])
def test_the_audit_catches_records_that_are_not_clipped(
    variant: Clip, base: Path, canaries: Canaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dp_sgd, "_add_clipped", variant)

    gradient = noisy_gradients(canaries.trained(), base_folder=base)

    assert attack(gradient, canaries, base_folder=base).epsilon > CLAIMED_EPSILON


def test_the_audit_catches_a_persons_records_clipped_one_by_one(
    base: Path, people: Canaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counting each pair of a record as a unit does, with records in the place of pairs."""
    monkeypatch.setattr(dp_sgd, "_add_clipped", clipping_each_row)

    gradient = noisy_gradients(people.trained(), base_folder=base)

    assert attack(gradient, people, base_folder=base).epsilon > CLAIMED_EPSILON


def test_the_audit_catches_missing_noise(
    base: Path, canaries: Canaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silence(self: Randomness, size: int, *, standard_deviation: float) -> np.ndarray:
        return np.zeros(size)

    monkeypatch.setattr(Randomness, "gaussian", silence)

    gradient = noisy_gradients(canaries.trained(), base_folder=base)

    assert attack(gradient, canaries, base_folder=base).epsilon > CLAIMED_EPSILON


def test_the_audit_catches_noise_from_a_seed_that_the_attacker_knows(
    base: Path, canaries: Canaries
) -> None:
    """The attacker trains on a record of his own with the same seed and takes the noise off."""
    gradient = noisy_gradients(canaries.trained(), base_folder=base, randomness=Randomness(seed=42))
    own = [canaries.units[0][0]]

    known = noisy_gradients(own, base_folder=base, randomness=Randomness(seed=42))

    assert attack(gradient - known, canaries, base_folder=base).epsilon > CLAIMED_EPSILON


def test_noise_without_a_seed_cannot_be_taken_off(base: Path, canaries: Canaries) -> None:
    gradient = noisy_gradients(canaries.trained(), base_folder=base)

    other = noisy_gradients([canaries.units[0][0]], base_folder=base)

    assert attack(gradient - other, canaries, base_folder=base).epsilon <= CLAIMED_EPSILON
