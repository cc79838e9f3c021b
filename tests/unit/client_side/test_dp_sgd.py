"""DP-SGD against a naive loop over units, and each fact the proof rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from client_side import dp_sgd
from client_side.config import DpTrainingConfig, Precision, RewardProxyConfig
from client_side.dp_sgd import DpSgdPlan, DpSgdTask, train_dp_sgd
from client_side.generator import GeneratorLoss
from client_side.preferences import PreferencePair, RecordPreferences
from client_side.proxy_optimizer import ProxyOptimizer
from client_side.randomness import Randomness
from client_side.reward_proxy import PairwiseLoss
from client_side.training_state import TrainingState
from lm.adapters import attach_lora
from lm.encoding import encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.reward_head import build_reward_model
from protocol.artifacts import LoraShape
from protocol.errors import ConfigurationError

LORA = LoraShape(
    rank=2, alpha=4.0, target_modules=("q_proj", "v_proj"), num_upper_layers=None, use_rslora=False
)


def _plan(**changes: Any) -> DpSgdPlan:
    values = {
        "noise_multiplier": 0.0,
        "sample_rate": 0.5,
        "expected_batch_size": 4.0,
        "steps": 1,
        "max_grad_norm": 0.05,
    }
    return DpSgdPlan(**(values | changes))


def _config(**changes: Any) -> DpTrainingConfig:
    values: dict[str, Any] = {"steps": 1, "learning_rate": 1e-2, "precision": Precision.FLOAT32}
    return DpTrainingConfig(**(values | changes))


def _generator_task(folder: Path, *, records_per_unit: int) -> DpSgdTask[Any]:
    tokenizer = load_tokenizer(folder)
    texts = [(f"question {'x' * i}", f"answer {'y' * (9 - i)}") for i in range(6)]
    chats = [
        encode_chat(tokenizer, instruction="Go.", prompt=prompt, response=response)
        for prompt, response in texts
    ]
    units = [chats[i : i + records_per_unit] for i in range(0, len(chats), records_per_unit)]
    model = attach_lora(load_causal_lm(folder), LORA, seed=0)
    _shake(model)
    return DpSgdTask(
        model=model,
        units=units,
        unit_loss=GeneratorLoss(prompt_loss_weight=0.4),
        unit_size=lambda unit: (len(unit), max(len(chat.input_ids) for chat in unit)),
    )


def _reward_task(folder: Path, *, records_per_unit: int) -> DpSgdTask[Any]:
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
    model = build_reward_model(folder, LORA, seed=0, dtype=torch.float32)
    _shake(model)
    return DpSgdTask(
        model=model,
        units=units,
        unit_loss=PairwiseLoss(),
        unit_size=lambda unit: (len(unit), 30),
    )


def _shake(model: nn.Module) -> None:
    """Move off the start, where half of the LoRA gradients are zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)


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
    hooked = dp_sgd.GradSampleModule(task.model.train(), loss_reduction="sum", strict=False)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    total, _ = dp_sgd._clipped_sum(
        hooked,
        task,
        np.array(drawn),
        parameters,
        plan=_plan(max_grad_norm=max_grad_norm),
        max_batch_tokens=max_batch_tokens,
    )
    hooked.to_standard_module()
    return total


@pytest.mark.parametrize("make_task", [_generator_task, _reward_task])
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


@pytest.mark.parametrize("records_per_unit", [1, 3])
def test_no_unit_adds_more_than_the_clip(tiny_llama: Path, records_per_unit: int) -> None:
    task = _generator_task(tiny_llama, records_per_unit=records_per_unit)

    for unit in range(len(task.units)):
        total = _clipped_sum(task, [unit], max_grad_norm=0.05, max_batch_tokens=500)

        assert float(total.norm()) <= 0.05 * (1 + 1e-9)


def test_a_unit_whose_gradient_is_not_finite_adds_nothing(tiny_llama: Path) -> None:
    task = _generator_task(tiny_llama, records_per_unit=1)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad_sample = torch.ones((2, *parameter.shape))
        parameter.grad_sample[0] = math.nan
        parameter.grad = parameter.grad_sample.sum(dim=0)

    total = dp_sgd._clip_units(parameters, [0, 1], num_units=2, max_grad_norm=0.05)

    assert float(total.norm()) == pytest.approx(0.05)


