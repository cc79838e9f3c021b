"""Read a prompt once for all its responses: several responses share one row of the batch.

A row is a prefix followed by the responses to it. Each response sees the prefix and itself, never
its neighbours, and counts its positions from the end of the prefix, so that every token gets the
state that it would get in a row of its own; only the last bits may differ.

Shapes: `B` rows, `T` tokens of the longest row, `H` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lm.encoding import pad_right


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedChat:
    """Where one chat's response lies in a batch."""

    index: int
    """Position of the chat among those that were packed."""
    row: int
    """Its row."""
    start: int
    """Column of its first response token."""
    stop: int
    """Column after its last response token."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedBatch:
    """Some rows of prefixes with their responses, as tensors."""

    input_ids: torch.Tensor
    """Ids padded on the right, (B, T)."""
    position_ids: torch.Tensor
    """Position of each token in its own chat, (B, T)."""
    attention_mask: torch.Tensor
    """Which token (row) may see which (column), (B, 1, T, T) bool."""
    chats: tuple[PackedChat, ...]
    """The chats in this batch."""

    def hidden_states(self, decoder: nn.Module) -> torch.Tensor:
        """Run a decoder over the batch.

        Returns:
            Its last hidden states, (B, T, H).
        """
        device = next(decoder.parameters()).device
        hidden: torch.Tensor = decoder(
            input_ids=self.input_ids.to(device),
            position_ids=self.position_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            use_cache=False,
        ).last_hidden_state
        return hidden


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRow:
    """A prefix with the responses to it, before it becomes part of a batch."""

    prefix: tuple[int, ...]
    """What all responses answer."""
    tails: tuple[tuple[int, ...], ...]
    """The responses, each with the token that ends it."""
    members: tuple[int, ...]
    """For each response the position of its chat among those that were packed."""

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return len(self.prefix) + sum(map(len, self.tails))


def pack_rows(rows: Sequence[PackedRow]) -> PackedBatch:
    """Make one batch of rows, in their order."""
    width = max(row.length for row in rows)
    positions = torch.zeros(len(rows), width, dtype=torch.int64)
    # Block 0 is the prefix, k is the k-th response; padding is a block of its own.
    blocks = torch.full((len(rows), width), -1)
    packed = []
    for r, row in enumerate(rows):
        prefix_length = len(row.prefix)
        positions[r, :prefix_length] = torch.arange(prefix_length)
        blocks[r, :prefix_length] = 0
        start = prefix_length
        for number, (index, tail) in enumerate(zip(row.members, row.tails, strict=True), start=1):
            stop = start + len(tail)
            positions[r, start:stop] = torch.arange(prefix_length, prefix_length + len(tail))
            blocks[r, start:stop] = number
            packed.append(PackedChat(index=index, row=r, start=start, stop=stop))
            start = stop
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same_block = blocks[:, :, None] == blocks[:, None, :]
    sees_prefix = blocks[:, None, :] == 0
    ids = [row.prefix + tuple(token for tail in row.tails for token in tail) for row in rows]
    return PackedBatch(
        input_ids=pad_right(ids, pad_id=0),
        position_ids=positions,
        attention_mask=(causal & (same_block | sees_prefix))[:, None],
        chats=tuple(packed),
    )
