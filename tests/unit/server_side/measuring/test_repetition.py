"""Repetition is measured as stated, and in bounded time."""

from __future__ import annotations

import pytest
import sacrebleu

from server_side.measuring.repetition import SELF_BLEU_PAIRS, measure_diversity, self_bleu

TEXTS = ["take rest and drink water", "take rest and drink tea", "see us on monday morning"]


def test_self_bleu_of_few_texts_is_the_mean_over_all_ordered_pairs() -> None:
    pairs = [(a, b) for a in TEXTS for b in TEXTS if a is not b]

    expected = sum(sacrebleu.sentence_bleu(a, [b]).score for a, b in pairs) / len(pairs)

    assert self_bleu(TEXTS) == pytest.approx(expected)


def test_self_bleu_never_compares_a_text_with_itself() -> None:
    words = [f"word{i}" for i in range(2000)]

    assert self_bleu(words[:200]) == 0.0, "one-word texts that all differ share nothing"


def test_self_bleu_draws_a_bounded_number_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting:
        def __init__(self, **_: object) -> None:
            self.score = 50.0

        def sentence_score(self, text: str, _: list[str]) -> Counting:
            calls.append(text)
            return self

    monkeypatch.setattr("server_side.measuring.repetition.BLEU", Counting)

    assert self_bleu([str(i) for i in range(10_000)]) == 50.0
    assert len(calls) == SELF_BLEU_PAIRS
    assert len(set(calls)) > SELF_BLEU_PAIRS // 2


def test_a_set_that_repeats_itself_is_told_from_one_that_does_not() -> None:
    same, different = measure_diversity([TEXTS[0]] * 3), measure_diversity(TEXTS)

    assert same.self_bleu == pytest.approx(100.0)
    assert same.self_bleu > different.self_bleu
    assert same.distinct2 < different.distinct2


@pytest.mark.parametrize("texts", [[], ["only one"]])
def test_without_another_text_nothing_repeats(texts: list[str]) -> None:
    assert measure_diversity(texts).self_bleu == 0.0
