"""What a synthetic set shares with private records is found, and counted as it stands."""

from __future__ import annotations

from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations import overlap
from simulations.annotating import pool_texts
from simulations.overlap import NGRAM_SIZE, measure_overlap
from tests.support.curated import curated

_RNG = np.random.default_rng(0)


def text(num_words: int) -> str:
    return " ".join(f"w{_RNG.integers(10**6)}" for _ in range(num_words))


RECORDS = [text(40) for _ in range(30)]
PUBLIC = [text(40) for _ in range(10)]


def test_what_is_handed_on_as_rejected_is_looked_at_too() -> None:
    told_apart = replace(curated("How?", 1.0), rejected=RECORDS[3])
    answered_once = replace(curated("Why?", 1.0), chosen="so", rejected="so")

    texts = pool_texts([told_apart, answered_once])

    assert texts == ["How?\ngood", f"How?\n{RECORDS[3]}", "Why?\nso"]
    found = measure_overlap(synthetic=texts, public=PUBLIC, records=RECORDS).synthetic
    assert (found.num_texts, found.longest_common_words) == (3, 40)


def test_text_without_anything_in_common_has_no_overlap() -> None:
    found = measure_overlap(synthetic=[text(40)], public=PUBLIC, records=RECORDS)

    assert found.synthetic.found_ngram_fraction == 0.0
    assert found.synthetic.longest_common_words == 0
    assert found.public.texts_with_found_fraction == 0.0
    assert found.num_records == 30


def test_a_copied_passage_is_found_with_its_length() -> None:
    """15 of 45 words are copied: 3 of the text's 33 passages of 13 words stand in a record."""
    passage = " ".join(RECORDS[7].split()[10:25])

    copier = f"{text(20)} - {passage.upper()} - {text(10)}"

    found = measure_overlap(synthetic=[text(30), copier], public=PUBLIC, records=RECORDS).synthetic

    assert found.longest_common_words == 15
    assert found.texts_with_found_fraction == 0.5
    assert found.found_ngram_fraction == pytest.approx(3 / (33 + 30 - NGRAM_SIZE + 1))
    assert found.longest_common_chars == len(passage) + 2, "with the blanks around it"


def test_a_passage_does_not_reach_from_one_record_into_the_next() -> None:
    joined = " ".join([*RECORDS[0].split()[-7:], *RECORDS[1].split()[:7]])

    found = measure_overlap(synthetic=[joined], public=[], records=RECORDS).synthetic

    assert found.longest_common_words == 7
    assert found.found_ngram_fraction == 0.0


def test_records_taken_in_parts_give_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [RECORDS[29], text(20)]
    whole = measure_overlap(synthetic=texts, public=PUBLIC, records=RECORDS)

    monkeypatch.setattr(overlap, "_MAX_SYMBOLS", 50)

    assert measure_overlap(synthetic=texts, public=PUBLIC, records=RECORDS) == whole
    assert whole.synthetic.longest_common_words == 40


def test_what_identifies_a_person_is_found_only_where_a_record_has_it() -> None:
    records = ["Greta Yewdale here, ring me on 555-0142.", "I have a cough."]

    found = measure_overlap(
        synthetic=["Please ring 555-0142.", "Or 555-0177."],
        public=["I have a cough."],
        records=records,
    )

    assert found.num_identifiers == 2
    assert found.synthetic.num_identifiers_found == 1
    assert found.public.num_identifiers_found == 0


def test_no_text_at_all_is_no_overlap() -> None:
    found = measure_overlap(synthetic=[], public=["", "short"], records=RECORDS)

    assert found.synthetic.num_texts == 0
    assert found.synthetic.found_ngram_fraction == 0.0
    assert found.public.longest_common_chars <= 1


@given(st.text("ab ", max_size=30), st.text("ab ", max_size=30))
def test_longest_common_passage_equals_that_of_the_standard_library(
    first: str, second: str
) -> None:
    # Blanks are measured as one between words.
    first, second = (" ".join(text.split()) for text in (first, second))
    matcher = SequenceMatcher(None, first, second, autojunk=False)

    expected = matcher.find_longest_match(0, len(first), 0, len(second)).size

    found = measure_overlap(synthetic=[first], public=[], records=[second])
    assert found.synthetic.longest_common_chars == expected
