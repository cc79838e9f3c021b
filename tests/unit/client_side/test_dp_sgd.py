"""DP-SGD as a whole: noise, empty batches, steps, plans; the clip itself has a file of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from client_side import dp_sgd
from client_side.config import DpTrainingConfig, Precision, RewardProxyConfig
from client_side.dp_sgd import DpSgdTask, train_dp_sgd
from client_side.proxy_optimizer import ProxyOptimizer
from client_side.randomness import Randomness
from client_side.training_state import TrainingState
from protocol.errors import ConfigurationError
from tests.support.dp_tasks import generator_task, make_config, make_plan, reward_task


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator is here")
@pytest.mark.parametrize("make_task", [generator_task, reward_task])
def test_a_whole_training_runs_on_an_accelerator(tiny_model: Path, make_task: Any) -> None:
    task = make_task(tiny_model, records_per_unit=1, device="cuda")

    losses = train_dp_sgd(
        task,
        plan=make_plan(noise_multiplier=0.5, steps=2),
        batches=[np.arange(6), np.array([], dtype=np.int64)],
        config=make_config(steps=2),
        randomness=Randomness(seed=0),
    )

    assert math.isfinite(losses[0])
    assert all(bool(p.isfinite().all()) for p in task.model.parameters())


def test_zero_noise_and_a_huge_clip_is_plain_adam(tiny_llama: Path) -> None:
    task = generator_task(tiny_llama, records_per_unit=1)
    oracle = generator_task(tiny_llama, records_per_unit=1)
    drawn = np.arange(6)

    train_dp_sgd(
        task,
        plan=make_plan(max_grad_norm=1e6, steps=3, expected_batch_size=6.0),
        batches=[drawn] * 3,
        config=make_config(steps=3, decay_to_fraction=1.0),
        randomness=Randomness(seed=0),
    )

    parameters = [p for p in oracle.model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(parameters, lr=1e-2, betas=(0.9, 0.99))
    for _ in range(3):
        adam.zero_grad()
        losses, _ = oracle.unit_loss(oracle.model, oracle.units)
        losses.mean().backward()
        adam.step()
    for (name, found), expected in zip(
        task.model.named_parameters(), oracle.model.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_an_empty_batch_is_a_step_of_pure_noise(tiny_llama: Path) -> None:
    """Skipping it would tell that nobody was drawn, and would not be what is accounted."""
    task = generator_task(tiny_llama, records_per_unit=1)
    before = [p.detach().clone() for p in task.model.parameters() if p.requires_grad]

    losses = train_dp_sgd(
        task,
        plan=make_plan(noise_multiplier=1.0),
        batches=[np.array([], dtype=np.int64)],
        config=make_config(),
        randomness=Randomness(seed=0),
    )

    after = [p for p in task.model.parameters() if p.requires_grad]
    assert all(bool((a != b).all()) for a, b in zip(after, before, strict=True))
    assert math.isnan(losses[0])


@pytest.mark.parametrize("num_drawn", [0, 6])
def test_noise_has_the_standard_deviation_that_the_plan_states_whoever_was_drawn(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, num_drawn: int
) -> None:
    """What is left of each step's sum without the units' own part, which the test makes up.

    By a two-sided chi-square test the false-alarm probability is 1e-6.
    """
    task = generator_task(tiny_llama, records_per_unit=1)
    seen = _watch_gradients(monkeypatch)
    size = sum(p.numel() for p in task.model.parameters() if p.requires_grad)
    of_units = torch.linspace(-1.0, 1.0, size, dtype=torch.float64) * num_drawn
    # A copy each time: the noise is added in place.
    monkeypatch.setattr(dp_sgd, "_clipped_sum", lambda *_, **__: (of_units.clone(), 0.0))
    plan = make_plan(noise_multiplier=1.5, max_grad_norm=0.2, expected_batch_size=4.0, steps=20)

    train_dp_sgd(
        task,
        plan=plan,
        batches=[np.arange(num_drawn)] * 20,
        config=make_config(steps=20),
        randomness=Randomness(seed=1),
    )

    noise = (torch.stack(seen) * 4.0 - of_units).numpy()
    statistic = float((noise**2).sum()) / (1.5 * 0.2) ** 2
    low, high = stats.chi2.interval(1 - 1e-6, df=noise.size)
    assert low < statistic < high


def test_the_sum_is_divided_by_the_expected_batch_size_whoever_was_drawn(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that was drawn is private, and noise divided by it would not be as accounted."""
    task = generator_task(tiny_llama, records_per_unit=1)
    seen = _watch_gradients(monkeypatch)
    sums: list[torch.Tensor] = []
    original = dp_sgd._clipped_sum

    def watched(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, float]:
        total, loss_sum = original(*args, **kwargs)
        sums.append(total.clone())
        return total, loss_sum

    monkeypatch.setattr(dp_sgd, "_clipped_sum", watched)

    train_dp_sgd(
        task,
        plan=make_plan(expected_batch_size=4.0, steps=2),
        batches=[np.arange(6), np.arange(1)],
        config=make_config(steps=2),
        randomness=Randomness(seed=0),
    )

    assert all(bool(total.any()) for total in sums)
    torch.testing.assert_close(torch.stack(seen) * 4.0, torch.stack(sums))


