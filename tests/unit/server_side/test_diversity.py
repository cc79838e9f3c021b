from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server_side.diversity import DistinctTexts

WORDS = [f"word{i}" for i in range(400)]


def text_of(rng: random.Random, size: int = 60) -> list[str]:
    return rng.sample(WORDS, size)


def trigrams(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def test_text_with_one_word_changed_is_a_near_duplicate() -> None:
    """58 trigrams, of which one changed word touches three: 55 ÷ 61 = 0.90 in common."""
    words = text_of(random.Random(0))  # noqa: S311 - no secret
    changed = [*words[:30], "else", *words[31:]]
    distinct = DistinctTexts(max_similarity=0.8)

    assert distinct.add(" ".join(words))
    assert not distinct.add(" ".join(changed))
    assert not distinct.add(" ".join(words).upper() + "!")
    assert distinct.add(" ".join(reversed(words)))


def test_limit_of_one_lets_everything_pass() -> None:
    distinct = DistinctTexts(max_similarity=1.0)

    assert distinct.add("the same text")
    assert distinct.add("the same text")


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.8, 0.95])
def test_what_falls_is_what_comparing_each_with_each_would_drop(limit: float) -> None:
    """200 texts in families of four that share a varying part; bands may not miss what is clear."""
    rng = random.Random(1)  # noqa: S311 - no secret
    texts: list[list[str]] = []
    for _ in range(50):
        parent = text_of(rng)
        for _ in range(4):
            child = list(parent)
            for _ in range(rng.randrange(0, 20)):
                child[rng.randrange(len(child))] = rng.choice(WORDS)
            texts.append(child)
    distinct = DistinctTexts(max_similarity=limit)
    kept: list[set[tuple[str, ...]]] = []

    for words in texts:
        grams = trigrams(words)
        is_new = all(len(grams & own) / len(grams | own) <= limit for own in kept)
        assert distinct.add(" ".join(words)) == is_new
        if is_new:
            kept.append(grams)

    assert 50 <= len(kept) < 200


@given(st.lists(st.text(max_size=30), max_size=20))
def test_any_text_is_taken_or_left(texts: list[str]) -> None:
    """Short texts, empty ones and other scripts too; an exact repetition is always seen."""
    distinct = DistinctTexts(max_similarity=0.8)

    for text in texts:
        distinct.add(text)

    assert not any(distinct.add(text) for text in texts)
