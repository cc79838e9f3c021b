"""Stage 2: turn a record into the pairs that teach the reward proxy.

A record gives up to three responses to its own prompt: its own, one of the released DP generator
and one of the public base model. The two machine-written ones come from models that everybody may
know; a model tuned without noise on the same records must never write them, for then no finite ε
exists. All pairs of a record belong to one privacy unit.

Reference: RewardDS (arXiv 2502.18517), section 3.3, where a third, non-private model writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NoReturn, SupportsIndex

from transformers import PreTrainedTokenizerBase

from client_side.config import PreferencesConfig, RecordsConfig
from client_side.records import PrivateRecord
from lm.encoding import encode_chat
from lm.sampling import Sampler, SamplingParams


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """Positions of two responses of a record, the better one first."""

    chosen: int
    """Index of the better response in `RecordPreferences.responses`."""
    rejected: int
    """Index of the worse one."""
    weight: float
    """Share of this pair in the record's loss; the shares of a record sum to 1."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RecordPreferences:
    """The responses to one record's prompt, as ids, and the pairs among them.

    Privacy:
        Private as a whole; no serializer, cannot be pickled, and its repr shows lengths only.
    """

    prefix: tuple[int, ...]
    """Token ids of everything before a response."""
    responses: tuple[tuple[int, ...], ...]
    """Token ids of each response, ended by the end-of-turn token."""
    pairs: tuple[PreferencePair, ...]
    """Which of them is better than which."""

    def __repr__(self) -> str:
        return f"RecordPreferences(<{len(self.responses)} responses, {len(self.pairs)} pairs>)"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("Expected preferences to stay in this process, got a request to copy them.")


def build_preferences(
    records: Sequence[PrivateRecord],
    *,
    tokenizer: PreTrainedTokenizerBase,
    open_base: Callable[[], Sampler],
    open_generator: Callable[[], Sampler],
    config: PreferencesConfig,
    records_config: RecordsConfig,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[RecordPreferences, ...]:
    """Sample the machine-written responses and pair them with the records' own.

    Args:
        records: Private records, those that sampling drew.
        tokenizer: Tokenizer of the base model.
        open_base: Opens the public base model, where its pairs have weight.
        open_generator: Opens the released DP generator, where its pairs have weight. One of the
            two is closed before the other is opened, so that memory holds one.
        config: Which pairs, and how to sample.
        records_config: Instruction and lengths.
        seed: Seed of the samplers.
        on_progress: Told how many responses are sampled, of how many.

    Returns:
        One value a record, in their order.

    Privacy:
        Output is private; must not leave the client. A record's pairs depend on that record and
        on public or released models only.
    """
    prefixes = [
        encode_chat(
            tokenizer,
            instruction=records_config.instruction,
            prompt=record.prompt,
            max_prompt_tokens=records_config.max_prompt_tokens,
        )
        for record in records
    ]
    weights = {
        ("own", "generator"): config.chosen_over_generator,
        ("own", "base"): config.chosen_over_base,
        ("generator", "base"): config.generator_over_base,
    }
    weights = {pair: weight for pair, weight in weights.items() if weight > 0}
    needed = {name for pair in weights for name in pair}
    openers = {"base": open_base, "generator": open_generator}
    writers = [name for name in ("generator", "base") if name in needed]
    params = SamplingParams(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=records_config.max_response_tokens,
        num_candidates=1,
    )
    total = len(records) * len(writers)
    responses: dict[str, list[tuple[int, ...]]] = {
        "own": [
            encode_chat(
                tokenizer,
                instruction=records_config.instruction,
                prompt=record.prompt,
                response=record.response,
                max_response_tokens=records_config.max_response_tokens,
            ).response_ids
            for record in records
        ]
    }
    for number, writer in enumerate(writers):
        with closing(openers[writer]()) as sampler:
            completions = sampler.sample(
                [chat.response_prefix for chat in prefixes],
                params,
                seed=seed + number,
                on_progress=_shifted(on_progress, number * len(records), total),
            )
        responses[writer] = [tuple(row[0].token_ids) for row in completions]
    order = [name for name in ("own", *writers) if name in needed]
    scale = sum(weights.values())
    pairs = tuple(
        PreferencePair(chosen=order.index(a), rejected=order.index(b), weight=weight / scale)
        for (a, b), weight in weights.items()
    )
    return tuple(
        RecordPreferences(
            prefix=chat.response_prefix,
            # A response is ended also where it was cut: whether it ended by itself is not what
            # the reward is to learn.
            responses=tuple(responses[name][index] + chat.middle_ids[:1] for name in order),
            pairs=pairs,
        )
        for index, chat in enumerate(prefixes)
    )


def _shifted(
    on_progress: Callable[[int, int], None] | None, offset: int, total: int
) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(offset + done, total)
