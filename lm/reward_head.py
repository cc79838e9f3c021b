"""A scalar reward on top of a language model's last hidden state.

The reward of a chat is a linear function of the decoder's state at the chat's last token. Adapter
and head are float32; the frozen decoder may be bfloat16.

Shapes: `B` rows, `N` responses in a row, `T` tokens, `H` hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from peft import PeftModel
from torch import nn

from lm.adapter_shapes import REWARD_HEAD, LoraSpec, Tensors
from lm.adapters import adapter_tensors, attach_lora, load_adapter_tensors
from lm.encoding import EncodedChat
from lm.errors import ScoringError
from lm.loading import load_causal_lm
from lm.packing import PackedBatch, PackedRow, pack_rows
from lm.prefix_cache import response_states


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

    def forward(self, batch: PackedBatch, last: torch.Tensor) -> torch.Tensor:
        """Return the reward of every response of every row.

        Args:
            batch: Rows of N responses each.
            last: Column of each response's last token, (B, N).

        Returns:
            Rewards, (B, N) float32.
        """
        hidden = batch.hidden_states(self.decoder)  # (B, T, H)
        rows = torch.arange(len(last), device=hidden.device)[:, None]
        # The head sees rows as rows, so that whoever takes gradients by row gets a row's own.
        states = hidden[rows, last.to(hidden.device)]  # (B, N, H)
        rewards: torch.Tensor = self.reward_head(states.float())[..., 0]  # (B, N)
        return rewards


def build_reward_model(
    base_folder: Path, lora: LoraSpec, *, seed: int, dtype: torch.dtype, device: str = "cpu"
) -> RewardModel:
    """Build a reward model with a fresh adapter and a zero head, ready to be trained.

    Args:
        base_folder: Folder of the base model.
        lora: Shape of the adapter.
        seed: Seed of the adapter's initial weights; it is no secret and no source of privacy.
        dtype: In what the frozen weights are held; adapter and head are float32 in any case.
        device: A torch device.

    Returns:
        The model; only adapter and head take gradients.

    Raises:
        ModelFolderError: The folder cannot be loaded.
    """
    base = load_causal_lm(base_folder, dtype=dtype, device=device)
    model = RewardModel(attach_lora(base, lora, seed=seed))
    return model.to(device)


def load_reward_model(
    base_folder: Path,
    tensors: Tensors,
    lora: LoraSpec,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
) -> RewardModel:
    """Rebuild a trained reward model from its released tensors; frozen, evaluation mode.

    Args:
        base_folder: Folder of the base model that it was trained on.
        tensors: Adapter and head by the names that `reward_tensors` gives. Their shapes are the
            caller's to check, against `expected_adapter_shapes`.
        lora: Shape of the adapter.
        dtype: In what the decoder's weights are held; adapter and head are float32 in any case.
        device: A torch device.

    Returns:
        The model.

    Raises:
        ModelFolderError: The folder cannot be loaded.
        KeyError: A tensor of the adapter or the head is missing.
    """
    model = build_reward_model(base_folder, lora, seed=0, dtype=dtype, device=device)
    load_reward_tensors(model, tensors)
    return model.requires_grad_(False).eval()


def load_reward_tensors(model: RewardModel, tensors: Tensors) -> None:
    """Overwrite the adapter and the head of a reward model.

    Args:
        model: Reward model whose adapter has the shape of the one in `tensors`.
        tensors: As for `load_reward_model`, shapes included.

    Raises:
        KeyError: A tensor of the adapter or the head is missing.
    """
    load_adapter_tensors(model.adapted, tensors)
    with torch.no_grad():
        model.reward_head.weight.copy_(torch.tensor(tensors[REWARD_HEAD]))


def reward_tensors(model: RewardModel) -> dict[str, npt.NDArray[np.float32]]:
    """Return the adapter and the head of a reward model as float32 arrays by name."""
    tensors = adapter_tensors(model.adapted)
    tensors[REWARD_HEAD] = model.reward_head.weight.detach().cpu().numpy().copy()
    return tensors


def score_chats(
    model: RewardModel,
    chats: Sequence[EncodedChat],
    *,
    max_batch_tokens: int = 2048,
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
    with torch.inference_mode():
        for batch in response_states(model.decoder, chats, max_batch_tokens):
            last = batch.states[torch.arange(len(batch.indices)), batch.lengths]  # (R, H)
            found = model.reward_head(last.float())[:, 0].tolist()
            for index, reward in zip(batch.indices, found, strict=True):
                rewards[index] = reward
            done += len(batch.indices)
            if on_progress:
                on_progress(done, len(chats))
    if not all(map(math.isfinite, rewards)):
        raise ScoringError(
            "Expected finite rewards, found one that is not. The reward proxy's weights are "
            "broken; ask its client for another release."
        )
    return rewards


def rewards_of(model: RewardModel, rows: Sequence[PackedRow]) -> torch.Tensor:
    """Return the rewards of rows that have N responses each.

    Args:
        model: A reward model.
        rows: Prefixes with their responses, B of them.

    Returns:
        Rewards, (B, N), with gradients where they are enabled.
    """
    batch = pack_rows(rows)
    last = torch.tensor([chat.stop - 1 for chat in batch.chats]).view(len(rows), -1)
    rewards: torch.Tensor = model(batch, last)
    return rewards
