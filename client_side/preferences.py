"""Stage 2: turn a record into the pairs that teach the reward proxy.

A record gives up to five responses: its own, the same damaged, one of the released DP generator,
one of the public base model, and the generator's to another prompt, which is public. What is
machine-written comes from models that everybody may know; a model tuned without noise on the same
records must never write it, for then no finite ε exists. All pairs of a record belong to one
privacy unit, and none of them looks at another record: every random number behind them follows from
the training's seed and that record's own text (docs/decisions/0016).

Does not cover: the last bits of a model's arithmetic, which vary with the records that share a
batch and can let a draw fall to another token.

Reference: RewardDS (arXiv 2502.18517), section 3.3, where a third, non-private model writes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NoReturn, SupportsIndex

import numpy as np
from transformers import PreTrainedTokenizerBase

from client_side.config import Damage, PreferencesConfig, RecordsConfig, WhenCut
from client_side.damage import damage_ids
from client_side.other_prompts import answer_other_prompts, written_ids
from client_side.records import PrivateRecord
from lm.encoding import encode_chat, response_end_id, whole_sentence_ids
from lm.sampling import Sampler, SamplingParams

_SLOTS = ("own", "generator", "base", "damaged", "other")
"""The responses to a record's prompt, in the order in which they stand where they are needed."""


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
        seed: Seed of the samplers and of each record's own draws.
        on_progress: Told how many responses are sampled, of how many.

    Returns:
        One value a record, in their order.

    Raises:
        RecordsError: The file of public prompts cannot be used.
        ConfigurationError: The generator wrote fewer than two different prompts.

    Privacy:
        Output is private; must not leave the client. A record's pairs depend on that record, on
        the seed and on public or released models only, rounding in a shared batch set aside.
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
    weights = {pair: weight for pair, weight in config.pair_weights.items() if weight > 0}
    needed = {name for pair in weights for name in pair}
    responses: dict[str, list[tuple[int, ...]]] = {
        "own": [
            _own_ids(tokenizer, record, config=config, records_config=records_config)
            for record in records
        ]
    }
    if "damaged" in needed:
        responses["damaged"] = [
            _damaged(
                tokenizer, record, own, config=config, records_config=records_config, seed=seed
            )
            for record, own in zip(records, responses["own"], strict=True)
        ]
    params = SamplingParams(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=records_config.max_response_tokens,
        num_candidates=1,
    )
    num_others = config.num_public_prompts if "other" in needed else 0
    total = num_others + len(records) * len(needed & {"generator", "base"})
    done = num_others
    # Privacy: these two may write and no other; everybody has, or may have, both.
    for number, writer in enumerate(("generator", "base")):
        answers_others = writer == "generator" and "other" in needed
        if writer not in needed and not answers_others:
            continue
        with closing(open_generator() if writer == "generator" else open_base()) as sampler:
            if answers_others:
                others = answer_other_prompts(
                    sampler,
                    tokenizer=tokenizer,
                    config=config,
                    records_config=records_config,
                    seed=seed,
                    on_progress=_shifted(on_progress, 0, total),
                )
                responses["other"] = [
                    others.pick(record.prompt, rng=_draws_of(record, seed=seed, use="other"))
                    for record in records
                ]
            if writer in needed:
                completions = sampler.sample(
                    [chat.response_prefix for chat in prefixes],
                    params,
                    seed=seed + number,
                    # Privacy: two records may have one prompt; counted, the second would get
                    # another response for the first one's being there.
                    salts=[_digest_of(record, seed=seed, use=writer).hex() for record in records],
                    on_progress=_shifted(on_progress, done, total),
                )
                responses[writer] = [
                    written_ids(row[0], tokenizer=tokenizer, config=config) for row in completions
                ]
                done += len(records)
    order = [name for name in _SLOTS if name in needed]
    scale = sum(weights.values())
    pairs = tuple(
        PreferencePair(chosen=order.index(a), rejected=order.index(b), weight=weight / scale)
        for (a, b), weight in weights.items()
    )
    ended = (response_end_id(tokenizer),)
    return tuple(
        RecordPreferences(
            prefix=chat.response_prefix,
            # A response is ended also where it was cut: whether it ended by itself is not what
            # the reward is to learn.
            responses=tuple(responses[name][index] + ended for name in order),
            pairs=pairs,
        )
        for index, chat in enumerate(prefixes)
    )


def _own_ids(
    tokenizer: PreTrainedTokenizerBase,
    record: PrivateRecord,
    *,
    config: PreferencesConfig,
    records_config: RecordsConfig,
) -> tuple[int, ...]:
    chat = encode_chat(
        tokenizer,
        instruction=records_config.instruction,
        prompt=record.prompt,
        response=record.response,
        max_response_tokens=records_config.max_response_tokens,
    )
    # Privacy: where this record's own text is cut and trimmed, no other record has a say.
    is_kept = bool(chat.end_ids) or WhenCut(config.when_cut) is WhenCut.KEEP
    return chat.response_ids if is_kept else whole_sentence_ids(tokenizer, chat.response_ids)


def _response_ids(
    tokenizer: PreTrainedTokenizerBase,
    record: PrivateRecord,
    response: str,
    records_config: RecordsConfig,
) -> tuple[int, ...]:
    return encode_chat(
        tokenizer,
        instruction=records_config.instruction,
        prompt=record.prompt,
        response=response,
        max_response_tokens=records_config.max_response_tokens,
    ).response_ids


def _damaged(
    tokenizer: PreTrainedTokenizerBase,
    record: PrivateRecord,
    own: tuple[int, ...],
    *,
    config: PreferencesConfig,
    records_config: RecordsConfig,
    seed: int,
) -> tuple[int, ...]:
    return damage_ids(
        own,
        decode=lambda ids: str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)),
        encode=lambda text: _response_ids(tokenizer, record, text, records_config),
        kinds=[Damage(kind) for kind in config.damages],
        rng=_draws_of(record, seed=seed, use="damage"),
    )


def _draws_of(record: PrivateRecord, *, seed: int, use: str) -> np.random.Generator:
    """Return draws that belong to one record, whoever else was drawn and wherever it stands."""
    # Privacy: from a stream that all records share, one more record would change what the others
    # get. What matters is that draws are independent of other records; they need no secrecy.
    return np.random.default_rng(int.from_bytes(_digest_of(record, seed=seed, use=use), "big"))


def _digest_of(record: PrivateRecord, *, seed: int, use: str) -> bytes:
    digest = hashlib.sha256()
    for part in (str(seed), use, record.prompt, record.response):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.digest()


def _shifted(
    on_progress: Callable[[int, int], None] | None, offset: int, total: int
) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, _: on_progress(offset + done, total)
