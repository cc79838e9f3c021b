"""A scalar reward on top of a language model's last hidden state.

The reward of a chat is a linear function of the decoder's state at the chat's last token. Adapter
and head are float32; the frozen decoder may be bfloat16.

Shapes: `B` sequences, `T` tokens, `H` hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn

from lm.adapters import REWARD_HEAD, LoraSpec, Tensors, attach_lora, load_adapter_tensors
from lm.encoding import EncodedChat, pad_right
from lm.errors import ScoringError
from lm.loading import load_causal_lm
from lm.packing import pack_chats


class RewardModel(nn.Module):
    """Decoder with adapter and a scalar head without bias.

    A bias would cancel in every pair and be noise alone under DP.
    """

    def __init__(self, adapted: PeftModel) -> None:
        super().__init__()
        self.adapted = adapted
        hidden_size = adapted.get_base_model().config.hidden_size
        # Zero: rewards start equal, and the first gradient already points along the difference.
        self.reward_head = nn.Linear(hidden_size, 1, bias=False, dtype=torch.float32)
        nn.init.zeros_(self.reward_head.weight)

    @property
    def decoder(self) -> nn.Module:
        """The decoder below the head, adapter included."""
        decoder: nn.Module = self.adapted.get_base_model().get_decoder()
        return decoder

    def forward(self, input_ids: torch.Tensor, last_positions: torch.Tensor) -> torch.Tensor:
        """Return the reward of each sequence.

        Args:
            input_ids: Ids padded on the right, (B, T).
            last_positions: Position of each sequence's last real token, (B,).

        Returns:
            Rewards, (B,) float32.
        """
        hidden = self.decoder(input_ids=input_ids, use_cache=False).last_hidden_state  # (B, T, H)
        last = hidden[torch.arange(len(input_ids), device=hidden.device), last_positions]  # (B, H)
        rewards: torch.Tensor = self.reward_head(last.float())[:, 0]  # (B,)
        return rewards


def build_reward_model(
    base_folder: Path, lora: LoraSpec, *, seed: int, dtype: torch.dtype, device: str = "cpu"
) -> RewardModel:
    """Build a reward model with a fresh adapter and a zero head, ready to be trained."""
    base = load_causal_lm(base_folder, dtype=dtype, device=device)
    model = RewardModel(attach_lora(base, lora, seed=seed))
    return model.to(device)


def load_reward_model(
    base_folder: Path,
    tensors: Tensors,
    lora: LoraSpec,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
) -> RewardModel:
    """Rebuild a trained reward model from its released tensors; frozen, evaluation mode.

    Raises:
        KeyError: A tensor of the adapter or the head is missing.
    """
    model = build_reward_model(base_folder, lora, seed=0, dtype=dtype, device=device)
    load_adapter_tensors(model.adapted, tensors)
    with torch.no_grad():
        model.reward_head.weight.copy_(torch.tensor(tensors[REWARD_HEAD]))
    return model.requires_grad_(False).eval()


def score_chats(
    model: RewardModel,
    chats: Sequence[EncodedChat],
    *,
    max_batch_tokens: int = 4096,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Return the reward of each chat, in the order of `chats`.

    Args:
        model: A reward model.
        chats: Chats with a response.
        max_batch_tokens: Tokens, padding included, that go through the model at once.
        on_progress: Told how many chats are done, of how many.

    Raises:
        ScoringError: A reward is not a finite number.
    """
    rewards = [0.0] * len(chats)
    done = 0
    for batch in pack_chats(chats, max_batch_tokens):
        with torch.inference_mode():
            hidden = batch.hidden_states(model.decoder)  # (B, T, H)
            rows = [chat.row for chat in batch.chats]
            last = [chat.stop - 1 for chat in batch.chats]
            found = model.reward_head(hidden[rows, last].float())[:, 0].tolist()
        for chat, reward in zip(batch.chats, found, strict=True):
            rewards[chat.index] = reward
        done += len(batch.chats)
        if on_progress:
            on_progress(done, len(chats))
    if not all(map(math.isfinite, rewards)):
        raise ScoringError(
            "Expected finite rewards, found one that is not. The reward proxy's weights are "
            "broken; ask its client for another release."
        )
    return rewards


def rewards_of(model: RewardModel, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the reward of each sequence of ids, (B,), with gradients where they are enabled."""
    device = model.reward_head.weight.device
    last = torch.tensor([len(ids) - 1 for ids in sequences], device=device)
    rewards: torch.Tensor = model(pad_right(sequences, pad_id=0).to(device), last)
    return rewards