def test_zero_noise_and_a_huge_clip_is_plain_adam(tiny_llama: Path) -> None:
    task = _generator_task(tiny_llama, records_per_unit=1)
    oracle = _generator_task(tiny_llama, records_per_unit=1)
    drawn = np.arange(6)

    train_dp_sgd(
        task,
        plan=_plan(max_grad_norm=1e6, steps=3, expected_batch_size=6.0),
        batches=[drawn] * 3,
        config=_config(steps=3),
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
    task = _generator_task(tiny_llama, records_per_unit=1)
    before = [p.detach().clone() for p in task.model.parameters() if p.requires_grad]

    losses = train_dp_sgd(
        task,
        plan=_plan(noise_multiplier=1.0),
        batches=[np.array([], dtype=np.int64)],
        config=_config(),
        randomness=Randomness(seed=0),
    )

    after = [p for p in task.model.parameters() if p.requires_grad]
    assert all(bool((a != b).all()) for a, b in zip(after, before, strict=True))
    assert math.isnan(losses[0])


def test_noise_has_the_standard_deviation_that_the_plan_states(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty batch, so that the gradient is noise ÷ expected batch size.

    By a two-sided chi-square test the false-alarm probability is 1e-6.
    """
    task = _generator_task(tiny_llama, records_per_unit=1)
    seen = _watch_gradients(monkeypatch)
    plan = _plan(noise_multiplier=1.5, max_grad_norm=0.2, expected_batch_size=4.0, steps=20)
    train_dp_sgd(
        task,
        plan=plan,
        batches=[np.array([], dtype=np.int64)] * 20,
        config=_config(steps=20),
        randomness=Randomness(seed=1),
    )

    noise = torch.cat(seen).numpy()
    statistic = float((noise**2).sum()) / (1.5 * 0.2 / 4.0) ** 2
    low, high = stats.chi2.interval(1 - 1e-6, df=noise.size)
    assert low < statistic < high


def test_two_steps_never_share_their_noise(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _generator_task(tiny_llama, records_per_unit=1)
    seen = _watch_gradients(monkeypatch)

    train_dp_sgd(
        task,
        plan=_plan(noise_multiplier=1.0, steps=2),
        batches=[np.array([], dtype=np.int64)] * 2,
        config=_config(steps=2),
        randomness=Randomness(),
    )

    correlation = float(torch.corrcoef(torch.stack(seen))[0, 1])
    assert abs(correlation) < 5 / math.sqrt(seen[0].numel())


def test_a_training_that_moves_nothing_is_an_error(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _generator_task(tiny_llama, records_per_unit=1)
    monkeypatch.setattr(ProxyOptimizer, "step", lambda *_, **__: None)

    with pytest.raises(RuntimeError, match="no weight changed"):
        train_dp_sgd(
            task,
            plan=_plan(),
            batches=[np.arange(2)],
            config=_config(),
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


def test_gradients_that_do_not_add_up_are_noticed(tiny_llama: Path) -> None:
    """Opacus issue 820: hooks that return wrong LoRA gradients without a word."""
    task = _generator_task(tiny_llama, records_per_unit=1)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad_sample = torch.ones((2, *parameter.shape))
        parameter.grad = torch.ones_like(parameter)

    with pytest.raises(RuntimeError, match="do not add up"):
        dp_sgd._clip_units(parameters, [0, 1], num_units=2, max_grad_norm=0.05)


def test_the_last_iterates_are_averaged_where_asked(tiny_llama: Path) -> None:
    plain, averaged = (_generator_task(tiny_llama, records_per_unit=1) for _ in range(2))
    batches = [np.arange(6)] * 4
    plan = _plan(steps=4, expected_batch_size=6.0)

    train_dp_sgd(
        plain, plan=plan, batches=batches, config=_config(steps=4), randomness=Randomness(seed=0)
    )
    train_dp_sgd(
        averaged,
        plan=plan,
        batches=batches,
        config=_config(steps=4, average_last_fraction=0.5),
        randomness=Randomness(seed=0),
    )

    assert any(
        not torch.equal(a, b)
        for a, b in zip(plain.model.parameters(), averaged.model.parameters(), strict=True)
    )


@pytest.mark.parametrize("changes", [{"sample_rate": 0.0}, {"sample_rate": 1.5}])
def test_a_plan_refuses_a_sample_rate_that_is_no_probability(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="sample_rate"):
        _plan(**changes)


def test_a_plan_refuses_noise_that_is_not_finite() -> None:
    with pytest.raises(ConfigurationError, match="noise_multiplier"):
        _plan(noise_multiplier=math.nan)


def test_units_of_one_step_are_drawn_independently() -> None:
    """Poisson sampling: the number that is drawn varies like a binomial (chi-square, 1e-6)."""
    plan = _plan(sample_rate=0.3, steps=4000)

    counts = [len(b) for b in plan.draw_batches(20, randomness=Randomness(seed=0))]

    observed = np.bincount(counts, minlength=21)
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
        (_generator_task, DpTrainingConfig(**_AVERAGED)),
        (_reward_task, RewardProxyConfig(**_AVERAGED, head_learning_rate_ratio=7.0)),
    ],
)
def test_a_run_that_goes_on_from_its_state_ends_like_one_that_was_never_cut(
    tiny_llama: Path, make_task: Any, config: DpTrainingConfig, cut: int
) -> None:
    """Moments, schedule, averaged iterates and the head's own step size: bit for bit."""
    plan = _plan(noise_multiplier=1.0, steps=5)

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


def test_a_run_that_goes_on_makes_as_many_steps_as_the_plan_has_left(tiny_llama: Path) -> None:
    """One step more would be a mechanism that nobody paid for."""
    task = _generator_task(tiny_llama, records_per_unit=1)
    plan = _plan(steps=2)

    with pytest.raises(RuntimeError, match="Expected 2 steps in all, found 1 done, 2 to do"):
        train_dp_sgd(
            task,
            plan=plan,
            batches=[np.arange(2)] * 2,
            config=_config(steps=2),
            randomness=Randomness(seed=0),
            state=TrainingState(losses=(1.0,)),
        )


def test_units_of_remaining_steps_are_drawn_anew_where_nothing_is_seeded() -> None:
    plan = _plan(sample_rate=0.5, steps=2)
    source = Randomness()

    (lost, again) = (plan.draw_batches(200, randomness=source, first_step=1) for _ in range(2))

    assert len(lost) == len(again) == 1
    assert not np.array_equal(lost[0], again[0])
