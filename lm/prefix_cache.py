"""Score responses with their prompt read once: its keys and values serve all of them.

A prefix goes through the decoder once; then each response is a row of its own that looks back at
the kept prefix. That costs less than laying responses side by side in one row (`lm/packing.py`,
which training uses, where gradients by row must include the prefix): attention of a response to its
neighbours is never computed, not even to be masked.

Shapes: `P` prefixes that are kept at a time, `R` responses in a batch, `T` tokens of the longest of
them, `H` hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Cache

from lm.encoding import EncodedChat, batches_by_length, pad_right
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
    """Run responses through a decoder, their prefixes before them and once.

    Many prefixes are read at a time, and then the responses to them in batches of similar length,
    whichever prefix they follow: padding costs as much as text. What stands between the decoder's
    layers is float32, whatever its weights are (`lm/precision.py`).

    Args:
        decoder: A decoder in evaluation mode; the caller has switched gradients off.
        chats: Chats with a response each.
        max_batch_tokens: Bound on the tokens that go through at once, padding included, and on
            those of the kept prefixes; one longer text still makes a batch. Responses and copies
            of their prefixes have no more than twice as many.

    Yields:
        Batches that hold every chat once.
    """
    members: dict[tuple[int, ...], list[int]] = {}
    for index, chat in enumerate(chats):
        members.setdefault(chat.response_prefix, []).append(index)
    prefixes = list(members)
    _let_heap_keep_blocks()
    for batch in batches_by_length([len(prefix) for prefix in prefixes], max_batch_tokens):
        read = [prefixes[i] for i in batch]
        with float32_between_layers(decoder):  # not while the caller has its turn
            kept = _read(decoder, read)
        indices = [index for prefix in read for index in members[prefix]]
        owners = [place for place, prefix in enumerate(read) for _ in members[prefix]]
        tails = [chats[index].response_ids + chats[index].end_ids for index in indices]
        sizes = [len(tail) + max(len(tail), kept.width) for tail in tails]
        for piece in batches_by_length(sizes, 2 * max_batch_tokens):
            with float32_between_layers(decoder):
                states = _continue(
                    decoder,
                    kept,
                    indices=[indices[i] for i in piece],
                    owners=[owners[i] for i in piece],
                    tails=[tails[i] for i in piece],
                )
            yield states


def _let_heap_keep_blocks() -> None:
    """Free one large block that nobody used.

    The C library hands freed memory back to the system where it is more than twice the largest
    block that it saw freed, and then each layer's activations have to be fetched again page by
    page, which took a tenth of the time. After this block it keeps 64 MiB, its utmost; where a
    limit is set in the environment, or in another C library, it changes nothing.
    """
    torch.empty(2**25 - 2**16, dtype=torch.uint8)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Prefixes:
    """What is kept of prefixes that were read."""

    cache: Cache
    """Keys and values of every layer, for P prefixes."""
    lengths: torch.Tensor
    """Tokens of each, (P,)."""
    last: torch.Tensor
    """State of the last token of each, (P, H)."""
    width: int
    """Tokens of the longest."""


def _read(decoder: nn.Module, prefixes: Sequence[tuple[int, ...]]) -> _Prefixes:
    device = next(decoder.parameters()).device
    lengths = torch.tensor([len(prefix) for prefix in prefixes], device=device)
    # Padded on the right: under causal attention no real token sees the padding.
    read = decoder(input_ids=pad_right(prefixes, pad_id=0).to(device), use_cache=True)
    states = read.last_hidden_state  # (P, width, H)
    return _Prefixes(
        cache=read.past_key_values,
        lengths=lengths,
        last=states[torch.arange(len(prefixes), device=device), lengths - 1],
        width=states.shape[1],
    )


def _continue(
    decoder: nn.Module,
    kept: _Prefixes,
    *,
    indices: Sequence[int],
    owners: Sequence[int],
    tails: Sequence[tuple[int, ...]],
) -> ResponseStates:
    device = kept.lengths.device
    places = torch.tensor(owners, device=device)  # (R,)
    lengths = torch.tensor([len(tail) for tail in tails], device=device)  # (R,)
    ids = pad_right(tails, pad_id=0).to(device)  # (R, T)
    states = kept.last[places][:, None]  # (R, 1, H)
    if ids.shape[1]:
        ends = kept.lengths[places]  # (R,)
        positions = torch.arange(ids.shape[1], device=device)
        sees_prefix = torch.arange(kept.width, device=device) < ends[:, None]  # (R, width)
        is_causal = positions[:, None] >= positions  # (T, T)
        mask = torch.cat(
            [
                sees_prefix[:, None].expand(-1, len(positions), -1),
                is_causal.expand(len(ids), -1, -1),
            ],
            dim=-1,
        )  # (R, T, width + T)
        hidden = decoder(
            input_ids=ids,
            position_ids=ends[:, None] + positions,
            attention_mask=mask[:, None],
            past_key_values=_copies(kept.cache, places),
            use_cache=True,
        ).last_hidden_state  # (R, T, H)
        states = torch.cat([states, hidden], dim=1)
    return ResponseStates(indices=tuple(indices), ids=ids, lengths=lengths, states=states)


def _copies(cache: Cache, places: torch.Tensor) -> Cache:
    """Return what a cache keeps of some rows, as a cache that may grow while the other stays."""
    copies = copy.copy(cache)
    copies.layers = [copy.copy(layer) for layer in cache.layers]
    copies.batch_select_indices(places)
    return copies
