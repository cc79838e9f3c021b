"""The engine that runs everywhere: an own sampling loop over a transformers model.

It differs from `generate` in what costs time there: a prefix is computed once and its cache is
copied to the candidates, keys and values are written into memory that is set aside beforehand
instead of being concatenated at each step, rows leave the batch when they end, and top-p looks at
a short list of the likeliest tokens before it sorts the vocabulary. None of this changes what is
drawn: the short list is used only for rows where its probability reaches `top_p`.

Shapes: `P` prefixes in a batch, `B` rows (one a completion), `T` positions of the cache, `V`
vocabulary, `H` heads, `D` width of a head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicLayer

from lm.context import max_positions
from lm.devices import fastest_dtype
from lm.errors import SamplingError
from lm.loading import load_causal_lm, load_tokenizer
from lm.sampling import (
    Completion,
    Progress,
    SamplingParams,
    check_prefixes,
    prefix_seeds,
    stop_token_ids,
)
from lm.sampling_draws import draw_tokens, penalise_repetition, row_uniforms

# A batch is copied without its finished rows when no more than this share of it is left.
_COMPACTION_FRACTION = 0.85
_CPU_BATCH: Final = (96, 32_768)
# A step costs an accelerator about the same whether it computes ten rows or a thousand.
_ACCELERATOR_BATCH: Final = (1024, 262_144)


class TransformersSampler:
    """Samples from one loaded model; see `lm.sampling.Sampler`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: frozenset[int],
        num_threads: int | None = None,
        max_batch_rows: int | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: Causal language model in evaluation mode, on its device.
            tokenizer: Its tokenizer, for the text of completions.
            stop_ids: Ids that end a completion.
            num_threads: CPU threads while sampling; None leaves torch's setting.
            max_batch_rows: Completions that are computed side by side; None takes what suits the
                device.
            max_batch_tokens: Bound on rows × (longest prefix + `max_new_tokens`), which bounds
                the memory of keys and values; one longer row is still computed. None takes what
                suits the device.
        """
        rows, tokens = _CPU_BATCH if model.device.type == "cpu" else _ACCELERATOR_BATCH
        self._model: PreTrainedModel | None = model
        self._tokenizer = tokenizer
        self._stop_ids = torch.tensor(sorted(stop_ids), device=model.device)
        self._num_threads = num_threads
        self._max_batch_rows = max_batch_rows or rows
        self._max_batch_tokens = max_batch_tokens or tokens

    @classmethod
    def open(
        cls,
        model_folder: Path,
        *,
        num_threads: int | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> TransformersSampler:
        """Load a model folder.

        Args:
            model_folder: A checked model folder.
            num_threads: CPU threads while sampling; None leaves torch's setting.
            device: A torch device.
            dtype: In what to compute; None takes the fastest of the device.

        Raises:
            ModelFolderError: The folder holds no usable model.
        """
        tokenizer = load_tokenizer(model_folder)
        model = load_causal_lm(model_folder, dtype=dtype or fastest_dtype(device), device=device)
        stop_ids = stop_token_ids(model_folder, tokenizer)
        return cls(model, tokenizer, stop_ids=stop_ids, num_threads=num_threads)

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: Progress | None = None,
    ) -> list[list[Completion]]:
        """Sample continuations; see `lm.sampling.Sampler.sample`."""
        model = self._open_model()
        check_prefixes(prefixes, params, max_positions=max_positions(model.config))
        seeds = prefix_seeds(prefixes, seed, salts)
        num_rows = len(prefixes) * params.num_candidates
        num_done = 0

        def count(num_ended: int) -> None:
            nonlocal num_done
            num_done += num_ended
            if on_progress is not None and num_ended:
                on_progress(num_done, num_rows)

        completions: list[list[Completion | None]] = [
            [None] * params.num_candidates for _ in prefixes
        ]
        with torch.inference_mode(), _threads(self._num_threads):
            for rows in self._batches(prefixes, params):
                batch = _Batch(rows, prefixes, seeds, params, self._stop_ids, model)
                for (prefix_index, candidate), (ids, is_finished) in zip(
                    rows, batch.run(count), strict=True
                ):
                    completions[prefix_index][candidate] = Completion(
                        token_ids=tuple(ids),
                        text=self._text(ids),
                        is_finished=is_finished,
                    )
        return [[c for c in row if c is not None] for row in completions]

    def close(self) -> None:
        """Free the model."""
        self._model = None

    def _open_model(self) -> PreTrainedModel:
        if self._model is None:
            raise SamplingError("Expected an open sampler, found a closed one. Open it again.")
        return self._model

    def _text(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _batches(
        self, prefixes: Sequence[Sequence[int]], params: SamplingParams
    ) -> Iterator[list[tuple[int, int]]]:
        """Cut (prefix, candidate) pairs into batches of similar prefix length."""
        batch: list[tuple[int, int]] = []
        # Longest first, so that a size that does not fit shows at once.
        for index in sorted(range(len(prefixes)), key=lambda i: (-len(prefixes[i]), i)):
            for candidate in range(params.num_candidates):
                if batch:
                    width = len(prefixes[batch[0][0]]) + params.max_new_tokens
                    is_full = len(batch) == self._max_batch_rows
                    if is_full or (len(batch) + 1) * width > self._max_batch_tokens:
                        yield batch
                        batch = []
                batch.append((index, candidate))
        if batch:
            yield batch


class _Batch:
    """Rows that are computed side by side, until each has ended."""

    def __init__(
        self,
        rows: Sequence[tuple[int, int]],
        prefixes: Sequence[Sequence[int]],
        seeds: Sequence[int],
        params: SamplingParams,
        stop_ids: torch.Tensor,
        model: PreTrainedModel,
    ) -> None:
        self._model = model
        self._params = params
        self._stop_ids = stop_ids
        prefix_indices = sorted({index for index, _ in rows})
        place = {index: position for position, index in enumerate(prefix_indices)}
        self._prefixes = [list(prefixes[index]) for index in prefix_indices]
        self._owners = torch.tensor([place[index] for index, _ in rows], device=model.device)
        self._uniforms = row_uniforms(rows, seeds, params).to(model.device)  # (B, max_new_tokens)

    def run(self, count: Callable[[int], None]) -> list[tuple[list[int], bool]]:
        """Compute all rows; return the ids of each and whether the model ended it."""
        params = self._params
        state = self._prefill()
        outputs: list[list[int]] = [[] for _ in self._owners]
        is_finished = [False] * len(outputs)
        for step in range(params.max_new_tokens):
            logits = state.logits.float()
            if state.is_seen is not None:
                logits = penalise_repetition(
                    logits=logits, is_seen=state.is_seen, penalty=params.repetition_penalty
                )
            # Privacy: a row without a distribution ends here, unfinished, and no other row knows of
            # it. A failure would tell that some drawn record brought such a row about.
            is_mute = ~torch.isfinite(logits.amax(dim=-1))  # (B,); a maximum passes on nan
            logits = logits.masked_fill(is_mute[:, None], 0.0)
            tokens = draw_tokens(logits, self._uniforms[state.rows, step], params)  # (B,)
            if state.is_seen is not None:
                state.is_seen.scatter_(1, tokens[:, None], True)
            has_stopped = torch.isin(tokens, self._stop_ids) & state.is_active & ~is_mute
            has_ended = has_stopped | (is_mute & state.is_active)
            for row, token, stopped, ended, active in zip(
                state.rows.tolist(),
                tokens.tolist(),
                has_stopped.tolist(),
                has_ended.tolist(),
                state.is_active.tolist(),
                strict=True,
            ):
                if stopped:
                    is_finished[row] = True
                elif active and not ended:
                    outputs[row].append(token)
            count(int(has_ended.sum()))
            state.is_active &= ~has_ended
            num_active = int(state.is_active.sum())
            if num_active == 0 or step + 1 == params.max_new_tokens:
                count(num_active)
                break
            if num_active <= _COMPACTION_FRACTION * len(tokens):
                tokens = tokens[state.is_active]
                state.keep(state.is_active)
            self._advance(state, tokens)
        return list(zip(outputs, is_finished, strict=True))

    def _prefill(self) -> _State:
        device = self._model.device
        lengths = torch.tensor([len(prefix) for prefix in self._prefixes], device=device)  # (P,)
        width = int(lengths.max())
        # Padded on the right: under causal attention no real token sees the padding, so no mask
        # is needed here; decoding masks the gap.
        ids = torch.zeros(len(self._prefixes), width, dtype=torch.int64, device=device)
        for row, prefix in zip(ids, self._prefixes, strict=True):
            row[: len(prefix)] = torch.tensor(prefix, device=device)
        capacity = width + self._params.max_new_tokens
        cache = _new_cache(self._model, capacity)
        places = torch.arange(len(ids), device=device), lengths - 1

        def last_alone(_: object, hidden: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            return (hidden[0][places][:, None],)  # (P, 1, hidden size)

        # A vocabulary's worth of numbers for each place that is read would outgrow all else.
        with self._model.get_output_embeddings().register_forward_pre_hook(last_alone):
            read = self._model(input_ids=ids, past_key_values=cache, use_cache=True)
        logits = read.logits[:, 0]  # (P, V)
        for layer in cache.layers:
            layer.select(self._owners)
        owners = self._owners
        positions = torch.arange(capacity, device=device)
        mask = (positions < lengths[owners, None]) | (positions >= width)  # (B, T)
        is_seen = None
        if self._params.repetition_penalty != 1.0:
            is_seen = torch.zeros(len(owners), logits.shape[-1], dtype=torch.bool, device=device)
            for row, owner in enumerate(owners.tolist()):
                is_seen[row, torch.tensor(self._prefixes[owner], device=device)] = True
        return _State(
            logits=logits[owners],
            cache=cache,
            mask=mask,
            next_positions=lengths[owners],
            rows=torch.arange(len(owners), device=device),
            is_active=torch.ones(len(owners), dtype=torch.bool, device=device),
            is_seen=is_seen,
        )

    def _advance(self, state: _State, tokens: torch.Tensor) -> None:
        num_positions = state.cache.get_seq_length() + 1
        state.logits = self._model(
            input_ids=tokens[:, None],
            attention_mask=state.mask[:, None, None, :num_positions],
            position_ids=state.next_positions[:, None],
            past_key_values=state.cache,
            use_cache=True,
        ).logits[:, -1]
        state.next_positions = state.next_positions + 1


@dataclass(kw_only=True, slots=True)
class _State:
    """What changes from step to step; every tensor has one row for each row still computed."""

    logits: torch.Tensor
    """Of the next token, (B, V)."""
    cache: Cache
    """Keys and values of what was read."""
    mask: torch.Tensor
    """Which positions of the cache a row may look at, (B, T), bool."""
    next_positions: torch.Tensor
    """Position of the next token within its text, (B,)."""
    rows: torch.Tensor
    """Which row of the batch this is, (B,)."""
    is_active: torch.Tensor
    """Whether it has not ended yet, (B,), bool."""
    is_seen: torch.Tensor | None
    """Which tokens a repetition penalty weakens, (B, V), bool; None without a penalty."""

    def keep(self, is_kept: torch.Tensor) -> None:
        """Leave out the rows that are not kept."""
        indices = is_kept.nonzero().squeeze(1)
        for layer in self.cache.layers:
            layer.select(indices)
        self.logits = self.logits[indices]
        self.mask = self.mask[indices]
        self.next_positions = self.next_positions[indices]
        self.rows = self.rows[indices]
        self.is_active = self.is_active[indices]
        self.is_seen = None if self.is_seen is None else self.is_seen[indices]


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]  # transformers ships no types
    """Keys and values of one layer, written into memory that is set aside for the whole text."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self._capacity = capacity
        self._stored_keys = torch.empty(0)  # (B, H, T, D)
        self._stored_values = torch.empty(0)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *args: Any,  # what other kinds of cache need
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, H, new, D) and return all positions so far, as views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._stored_keys = self._room_for(key_states, len(key_states))
            self._stored_values = self._room_for(value_states, len(value_states))
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        self._stored_keys[:, :, start:stop] = key_states
        self._stored_values[:, :, start:stop] = value_states
        self.keys = self._stored_keys[:, :, :stop]
        self.values = self._stored_values[:, :, :stop]
        return self.keys, self.values

    def select(self, indices: torch.Tensor) -> None:
        """Make the given rows, in this order and as often as they are named, the new rows."""
        length = self.get_seq_length()
        for name in ("keys", "values"):
            used = getattr(self, name)
            stored = self._room_for(used, len(indices))
            torch.index_select(used, 0, indices, out=stored[:, :, :length])
            setattr(self, f"_stored_{name}", stored)
            setattr(self, name, stored[:, :, :length])

    def _room_for(self, states: torch.Tensor, num_rows: int) -> torch.Tensor:
        _, num_heads, _, width = states.shape
        return states.new_empty(num_rows, num_heads, self._capacity, width)


def _new_cache(model: PreTrainedModel, capacity: int) -> Cache:
    return Cache(layers=[_RoomyLayer(capacity) for _ in range(model.config.num_hidden_layers)])


@contextlib.contextmanager
def _threads(num_threads: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
