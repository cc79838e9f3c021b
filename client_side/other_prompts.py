"""Responses to other people's prompts, where those "people" are public.

A pair against a response to *another* prompt teaches relevance. The other prompt must not be
another record's: a record's pairs would then change when that other record comes or goes, a unit
could move the gradient of its neighbours too, and clipping it once would bound nothing. So the
prompts are the released DP generator's own, or a public file's, and the generator answers them.

Covers: that no private prompt gets in by way of this file, and which of the public ones a record is
paired with.
Does not cover: an operator who calls a file public that is not (`client_side/public_prompts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from client_side.config import PreferencesConfig, RecordsConfig, WhenCut
from client_side.public_prompts import distinct_prompts, read_public_prompts
from lm.encoding import encode_chat, prompt_prefix, whole_sentence_ids
from lm.sampling import Completion, Progress, Sampler, SamplingParams
from lm.tables import normalise_prompt
from protocol.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherPrompts:
    """Public prompts, in the form under which two count as the same, and a response to each."""

    prompts: tuple[str, ...]
    """Normalised prompts, all different; at least two, so that no record is left without one."""
    responses: tuple[tuple[int, ...], ...]
    """Token ids of the generator's response to each."""

    def pick(self, own_prompt: str, *, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw the response to a prompt that is not this one.

        Args:
            own_prompt: The record's prompt.
            rng: The record's own draws.

        Returns:
            Token ids of the response.

        Privacy:
            Output is private. It depends on this record, on `rng` and on public values.
        """
        own = normalise_prompt(own_prompt)
        others = [i for i, prompt in enumerate(self.prompts) if prompt != own]
        return self.responses[others[int(rng.integers(len(others)))]]


def answer_other_prompts(
    generator: Sampler,
    *,
    tokenizer: PreTrainedTokenizerBase,
    config: PreferencesConfig,
    records_config: RecordsConfig,
    seed: int,
    on_progress: Progress | None = None,
) -> OtherPrompts:
    """Find public prompts and let the released DP generator answer them.

    Args:
        generator: The released DP generator.
        tokenizer: Tokenizer of the base model.
        config: Where the prompts come from and how to sample.
        records_config: Instruction and lengths.
        seed: Seed of the sampler.
        on_progress: Told how many responses are sampled, of how many.

    Returns:
        Prompts and responses; public, since no record is read.

    Raises:
        RecordsError: The file of public prompts cannot be used.
        ConfigurationError: The generator wrote fewer than two different prompts.
    """
    # Privacy: no record is an argument of this function; what it returns is post-processing.
    found = (
        _sample_prompts(generator, tokenizer, config, records_config, seed=seed)
        if config.public_prompts_path is None
        else read_public_prompts(config.public_prompts_path)
    )
    distinct = distinct_prompts(found)
    if len(distinct) < 2:
        raise ConfigurationError(
            f"Expected the generator proxy to write at least two different prompts, found "
            f"{len(distinct)}. Name public ones in preferences.public_prompts_path, or set "
            "preferences.*_over_other_prompt to 0."
        )
    order = np.random.default_rng(seed).permutation(len(distinct))[: config.num_public_prompts]
    keys = [list(distinct)[i] for i in order]
    completions = generator.sample(
        [
            encode_chat(
                tokenizer,
                instruction=records_config.instruction,
                prompt=distinct[key],
                max_prompt_tokens=records_config.max_prompt_tokens,
            ).response_prefix
            for key in keys
        ],
        _params(config, max_new_tokens=records_config.max_response_tokens),
        seed=seed,
        on_progress=on_progress,
    )
    return OtherPrompts(
        prompts=tuple(keys),
        responses=tuple(
            written_ids(row[0], tokenizer=tokenizer, config=config) for row in completions
        ),
    )


def written_ids(
    completion: Completion, *, tokenizer: PreTrainedTokenizerBase, config: PreferencesConfig
) -> tuple[int, ...]:
    """Return the token ids under which a sampled response stands in a pair.

    Args:
        completion: The response.
        tokenizer: Tokenizer of the base model.
        config: What becomes of one that its greatest length cut.

    Privacy:
        As private as the response: it depends on that one text and on public values.
    """
    if completion.is_finished or WhenCut(config.when_cut) is WhenCut.KEEP:
        return tuple(completion.token_ids)
    return whole_sentence_ids(tokenizer, completion.token_ids)


def _sample_prompts(
    generator: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    config: PreferencesConfig,
    records_config: RecordsConfig,
    *,
    seed: int,
) -> Sequence[str]:
    (completions,) = generator.sample(
        [prompt_prefix(tokenizer, records_config.instruction)],
        _params(
            config,
            max_new_tokens=records_config.max_prompt_tokens,
            num_candidates=config.num_public_prompts,
        ),
        seed=seed,
    )
    # One that was cut stays: a private prompt is cut to the same length.
    return [completion.text.strip() for completion in completions]


def _params(
    config: PreferencesConfig, *, max_new_tokens: int, num_candidates: int = 1
) -> SamplingParams:
    return SamplingParams(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=max_new_tokens,
        num_candidates=num_candidates,
    )
