"""Score responses with their prompt read once: its keys and values serve all of them.

A prefix goes through the decoder once; then each response is a row of its own that looks back at
the kept prefix. That costs less than laying responses side by side in one row (`lm/packing.py`,
which training uses, where gradients by row must include the prefix): attention of a response to its
neighbours is never computed, not even to be masked.

Shapes: `P` prefixes and `R` responses in a batch, `T` tokens of the longest response, `H` hidden
size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lm.encoding import EncodedChat, batches_by_length, pad_right
from lm.packing import PackedRow, rows_by_prefix
from lm.precision import float32_between_layers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResponseStates:
    """What a decoder makes of some responses."""

    indices: tuple[int, ...]
    """Positions of their chats among those that were given, R of them."""
    ids: torch.Tensor
    """Token ids of the responses, padded on the right, (R, T)."""
    lengths: torch.Tensor
    """Tokens of each response, (R,)."""
    states: torch.Tensor
    """Last hidden states, (R, T + 1, H) float32: first that of the prefix's last token, which
    predicts the response's first one, then those of the response."""

    @property
    def is_token(self) -> torch.Tensor:
        """Which of `ids` are no padding, (R, T) bool."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        return columns < self.lengths[:, None]


def response_states(
    decoder: nn.Module, chats: Sequence[EncodedChat], max_batch_tokens: int
) -> Iterator[ResponseStates]:
    """Run responses through a decoder, those to one prefix together.

    What stands between its layers is float32, whatever its weights are (`lm/precision.py`).

    Args:
        decoder: A decoder in evaluation mode; the caller has switched gradients off.
        chats: Chats with a response each.
        max_batch_tokens: Bound on the tokens that go through at once, counted as if prefix and
            responses stood in one row and rows were padded; one longer chat still makes a batch.

    Yields:
        Batches that hold every chat once.
    """
    rows = list(rows_by_prefix(chats, max_batch_tokens))
    _let_heap_keep_blocks()
    for batch in batches_by_length([row.length for row in rows], max_batch_tokens):
        with float32_between_layers(decoder):  # not while the caller has its turn
            states = _states(decoder, [rows[i] for i in batch])
        yield states


def _let_heap_keep_blocks() -> None:
    """Free one large block that nobody used.

    The C library hands freed memory back to the system where it is more than twice the largest
    block that it saw freed, and then each layer's activations have to be fetched again page by
    page, which took a tenth of the time. After this block it keeps 64 MiB, its utmost; where a
    limit is set in the environment, or in another C library, it changes nothing.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


def _states(decoder: nn.Module, rows: Sequence[PackedRow]) -> ResponseStates:
    device = next(decoder.parameters()).device
    prefix_lengths = torch.tensor([len(row.prefix) for row in rows], device=device)  # (P,)
    # Padded on the right: under causal attention no real token sees the padding.
    read = decoder(
        input_ids=pad_right([row.prefix for row in rows], pad_id=0).to(device), use_cache=True
    )
    owners = torch.tensor([r for r, row in enumerate(rows) for _ in row.tails], device=device)
    tails = [tail for row in rows for tail in row.tails]
    indices = tuple(index for row in rows for index in row.members)
    lengths = torch.tensor([len(tail) for tail in tails], device=device)  # (R,)
    ids = pad_right(tails, pad_id=0).to(device)  # (R, T)
    ends = prefix_lengths[owners]  # (R,)
    before = read.last_hidden_state[owners, ends - 1][:, None]  # (R, 1, H)
    if not ids.shape[1]:
        return ResponseStates(indices=indices, ids=ids, lengths=lengths, states=before)
    cache = read.past_key_values
    width = read.last_hidden_state.shape[1]
    cache.batch_select_indices(owners)
    positions = torch.arange(ids.shape[1], device=device)
    sees_prefix = torch.arange(width, device=device) < ends[:, None]  # (R, prefix width)
    is_causal = positions[:, None] >= positions  # (T, T)
    mask = torch.cat(
        [
            sees_prefix[:, None].expand(-1, len(positions), -1),
            is_causal.expand(len(ids), -1, -1),
        ],
        dim=-1,
    )  # (R, T, prefix width + T)
    hidden = decoder(
        input_ids=ids,
        position_ids=ends[:, None] + positions,
        attention_mask=mask[:, None],
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state  # (R, T, H)
    return ResponseStates(
        indices=indices,
        ids=ids,
        lengths=lengths,
        states=torch.cat([before, hidden], dim=1),
    )
