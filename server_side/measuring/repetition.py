"""How much a set of texts repeats itself: distinct n-grams, and self-BLEU over sampled pairs.

Each figure is a function of the texts alone. Self-BLEU as published compares every text with all
others, which grows with the square of their number; here pairs are drawn from a fixed seed, so
that it grows with the number of pairs, which is bounded. The same texts always give the same
figure.

Reference: Zhu et al., "Texygen" (SIGIR 2018), section 2.2. We differ: one other text is the
reference, not all of them together, so values lie well below theirs and compare among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from sacrebleu.metrics.bleu import BLEU

SELF_BLEU_PAIRS: Final = 1000
"""Pairs of texts behind a self-BLEU; its standard error is then below 1 point of 100."""

_SEED: Final = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TextDiversity:
    """How much some texts differ from one another."""

    num_texts: int
    """Texts that were looked at."""
    distinct1: float
    """Distinct words ÷ words of all texts."""
    distinct2: float
    """Distinct bigrams ÷ bigrams of all texts."""
    self_bleu: float
    """Mean BLEU of a text against another one, 0 to 100; less is more diverse."""


def measure_diversity(texts: Sequence[str]) -> TextDiversity:
    """Measure how much texts differ from one another.

    Args:
        texts: Texts of one kind, such as all answers of an arm.

    Returns:
        The figures. Distinct fractions fall as text is added: compare sets of like size only.
    """
    return TextDiversity(
        num_texts=len(texts),
        distinct1=distinct_fraction(texts, 1),
        distinct2=distinct_fraction(texts, 2),
        self_bleu=self_bleu(texts),
    )


def distinct_fraction(texts: Sequence[str], n: int) -> float:
    """Return distinct word n-grams ÷ word n-grams over all texts; 0 where there is none.

    Args:
        texts: Texts; words end at spaces, and capitals count as small letters.
        n: Words in an n-gram, at least 1; a text of fewer words has none.

    Returns:
        A share in [0, 1]; 1 where no n-gram occurs twice.

    >>> distinct_fraction(["take rest take rest"], 2)
    0.6666666666666666
    """
    grams: list[tuple[str, ...]] = []
    for text in texts:
        words = text.lower().split()
        grams += [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(
    texts: Sequence[str], *, num_pairs: int = SELF_BLEU_PAIRS, seed: int = _SEED
) -> float:
    """Return the mean sentence BLEU of a text against another text of the same set.

    Args:
        texts: The set.
        num_pairs: Pairs to draw; where there are no more ordered pairs, all are taken.
        seed: Seed of the draw.

    Returns:
        0 (nothing shared) to 100 (all the same); 0 where there is no other text.

    >>> round(self_bleu(["rest and drink water", "rest and drink water"]), 6)
    100.0
    """
    num_texts = len(texts)
    num_ordered = num_texts * (num_texts - 1)
    if num_ordered == 0:
        return 0.0
    if num_ordered <= num_pairs:
        codes = np.arange(num_ordered)
    else:
        codes = np.random.default_rng(seed).integers(num_ordered, size=num_pairs)
    bleu = BLEU(effective_order=True)
    total = 0.0
    for code in codes.tolist():
        first, skip = divmod(code, num_texts - 1)
        second = skip + (skip >= first)  # never the text itself
        total += bleu.sentence_score(texts[first], [texts[second]]).score
    return total / len(codes)
