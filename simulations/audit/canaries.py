"""Canaries: made-up records whose inclusion is decided by a coin, to be looked for afterwards.

A canary is one privacy unit of its own. Its prompt is a real one of the domain; what follows is
unlikely enough that a model which was trained on it can be told from one that was not. Four kinds:

- `new_token`: one token that no other text uses, after Panda et al.;
- `random_suffix`: a few tokens drawn at random from the whole vocabulary;
- `high_temperature`: what the base model itself writes at a high temperature;
- `domain_beginning`: a real beginning with an unlikely end, after Meeus et al., for attackers who
  see synthetic text only: a model is likelier to reach an end whose beginning it writes anyway.

Reference: Panda et al., "Privacy Auditing of Large Language Models" (ICLR 2025); Meeus et al., "The
Canary's Echo: Auditing Privacy Risks of LLM-Generated Synthetic Text" (ICML 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from lm.encoding import encode_chat
from lm.sampling import Sampler, SamplingParams
from lm.tables import TextRow
from protocol.errors import ConfigurationError
from simulations.audit.config import CanaryKind

_NUM_SUFFIX_TOKENS: Final = 8
_NUM_SAMPLED_TOKENS: Final = 24
_TEMPERATURE: Final = 2.0
_MAX_DRAWS: Final = 200
"""Draws for one canary before its vocabulary is called too small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canary:
    """One made-up record."""

    kind: CanaryKind
    """How it was made."""
    prompt: str
    """A prompt of the domain."""
    response: str
    """What makes it a canary."""


def compose_canaries(
    seeds: Sequence[TextRow],
    *,
    kinds: Sequence[CanaryKind],
    tokenizer: PreTrainedTokenizerBase,
    open_base: Callable[[], Sampler],
    instruction: str,
    avoid: Sequence[TextRow],
    rng: np.random.Generator,
) -> tuple[Canary, ...]:
    """Make one canary of each seed, kinds in turn.

    Args:
        seeds: Rows of the domain that are not trained on; their prompts (and beginnings) are used.
        kinds: Kinds to make, dealt out evenly.
        tokenizer: Tokenizer of the base model.
        open_base: Opens the base model for sampling, where a kind needs it.
        instruction: The client's public instruction.
        avoid: Rows that are trained on anyway; a new token is none that occurs in them.
        rng: Source of the draws.

    Returns:
        Distinct canaries, in the order of `seeds`.

    Raises:
        ConfigurationError: The vocabulary is too small for so many canaries of a kind.
    """
    dealt = [kinds[index % len(kinds)] for index in range(len(seeds))]
    vocabulary = _clean_tokens(tokenizer)
    responses: dict[int, str] = {}
    if CanaryKind.NEW_TOKEN in dealt:
        positions = [index for index, kind in enumerate(dealt) if kind is CanaryKind.NEW_TOKEN]
        unused = _unused_tokens(tokenizer, vocabulary, [*avoid, *seeds])
        if len(unused) < len(positions):
            raise ConfigurationError(
                f"Expected {len(positions)} tokens that no record uses, one for each new_token "
                f"canary, found {len(unused)}. Lower num_canaries or choose other kinds."
            )
        chosen = rng.choice(len(unused), size=len(positions), replace=False)
        for index, place in zip(positions, chosen, strict=True):
            responses[index] = unused[int(place)]
    if CanaryKind.HIGH_TEMPERATURE in dealt:
        positions = [i for i, kind in enumerate(dealt) if kind is CanaryKind.HIGH_TEMPERATURE]
        texts = _sampled(
            [seeds[i].prompt for i in positions],
            tokenizer=tokenizer,
            open_base=open_base,
            instruction=instruction,
            seed=int(rng.integers(2**31 - 1)),
        )
        responses |= dict(zip(positions, texts, strict=True))
    taken = set(responses.values())
    for index, kind in enumerate(dealt):
        if kind is CanaryKind.RANDOM_SUFFIX:
            responses[index] = _random_text(vocabulary, taken, rng)
        elif kind is CanaryKind.DOMAIN_BEGINNING:
            beginning = _beginning(seeds[index].response)
            responses[index] = f"{beginning} {_random_text(vocabulary, taken, rng)}"
    return tuple(
        Canary(kind=kind, prompt=seed.prompt, response=responses[index])
        for index, (kind, seed) in enumerate(zip(dealt, seeds, strict=True))
    )


def flip_coins(num_canaries: int, *, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Decide independently, half and half, which canaries are trained on.

    Args:
        num_canaries: How many.
        rng: Source of the coins; nothing else may be drawn from it that an attacker sees.

    Returns:
        Whether each is included, (m,).
    """
    return rng.random(num_canaries) < 0.5


def _clean_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """List tokens that are readable text and come back as the same single token."""
    special = set(tokenizer.all_special_ids)
    ids = [index for index in range(len(tokenizer)) if index not in special]
    texts = tokenizer.batch_decode([[index] for index in ids])
    clean = [
        (index, text)
        for index, text in zip(ids, texts, strict=True)
        if text and text == text.strip() and text.isprintable() and "\ufffd" not in text
    ]
    again = tokenizer([text for _, text in clean], add_special_tokens=False)["input_ids"]
    return [
        text for (index, text), found in zip(clean, again, strict=True) if list(found) == [index]
    ]


def _unused_tokens(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Sequence[str], rows: Sequence[TextRow]
) -> list[str]:
    texts = [text for row in rows for text in (row.prompt, row.response)]
    used = {i for ids in tokenizer(texts, add_special_tokens=False)["input_ids"] for i in ids}
    ids = tokenizer(list(vocabulary), add_special_tokens=False)["input_ids"]
    return [text for text, (index,) in zip(vocabulary, ids, strict=True) if index not in used]


def _sampled(
    prompts: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    open_base: Callable[[], Sampler],
    instruction: str,
    seed: int,
) -> list[str]:
    prefixes = [
        encode_chat(tokenizer, instruction=instruction, prompt=prompt).response_prefix
        for prompt in prompts
    ]
    params = SamplingParams(max_new_tokens=_NUM_SAMPLED_TOKENS, temperature=_TEMPERATURE, top_p=1.0)
    with closing(open_base()) as sampler:
        drawn = sampler.sample(prefixes, params, seed=seed)
    # Whether the model ended the text does not matter; a canary must only be text at all.
    texts = [" ".join(completion.text.split()) for (completion,) in drawn]
    return [text or f"({number})" for number, text in enumerate(texts)]


def _random_text(vocabulary: Sequence[str], taken: set[str], rng: np.random.Generator) -> str:
    for _ in range(_MAX_DRAWS):
        places = rng.integers(len(vocabulary), size=_NUM_SUFFIX_TOKENS)
        text = " ".join(vocabulary[int(place)] for place in places)
        if text not in taken:
            taken.add(text)
            return text
    raise ConfigurationError(
        f"Expected a vocabulary from which random canaries can be told apart, found "
        f"{len(vocabulary)} usable tokens. Use another base model."
    )


def _beginning(response: str) -> str:
    """Return the first half of a response's words."""
    words = response.split()
    return " ".join(words[: max(1, len(words) // 2)])
