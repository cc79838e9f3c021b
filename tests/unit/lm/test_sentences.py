from __future__ import annotations

import pytest

from lm.sentences import whole_sentences


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Rest. Drink water and", "Rest."),
        ("  Rest! Should you drink? ", "Rest! Should you drink?"),
        ('She said "rest." And then', 'She said "rest."'),
        ("Dear Ruth,\n\nRest for a day.\n\nThen", "Dear Ruth,\n\nRest for a day."),
        ("Two things help.\n1. Rest.\n2.", "Two things help.\n1. Rest."),
        ("Take 2.5 mg. Then see Dr. Aldous at", "Take 2.5 mg."),
        ("Rest. See example.org", "Rest."),
        ("and so on and on", ""),
        ("", ""),
    ],
)
def test_a_text_ends_with_its_last_whole_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


def test_a_text_without_an_end_is_read_once() -> None:
    """A pattern that tried again from every place would take minutes here."""
    assert whole_sentences("word " * 200_000) == ""
