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
from lm.reward_head import (
    build_reward_model,
    reward_tensors,
)
from simulations.audit.attacks import (
    generator_gradient_scores,
    likelihood_scores,
    reward_gradient_scores,
    reward_scores,
    trained_parameters,
)
from tests.support.auditing import CONFIG, RECORDS

GENERATOR_CONFIG = replace(CONFIG, lora=LoraConfig(rank=4, freeze_a=False))
REWARD_CONFIG = RewardProxyConfig(lora=GENERATOR_CONFIG.lora, precision=Precision.FLOAT32)
INCLUDED = {0, 2, 5}


@pytest.fixture(scope="module")
def chats(tiny_llama: Path) -> list[EncodedChat]:
    tokenizer = load_tokenizer(tiny_llama)
    return [
        encode_chat(tokenizer, instruction=RECORDS.instruction, prompt=f"{word}?", response=word)
        for word in ("fever", "gown", "mild", "quartz", "sibyl", "tough")
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


def test_the_generator_is_attacked_by_its_way_from_the_public_start(
    tiny_llama: Path, chats: list[EncodedChat], start: Tensors
) -> None:
    lora = lora_shape(GENERATOR_CONFIG)
    model = attach_lora(load_causal_lm(tiny_llama), lora, seed=ADAPTER_SEED)
    load_adapter_tensors(model, start)
    loss = GeneratorLoss(prompt_loss_weight=GENERATOR_CONFIG.prompt_loss_weight)
    _descend(model, [partial(_loss_of_chat, loss, model, chat) for chat in _included(chats)])

    scores = generator_gradient_scores(
        chats,
        base_folder=tiny_llama,
        tensors=adapter_tensors(model),
        lora=lora,
        start=start,
        config=GENERATOR_CONFIG,
    )

    assert _ranked_first(scores) == INCLUDED


def _included(chats: list[EncodedChat]) -> list[EncodedChat]:
    return [chat for index, chat in enumerate(chats) if index in INCLUDED]


def _ranked_first(scores: list[float]) -> set[int]:
    return set(np.argsort(scores)[-len(INCLUDED) :].tolist())


def _loss_of_chat(loss: GeneratorLoss, model: nn.Module, chat: EncodedChat) -> torch.Tensor:
    return loss(model, [[chat]])[0].sum()


def _descend(model: nn.Module, losses: list[Callable[[], torch.Tensor]]) -> None:
    """One small step along the unit gradients, as DP-SGD without noise would take it."""
    parameters = trained_parameters(model)
    steps = [torch.autograd.grad(loss(), parameters) for loss in losses]
    for gradients in steps:
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.data -= 0.01 * gradient / norm