def test_two_steps_never_share_their_noise(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = generator_task(tiny_llama, records_per_unit=1)
    seen = _watch_gradients(monkeypatch)

    train_dp_sgd(
        task,
        plan=make_plan(noise_multiplier=1.0, steps=2),
        batches=[np.array([], dtype=np.int64)] * 2,
        config=make_config(steps=2),
        randomness=Randomness(),
    )

    correlation = float(torch.corrcoef(torch.stack(seen))[0, 1])
    assert abs(correlation) < 5 / math.sqrt(seen[0].numel())


def test_a_training_that_moves_nothing_is_an_error(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = generator_task(tiny_llama, records_per_unit=1)
    monkeypatch.setattr(ProxyOptimizer, "step", lambda *_, **__: None)

    with pytest.raises(RuntimeError, match="no weight changed"):
        train_dp_sgd(
            task,
            plan=make_plan(),
            batches=[np.arange(2)],
            config=make_config(),
            randomness=Randomness(seed=0),
        )


def _watch_gradients(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Keep what goes into each step."""
    seen: list[torch.Tensor] = []
    original = ProxyOptimizer.step

    def spy(self: ProxyOptimizer, gradient: torch.Tensor, *, number: int) -> None:
        seen.append(gradient.clone())
        original(self, gradient, number=number)

    monkeypatch.setattr(ProxyOptimizer, "step", spy)
    return seen


def test_what_is_released_is_the_mean_of_the_last_iterates_where_asked(tiny_llama: Path) -> None:
    task = generator_task(tiny_llama, records_per_unit=1)
    states: list[TrainingState] = []

    train_dp_sgd(
        task,
        plan=make_plan(steps=4, expected_batch_size=6.0),
        batches=[np.arange(6)] * 4,
        config=make_config(steps=4, average_last_fraction=0.5),
        randomness=Randomness(seed=0),
        save=states.append,
    )

    for name, parameter in task.model.named_parameters():
        if parameter.requires_grad:
            third, fourth = (state.arrays[f"weights/{name}"] for state in states[2:])
            assert not np.array_equal(third, fourth)
            np.testing.assert_allclose(parameter.detach(), (third + fourth) / 2, rtol=1e-6)


@pytest.mark.parametrize("changes", [{"sample_rate": 0.0}, {"sample_rate": 1.5}])
def test_a_plan_refuses_a_sample_rate_that_is_no_probability(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="sample_rate"):
        make_plan(**changes)


def test_a_plan_refuses_noise_that_is_not_finite() -> None:
    with pytest.raises(ConfigurationError, match="noise_multiplier"):
        make_plan(noise_multiplier=math.nan)


def test_units_of_one_step_are_drawn_independently() -> None:
    """Poisson sampling: the number that is drawn varies like a binomial (chi-square, 1e-6)."""
    plan = make_plan(sample_rate=0.3, steps=4000)

    counts = [len(b) for b in plan.draw_batches(20, randomness=Randomness(seed=0))]

    observed = np.bincount(counts, minlength=21)
    expected = stats.binom.pmf(np.arange(21), 20, 0.3) * 4000
    big = expected >= 5
    statistic = float(((observed - expected)[big] ** 2 / expected[big]).sum())
    assert statistic < stats.chi2.ppf(1 - 1e-6, df=int(big.sum()) - 1)


def test_a_unit_is_drawn_in_each_step_anew() -> None:
    """A shuffled order would draw all equally often; coins vary it like a binomial (1e-6)."""
    plan = make_plan(sample_rate=0.3, steps=20)

    batches = plan.draw_batches(4000, randomness=Randomness(seed=0))

    observed = np.bincount(np.bincount(np.concatenate(batches), minlength=4000), minlength=21)
    expected = stats.binom.pmf(np.arange(21), 20, 0.3) * 4000
    big = expected >= 5
    statistic = float(((observed - expected)[big] ** 2 / expected[big]).sum())
    assert statistic < stats.chi2.ppf(1 - 1e-6, df=int(big.sum()) - 1)


class _Killed(Exception):
    pass


_AVERAGED: dict[str, Any] = {
    "steps": 5,
    "learning_rate": 1e-2,
    "precision": Precision.FLOAT32,
    "average_last_fraction": 0.6,
    "warmup_fraction": 0.4,
    "decay_to_fraction": 0.1,
}


@pytest.mark.parametrize("cut", [1, 3, 4, 5])
@pytest.mark.parametrize(
    ("make_task", "config"),
    [
        (generator_task, DpTrainingConfig(**_AVERAGED)),
        (reward_task, RewardProxyConfig(**_AVERAGED, head_learning_rate_ratio=7.0)),
    ],
)
def test_a_run_that_goes_on_from_its_state_ends_like_one_that_was_never_cut(
    tiny_llama: Path, make_task: Any, config: DpTrainingConfig, cut: int
) -> None:
    """Moments, schedule, averaged iterates and the head's own step size: bit for bit."""
    plan = make_plan(noise_multiplier=1.0, steps=5)

    def train(task: DpSgdTask[Any], **others: Any) -> list[float]:
        state = others.get("state", TrainingState())
        batches = plan.draw_batches(6, randomness=Randomness(seed=3), first_step=state.num_steps)
        return train_dp_sgd(
            task, plan=plan, batches=batches, config=config, randomness=Randomness(seed=3), **others
        )

    states: list[TrainingState] = []

    def save(state: TrainingState) -> None:
        states.append(state)
        if len(states) == cut:
            raise _Killed

    undisturbed, killed, resumed = (make_task(tiny_llama, records_per_unit=1) for _ in range(3))
    losses = train(undisturbed)
    with pytest.raises(_Killed):
        train(killed, save=save)
    steps: list[tuple[int, int]] = []
    again = train(
        resumed, state=states[-1], on_progress=lambda done, total: steps.append((done, total))
    )

    assert steps == [(step, 5) for step in range(cut + 1, 6)]
    assert np.array(again).tobytes() == np.array(losses).tobytes()
    for (name, found), expected in zip(
        resumed.model.named_parameters(), undisturbed.model.parameters(), strict=True
    ):
        assert torch.equal(found, expected), name


def test_a_run_that_goes_on_before_a_last_step_of_size_zero_ends_like_one_that_was_never_cut(
    tiny_llama: Path,
) -> None:
    """Nothing moves in that step, and nothing is wrong with it."""
    plan, config = (
        make_plan(noise_multiplier=1.0, steps=2),
        make_config(steps=2, decay_to_fraction=0.0),
    )
    states: list[TrainingState] = []
    whole, resumed = (generator_task(tiny_llama, records_per_unit=1) for _ in range(2))

    def train(task: DpSgdTask[Any], **others: Any) -> None:
        batches = [np.arange(2)] * (2 - (1 if "state" in others else 0))
        train_dp_sgd(
            task, plan=plan, batches=batches, config=config, randomness=Randomness(seed=3), **others
        )

    train(whole, save=states.append)
    train(resumed, state=states[0])

    for found, expected in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_a_run_that_goes_on_makes_as_many_steps_as_the_plan_has_left(tiny_llama: Path) -> None:
    """One step more would be a mechanism that nobody paid for."""
    task = generator_task(tiny_llama, records_per_unit=1)
    plan = make_plan(steps=2)

    with pytest.raises(RuntimeError, match="Expected 2 steps in all, found 1 done, 2 to do"):
        train_dp_sgd(
            task,
            plan=plan,
            batches=[np.arange(2)] * 2,
            config=make_config(steps=2),
            randomness=Randomness(seed=0),
            state=TrainingState(losses=(1.0,)),
        )


def test_units_of_remaining_steps_are_drawn_anew_where_nothing_is_seeded() -> None:
    plan = make_plan(sample_rate=0.5, steps=2)
    source = Randomness()

    (lost, again) = (plan.draw_batches(200, randomness=source, first_step=1) for _ in range(2))

    assert len(lost) == len(again) == 1
    assert not np.array_equal(lost[0], again[0])


def test_a_batch_that_does_not_fit_into_memory_names_the_setting(tiny_llama: Path) -> None:
    task = generator_task(tiny_llama, records_per_unit=1)

    def run_out_of_memory(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(ConfigurationError, match=r"full\. Lower this proxy's max_batch_tokens"):
        train_dp_sgd(
            replace(task, unit_loss=run_out_of_memory),
            plan=make_plan(steps=1),
            batches=[np.arange(6)],
            config=make_config(steps=1),
            randomness=Randomness(seed=0),
        )
