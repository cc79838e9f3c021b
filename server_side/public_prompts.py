"""Which prompts are usable, and what the operator's public ones are for.

Public prompts either take the place of prompts that the generators would write, or are shown to the
generators a few at a time, as examples after which they write new ones. What they bring is no merit
of the generators, so every query says where it comes from.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lm.tables import normalise_prompt
from protocol.errors import StageError
from server_side.config import SynthesisConfig
from server_side.seeds import derive_seed

_LOGGER = logging.getLogger(__name__)


def unusable_text(
    text: str, config: SynthesisConfig, *, seen: set[str], tested: frozenset[str]
) -> str | None:
    """Return under which reason a prompt falls, whoever wrote it; None where it passes.

    Args:
        text: The prompt.
        config: Which lengths pass.
        seen: Prompts that are there already, normalised.
        tested: Prompts of the test set, normalised.

    Returns:
        The name under which it is counted, such as `num_too_short`; the first that applies.
    """
    num_words = len(text.split())
    if num_words < config.min_prompt_words:
        return "num_too_short"
    if num_words > config.max_prompt_words:
        return "num_too_long"
    normalised = normalise_prompt(text)
    if normalised in tested:
        return "num_in_test_set"
    if normalised in seen:
        return "num_repeated"
    return None


def draw_public(
    prompts: Sequence[str],
    config: SynthesisConfig,
    *,
    seed: int,
    seen: set[str],
    tested: frozenset[str],
    counts: Counter[str],
) -> list[str]:
    """Take as many public prompts as queries are wanted, drawn evenly.

    Args:
        prompts: The public prompts.
        config: How many, and which lengths pass.
        seed: Seed of the draw.
        seen: Prompts that are there already, normalised; those that are taken join them.
        tested: Prompts of the test set, normalised.
        counts: Where those that were looked at, and those that fall, are counted.

    Returns:
        What was taken, at most `num_queries`; where it is less, that is logged.

    Raises:
        StageError: There are prompts, and none of them is usable.
    """
    drawn: list[str] = []
    fallen: Counter[str] = Counter()
    order = np.random.default_rng(derive_seed(seed, "public prompts")).permutation(len(prompts))
    for place in order.tolist():
        if len(drawn) == config.num_queries:
            break
        counts["num_public"] += 1
        if reason := unusable_text(prompts[place], config, seen=seen, tested=tested):
            fallen[reason] += 1
        else:
            seen.add(normalise_prompt(prompts[place]))
            drawn.append(prompts[place])
    counts.update(fallen)
    why = ", ".join(f"{name.removeprefix('num_')}: {number}" for name, number in fallen.items())
    if prompts and not drawn:
        # What would be left is the method without public prompts, under another name.
        raise StageError(
            "Expected public prompts (synthesis.public_prompts_path) that pass "
            "synthesis.min_prompt_words and max_prompt_words and do not stand in the test set, "
            f"found none of {len(prompts)} ({why}). Name other prompts, or none."
        )
    if prompts and len(drawn) < config.num_queries:
        _LOGGER.warning(
            "%d of %d public prompts are usable%s; the generators write the other %d of "
            "synthesis.num_queries=%d.",
            len(drawn),
            len(prompts),
            f" ({why})" if why else "",
            config.num_queries - len(drawn),
            config.num_queries,
        )
    return drawn


def usable_examples(
    prompts: Sequence[str],
    config: SynthesisConfig,
    *,
    seen: set[str],
    tested: frozenset[str],
    counts: Counter[str],
) -> list[str]:
    """Return the public prompts that generators may be shown.

    Args:
        prompts: The public prompts.
        config: How many are shown at once, and which lengths pass.
        seen: Prompts that are there already, normalised; examples join them, so that a generator
            that copies one has repeated it.
        tested: Prompts of the test set, normalised.
        counts: Where they are counted.

    Returns:
        Those that pass the rules of sampled ones.

    Raises:
        StageError: There are fewer than are to be shown at once.
    """
    examples = []
    for prompt in prompts:
        if unusable_text(prompt, config, seen=seen, tested=tested) is None:
            seen.add(normalise_prompt(prompt))
            examples.append(prompt)
    if len(examples) < config.num_public_examples:
        raise StageError(
            f"Expected at least {config.num_public_examples} public prompts to show "
            "(synthesis.num_public_examples) that differ, pass synthesis.min_prompt_words and "
            f"max_prompt_words and do not stand in the test set, found {len(examples)} of "
            f"{len(prompts)}. Name more prompts, or show fewer."
        )
    counts["num_public_examples"] = len(examples)
    return examples


def example_sets(
    examples: Sequence[str], *, size: int, count: int, seed: int
) -> Iterator[list[str]]:
    """Draw the examples for each of several prompts, evenly and without repetition in a set.

    Args:
        examples: What to draw from; where it is empty, every set is.
        size: Examples in a set.
        count: How many sets.
        seed: Seed of the draws.

    Yields:
        One set after the other.
    """
    rng = np.random.default_rng(derive_seed(seed, "examples"))
    for _ in range(count):
        places = rng.choice(len(examples), size=size, replace=False) if examples else ()
        yield [examples[place] for place in places]
