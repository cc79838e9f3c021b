"""Attacks measure what training did, wherever it started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from client_side.config import LoraConfig, Precision, RewardProxyConfig
from client_side.generator import ADAPTER_SEED, GeneratorLoss, lora_shape
from lm.adapter_shapes import Tensors
from lm.adapters import adapter_tensors, attach_lora, load_adapter_tensors
from lm.encoding import EncodedChat, encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.packing import PackedRow
from lm.reward_head import (
    RewardModel,
    build_reward_model,
    load_reward_tensors,
    reward_tensors,
    rewards_of,
)
from server_side.config import FinetuningConfig
from simulations.audit.attacks import (
    generator_gradient_scores,
    likelihood_scores,
    reward_gradient_scores,
    reward_scores,
    trained_parameters,
)
from simulations.audit.text_attacks import auxiliary_scores, bigram_scores
from tests.support.auditing import CONFIG, RECORDS
from tests.support.curated import curated

GENERATOR_CONFIG = replace(CONFIG, lora=LoraConfig(rank=4, freeze_a=False))
REWARD_CONFIG = RewardProxyConfig(lora=GENERATOR_CONFIG.lora, precision=Precision.FLOAT32)
WORDS = ("fever", "gown", "mild", "quartz", "sibyl", "tough")
INCLUDED = {0, 2, 5}


@pytest.fixture(scope="module")
def chats(tiny_llama: Path) -> list[EncodedChat]:
    tokenizer = load_tokenizer(tiny_llama)
    return [
        encode_chat(tokenizer, instruction=RECORDS.instruction, prompt=f"{word}?", response=word)
        for word in WORDS
    ]


@pytest.fixture(scope="module")
def start(tiny_llama: Path) -> Tensors:
    """What a reward proxy starts from; without the head, what a generator does."""
    model = build_reward_model(
        tiny_llama, lora_shape(REWARD_CONFIG), seed=ADAPTER_SEED, dtype=torch.float32
    )
    fresh = reward_tensors(model)
    rng = np.random.default_rng(3)
    return {
        name: (tensor + rng.normal(scale=0.5, size=tensor.shape)).astype(np.float32)
        for name, tensor in fresh.items()
    }


@pytest.mark.parametrize(
    "attack",
    [
        likelihood_scores,
        reward_scores,
        partial(generator_gradient_scores, config=GENERATOR_CONFIG),
        partial(reward_gradient_scores, config=REWARD_CONFIG),
    ],
    ids=["likelihood", "reward", "generator_gradient", "reward_gradient"],
)
def test_a_release_that_is_its_public_start_tells_nothing_of_any_canary(
    tiny_llama: Path,
    chats: list[EncodedChat],
    start: Tensors,
    attack: Callable[..., list[float]],
) -> None:
    asked = partial(
        attack, chats, base_folder=tiny_llama, tensors=start, lora=lora_shape(REWARD_CONFIG)
    )

    assert asked(start=start) == pytest.approx([0.0] * len(chats), abs=1e-5)
    assert max(abs(score) for score in asked(start=None)) > 1e-3


@pytest.fixture(scope="module", params=[True, False], ids=["public start", "fresh"])
def before(request: pytest.FixtureRequest, start: Tensors) -> Tensors | None:
    return start if request.param else None


def test_what_a_step_of_the_generator_went_along_scores_highest(
    tiny_llama: Path, chats: list[EncodedChat], before: Tensors | None
) -> None:
    model = _generator(tiny_llama, before)
    loss = GeneratorLoss(prompt_loss_weight=GENERATOR_CONFIG.prompt_loss_weight)
    _descend(model, [loss(model, [[chat]])[0].sum() for chat in _included(chats)])

    scores = generator_gradient_scores(
        chats,
        base_folder=tiny_llama,
        tensors=adapter_tensors(model),
        lora=lora_shape(GENERATOR_CONFIG),
        start=before,
        config=GENERATOR_CONFIG,
    )

    assert _ranked_first(scores) == INCLUDED


def test_what_the_generator_knows_by_heart_scores_highest(
    tiny_llama: Path, chats: list[EncodedChat], before: Tensors | None
) -> None:
    model = _generator(tiny_llama, before)
    loss = GeneratorLoss(prompt_loss_weight=0.0)
    learnt = [[chat] for chat in _included(chats)]
    _train(model, lambda: loss(model, learnt)[0].sum(), num_steps=100, learning_rate=0.03)

    scores = likelihood_scores(
        chats,
        base_folder=tiny_llama,
        tensors=adapter_tensors(model),
        lora=lora_shape(GENERATOR_CONFIG),
        start=before,
    )

    assert _ranked_first(scores) == INCLUDED


@pytest.fixture(scope="module")
def reward(tiny_llama: Path, chats: list[EncodedChat], before: Tensors | None) -> RewardModel:
    """A reward proxy that was trained to prefer the canaries that are in to those that are not."""
    model = build_reward_model(
        tiny_llama, lora_shape(REWARD_CONFIG), seed=ADAPTER_SEED, dtype=torch.float32
    )
    if before is not None:
        load_reward_tensors(model, before)
    rows = [
        PackedRow(
            prefix=chat.response_prefix, tails=(chat.response_ids + chat.end_ids,), members=(0,)
        )
        for chat in chats
    ]
    sides = torch.tensor([1.0 if index in INCLUDED else -1.0 for index in range(len(chats))])
    _train(
        model,
        lambda: -nn.functional.logsigmoid(sides * rewards_of(model, rows).flatten()).sum(),
        num_steps=30,
        learning_rate=0.01,
    )
    return model


@pytest.mark.parametrize(
    "attack",
    [reward_scores, partial(reward_gradient_scores, config=REWARD_CONFIG)],
    ids=["reward", "gradient"],
)
def test_what_the_reward_proxy_was_trained_to_prefer_scores_highest(
    tiny_llama: Path,
    chats: list[EncodedChat],
    before: Tensors | None,
    reward: RewardModel,
    attack: Callable[..., list[float]],
) -> None:
    scores = attack(
        chats,
        base_folder=tiny_llama,
        tensors=reward_tensors(reward),
        lora=lora_shape(REWARD_CONFIG),
        start=before,
    )

    assert _ranked_first(scores) == INCLUDED


def test_what_stands_in_the_text_scores_highest_by_its_bigrams(chats: list[EncodedChat]) -> None:
    scores = bigram_scores(chats=chats, synthetic=_included(chats))

    assert _ranked_first(scores) == INCLUDED


def test_a_bigram_score_is_the_gain_in_bits_by_the_token_before(chats: list[EncodedChat]) -> None:
    """With one added to every count, worked out by hand.

    The text is "1 2", the canary the same, and there is one word for whatever is unknown: 2 after 1
    has (1 + 1) / (1 + 3), 2 anywhere has (1 + 1) / (2 + 3), and log2(0.5 / 0.4) is 0.3219.
    """
    chat = replace(chats[0], prompt_ids=(1,), response_ids=(2,))

    assert bigram_scores(chats=[chat], synthetic=[chat]) == pytest.approx([0.3219], abs=1e-4)


def test_what_stands_in_the_text_scores_highest_to_a_model_tuned_on_it(
    tiny_llama: Path, chats: list[EncodedChat], tmp_path: Path
) -> None:
    samples = [
        replace(curated(word, 1.0), instruction=RECORDS.instruction, prompt=f"{word}?", chosen=word)
        for number, word in enumerate(WORDS)
        if number in INCLUDED
    ]

    scores = auxiliary_scores(
        chats,
        samples,
        base_folder=tiny_llama,
        work_folder=tmp_path,
        config=FinetuningConfig(num_steps=10, batch_size=3, dtype="float32", report_to="none"),
        seed=0,
        on_progress=lambda done, total: None,
    )

    assert _ranked_first(scores) == INCLUDED


def _included(chats: list[EncodedChat]) -> list[EncodedChat]:
    return [chat for index, chat in enumerate(chats) if index in INCLUDED]


def _ranked_first(scores: list[float]) -> set[int]:
    return set(np.argsort(scores)[-len(INCLUDED) :].tolist())


def _generator(folder: Path, before: Tensors | None) -> nn.Module:
    model = attach_lora(load_causal_lm(folder), lora_shape(GENERATOR_CONFIG), seed=ADAPTER_SEED)
    if before is not None:
        load_adapter_tensors(model, before)
    return model


def _descend(model: nn.Module, losses: list[torch.Tensor]) -> None:
    """One small step along the unit gradients, as DP-SGD without noise would take it."""
    parameters = trained_parameters(model)
    for gradients in [torch.autograd.grad(loss, parameters) for loss in losses]:
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data -= 0.01 * gradient / norm


def _train(
    model: nn.Module,
    loss: Callable[[], torch.Tensor],
    *,
    num_steps: int,
    learning_rate: float,
) -> None:
    optimizer = torch.optim.Adam(trained_parameters(model), lr=learning_rate)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
