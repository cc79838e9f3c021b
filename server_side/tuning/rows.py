"""The pool as token ids, in the rows that TRL's trainers read.

Chats are encoded by `lm.encoding`, the same code that sampling and scoring use, and handed to TRL
ready-made, with labels on the response (and the token that ends it) only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from transformers import PreTrainedTokenizerBase

from lm.encoding import EncodedChat, encode_chat
from server_side.config import FinetuningConfig
from server_side.samples import CuratedSample

IGNORED_LABEL: Final = -100
"""Label of a token that is not learnt."""

Row = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedPair:
    """Two responses to one prompt."""

    chosen: EncodedChat
    """The chat with the preferred response."""
    rejected: EncodedChat
    """The chat with the other one."""


def encode_chosen(
    pool: Sequence[CuratedSample], tokenizer: PreTrainedTokenizerBase, config: FinetuningConfig
) -> list[EncodedChat]:
    """Encode each sample with its chosen response; a response that is cut has no end to learn.

    Args:
        pool: Samples to tune on.
        tokenizer: The target's tokenizer.
        config: At how many tokens prompts and responses are cut.

    Returns:
        One chat a sample, in the order of `pool`.
    """
    return [_encode(sample, sample.chosen, tokenizer, config) for sample in pool]


def encode_pairs(
    pool: Sequence[CuratedSample], tokenizer: PreTrainedTokenizerBase, config: FinetuningConfig
) -> list[EncodedPair]:
    """Encode each sample's two responses; samples that prefer nothing are left out.

    Those are the ones whose responses are the same tokens, perhaps because both were cut, and the
    ones with an empty response.

    Args:
        pool: Samples to tune on.
        tokenizer: The target's tokenizer.
        config: At how many tokens prompts and responses are cut.

    Returns:
        The pairs, in the order of `pool`; there may be none.
    """
    pairs = [
        EncodedPair(
            chosen=_encode(sample, sample.chosen, tokenizer, config),
            rejected=_encode(sample, sample.rejected, tokenizer, config),
        )
        for sample in pool
    ]
    return [
        pair
        for pair in pairs
        if pair.chosen.input_ids != pair.rejected.input_ids
        and pair.chosen.response_ids
        and pair.rejected.response_ids
    ]


def sft_row(chat: EncodedChat) -> Row:
    """Return what SFTTrainer reads."""
    return {"input_ids": list(chat.input_ids), "labels": _labels(chat)}


def dpo_row(pair: EncodedPair) -> Row:
    """Return what DPOTrainer reads, but for the log-probabilities under the reference."""
    return {
        "prompt_ids": list(pair.chosen.response_prefix),
        "chosen_ids": _response(pair.chosen),
        "rejected_ids": _response(pair.rejected),
    }


def orpo_row(pair: EncodedPair) -> Row:
    """Return what ORPOTrainer makes of a pair by itself."""
    return {
        f"{side}_{name}": values
        for side, chat in (("chosen", pair.chosen), ("rejected", pair.rejected))
        for name, values in (
            ("input_ids", list(chat.input_ids)),
            ("attention_mask", [1] * len(chat.input_ids)),
            ("labels", _labels(chat)),
        )
    }


def _encode(
    sample: CuratedSample,
    response: str,
    tokenizer: PreTrainedTokenizerBase,
    config: FinetuningConfig,
) -> EncodedChat:
    return encode_chat(
        tokenizer,
        instruction=sample.instruction,
        prompt=sample.prompt,
        response=response,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
    )


def _response(chat: EncodedChat) -> list[int]:
    start, stop = chat.response_span
    return list(chat.input_ids[start:stop])


def _labels(chat: EncodedChat) -> list[int]:
    return [IGNORED_LABEL] * chat.response_span[0] + _response(chat)
