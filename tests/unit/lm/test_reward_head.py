from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lm.adapter_shapes import REWARD_HEAD
from lm.adapters import adapter_tensors
from lm.encoding import EncodedChat, encode_chat
from lm.errors import ScoringError
from lm.loading import load_tokenizer
from lm.packing import PackedRow
from lm.reward_head import (
    RewardModel,
    build_reward_model,
    load_reward_model,
    rewards_of,
    score_chats,
)
from protocol.artifacts import LoraShape

LORA = LoraShape(
    rank=2, alpha=4.0, target_modules=("q_proj", "v_proj"), num_upper_layers=None, use_rslora=False
)


def _trained(folder: Path) -> RewardModel:
    model = build_reward_model(folder, LORA, seed=0, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def _chats(folder: Path) -> list[EncodedChat]:
    tokenizer = load_tokenizer(folder)
    texts = ["so", "a longer response than the other", "é"]
    return [encode_chat(tokenizer, instruction="Go.", prompt="why", response=t) for t in texts]


def test_a_fresh_reward_model_finds_everything_equal(tiny_llama: Path) -> None:
    model = build_reward_model(tiny_llama, LORA, seed=0, dtype=torch.float32)

    assert score_chats(model, _chats(tiny_llama)) == [0.0, 0.0, 0.0]


def test_reward_is_the_head_on_the_last_real_token(tiny_model: Path) -> None:
    """Batched and padded, each chat gets the reward that it gets alone."""
    model = _trained(tiny_model)
    chats = _chats(tiny_model)

    rewards = score_chats(model, chats)

    decoder = model.adapted.get_base_model().get_decoder()
    model.requires_grad_(False)
    for chat, reward in zip(chats, rewards, strict=True):
        state = decoder(input_ids=torch.tensor([chat.input_ids])).last_hidden_state[0, -1]
        assert reward == pytest.approx(float(model.reward_head(state)), rel=1e-4)


def test_training_sees_the_rewards_that_scoring_gives(tiny_model: Path) -> None:
    """Else a reward would be read where nothing was ever learnt."""
    model = _trained(tiny_model)
    chats = _chats(tiny_model)
    members = [(0, 1), (1, 2)]
    rows = [
        PackedRow(
            prefix=chats[0].response_prefix,
            tails=tuple(chats[index].response_ids + chats[index].end_ids for index in row),
            members=row,
        )
        for row in members
    ]

    trained_on = rewards_of(model, rows).tolist()

    scored = score_chats(model, chats)
    for row, rewards in zip(members, trained_on, strict=True):
        assert rewards == pytest.approx([scored[index] for index in row], rel=1e-4)


def test_released_tensors_rebuild_the_same_rewards(tiny_model: Path) -> None:
    model = _trained(tiny_model)
    tensors = adapter_tensors(model.adapted)
    tensors[REWARD_HEAD] = model.reward_head.weight.detach().numpy()

    rebuilt = load_reward_model(tiny_model, tensors, LORA, dtype=torch.float32)

    chats = _chats(tiny_model)
    assert score_chats(rebuilt, chats) == pytest.approx(score_chats(model, chats), rel=1e-5)


def test_a_reward_that_is_not_a_number_is_an_error(tiny_llama: Path) -> None:
    model = _trained(tiny_llama)
    with torch.no_grad():
        model.reward_head.weight.fill_(math.nan)

    with pytest.raises(ScoringError, match="finite rewards"):
        score_chats(model, _chats(tiny_llama))


def test_a_missing_head_is_an_error(tiny_llama: Path) -> None:
    tensors = adapter_tensors(_trained(tiny_llama).adapted)

    with pytest.raises(KeyError, match=REWARD_HEAD):
        load_reward_model(tiny_llama, tensors, LORA, dtype=torch.float32)


def test_head_tensor_is_one_row_of_hidden_size(tiny_llama: Path) -> None:
    model = build_reward_model(tiny_llama, LORA, seed=0, dtype=torch.float32)

    assert model.reward_head.weight.shape == (1, 32)
    assert np.all(model.reward_head.weight.detach().numpy() == 0)
