"""DPO and ORPO on the pool's pairs, against losses worked out from plain logits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from lm.likelihood import response_nll_sums
from lm.loading import load_tokenizer
from protocol.errors import StageError
from server_side.config import FinetuningConfig
from server_side.samples import CuratedSample
from server_side.tuning.orpo import OrpoTrainer
from server_side.tuning.rows import encode_pairs
from server_side.tuning.trainers import _DpoTrainer
from server_side.tuning.tuned_target import TunedTarget, load_tuned_target
from tests.support.tiny_models import build_tiny_model
from tests.unit.server_side.test_finetuning import CONFIG, _pool, _tune

BETA = 0.25


def make_config(objective: str, **changes: Any) -> FinetuningConfig:
    values = CONFIG | {"lora_dropout": 0.0, "objective": objective, "preference_beta": BETA}
    return FinetuningConfig(**values | changes)


def make_pairs(num_samples: int = 10) -> list[CuratedSample]:
    """Return samples whose responses have many lengths, so that padding and means matter."""
    return [
        replace(sample, rejected="No, I cannot say. " * (1 + i % 2))
        for i, sample in enumerate(_pool(num_samples))
    ]


def margins(target: Path, tuned: Path | None) -> list[float]:
    """Return by how much likelier each chosen response is than the rejected one."""
    pairs = encode_pairs(make_pairs(), load_tokenizer(target), make_config("dpo"))
    model = load_tuned_target(target, tuned, dtype=torch.float32, device="cpu")
    chats = [chat for pair in pairs for chat in (pair.chosen, pair.rejected)]
    sums = response_nll_sums(model, chats)
    return [rejected - chosen for chosen, rejected in zip(sums[::2], sums[1::2], strict=True)]


def plain_log_probs(model: Any, ids: torch.Tensor, is_response: torch.Tensor) -> torch.Tensor:
    """Return the log-probability of each token that is a response's, else 0, from all logits."""
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
    found = logits.log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    return found * is_response[:, 1:]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def tuned_by_dpo(target: Path, tmp_path_factory: pytest.TempPathFactory) -> TunedTarget:
    folder = tmp_path_factory.mktemp("dpo")
    return _tune(target, folder, pool=make_pairs(), config=make_config("dpo"))


def test_dpo_makes_chosen_responses_likelier_than_rejected_ones(
    target: Path, tuned_by_dpo: TunedTarget
) -> None:
    before, after = margins(target, None), margins(target, tuned_by_dpo.folder)

    assert all(b < a for b, a in zip(before, after, strict=True))


def test_orpo_makes_chosen_responses_likelier_than_rejected_ones(
    target: Path, tmp_path: Path
) -> None:
    config = make_config("orpo", preference_beta=5.0)
    tuned = _tune(target, tmp_path, pool=make_pairs(), config=config)

    gains = [
        after - before
        for before, after in zip(margins(target, None), margins(target, tuned.folder), strict=True)
    ]

    assert sum(gains) / len(gains) > 0
    assert tuned.losses[-1] < tuned.losses[0]


def test_the_reference_of_dpo_is_the_target_as_the_round_found_it(
    target: Path, tuned_by_dpo: TunedTarget, tmp_path: Path
) -> None:
    """Against itself every log-ratio is 0, and -log sigmoid(0) is log 2."""
    second = _tune(
        target,
        tmp_path,
        pool=make_pairs(),
        config=make_config("dpo"),
        previous=tuned_by_dpo.folder,
        round_index=2,
    )

    assert tuned_by_dpo.losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert second.losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert second.losses[-1] < math.log(2)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_dpo_loss_is_that_of_the_paper(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    own = _DpoTrainer.compute_loss
    untuned = load_tuned_target(target, None, dtype=torch.float32, device="cpu")
    pairs: list[tuple[float, float]] = []

    def both(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        ids, mask = inputs["input_ids"], inputs["completion_mask"].bool()
        ratios = (plain_log_probs(model, ids, mask) - plain_log_probs(untuned, ids, mask)).sum(1)
        chosen, rejected = ratios.chunk(2)
        expected = -functional.logsigmoid(BETA * (chosen - rejected)).mean()
        loss = own(self, model, inputs, *args, **kwargs)
        pairs.append((loss.item(), expected.item()))
        return loss

    monkeypatch.setattr(_DpoTrainer, "compute_loss", both)
    _tune(target, tmp_path, pool=make_pairs(), config=make_config("dpo", method=method))

    assert min(expected for _, expected in pairs) < 0.6
    assert [ours for ours, _ in pairs] == pytest.approx([by_hand for _, by_hand in pairs], rel=1e-4)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_orpo_loss_is_that_of_the_paper_on_responses_alone(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    own = OrpoTrainer.compute_loss
    pairs: list[tuple[float, float]] = []

    def both(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        means = []
        for side in ("chosen", "rejected"):
            mask = inputs[f"{side}_labels"] != -100
            sums = plain_log_probs(model, inputs[f"{side}_input_ids"], mask).sum(1)
            means.append(sums / mask.sum(1))
        odds = [mean.exp() / (1 - mean.exp()) for mean in means]
        ratio = functional.logsigmoid((odds[0] / odds[1]).log())
        expected = -means[0].mean() - BETA * ratio.mean()
        loss = own(self, model, inputs, *args, **kwargs)
        pairs.append((loss.item(), expected.item()))
        return loss

    monkeypatch.setattr(OrpoTrainer, "compute_loss", both)
    _tune(target, tmp_path, pool=make_pairs(), config=make_config("orpo", method=method))

    assert len(pairs) > 9
    assert [ours for ours, _ in pairs] == pytest.approx([by_hand for _, by_hand in pairs], rel=1e-4)


def test_pairs_that_prefer_nothing_are_left_out_and_counted(target: Path, tmp_path: Path) -> None:
    pool = make_pairs(6)
    pool[0] = replace(pool[0], rejected=pool[0].chosen)
    pool[1] = replace(pool[1], rejected="")

    tuned = _tune(target, tmp_path, pool=pool, config=make_config("dpo", num_epochs=1))

    assert tuned.num_pairs_dropped == 2
    assert tuned.num_steps == 1  # four of six samples are left, one batch of them


def test_responses_that_are_the_same_once_cut_prefer_nothing(target: Path) -> None:
    pool = [replace(_pool(1)[0], chosen="All is well.", rejected="All is lost.")]
    tokenizer = load_tokenizer(target)

    uncut = encode_pairs(pool, tokenizer, make_config("dpo"))
    cut = encode_pairs(pool, tokenizer, make_config("dpo", max_response_tokens=6))

    assert (len(uncut), len(cut)) == (1, 0)


@pytest.mark.parametrize("objective", ["dpo", "orpo"])
def test_a_pool_without_a_preference_is_refused(
    target: Path, tmp_path: Path, objective: str
) -> None:
    pool = [replace(sample, rejected=sample.chosen) for sample in _pool(3)]

    with pytest.raises(StageError, match=f"responses differ.*{objective}.*found none among 3"):
        _tune(target, tmp_path, pool=pool, config=make_config(objective))
