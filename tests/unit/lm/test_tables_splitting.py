"""Copies of a prompt, and groups, stay on one side of a split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.errors import TableError
from lm.tables import (
    TextRow,
    drop_overlapping,
    normalise_prompt,
    overlapping_prompts,
    split_rows,
)


def row(prompt: str, *, group: str | None = None, response: str = "r") -> TextRow:
    return TextRow(prompt=prompt, response=response, group=group)


prompts = st.sampled_from(["Is it safe?", "is it  SAFE?", "How?", "why", "Why", "when", "who"])
groups = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d"]))
tables = st.lists(st.builds(lambda p, g: row(p, group=g), prompts, groups), min_size=1, max_size=30)


@given(tables, st.integers(1, 4), st.integers(0, 99))
def test_split_rows_shares_no_prompt_and_no_group(
    rows: list[TextRow], num_parts: int, seed: int
) -> None:
    try:
        parts = split_rows(rows, num_parts, seed=seed)
    except TableError:
        return

    assert all(parts)
    assert sorted(map(id, rows)) == sorted(id(r) for part in parts for r in part)
    for key in (lambda r: normalise_prompt(r.prompt), lambda r: r.group):
        sides = [{key(r) for r in part} - {None} for part in parts]
        assert sum(map(len, sides)) == len(set().union(*sides))


def test_split_rows_depends_on_the_seed_alone_and_is_even() -> None:
    rows = [row(f"question {i}") for i in range(101)]

    first, second = split_rows(rows, 2, seed=1), split_rows(rows, 2, seed=1)

    assert first == second
    assert first != split_rows(rows, 2, seed=2)
    assert [len(part) for part in first] == [51, 50]
    assert [r.prompt for r in first[0]] == [r.prompt for r in rows if r in first[0]]


def test_split_rows_refuses_more_parts_than_separable_rows() -> None:
    rows = [row("Same?"), row("same? "), row("SAME?")]

    with pytest.raises(TableError, match="at least 2 rows that differ"):
        split_rows(rows, 2, seed=0)
    with pytest.raises(TableError, match="num_parts >= 1"):
        split_rows(rows, 0, seed=0)


def test_evaluation_rows_whose_prompt_stands_in_training_are_dropped_and_counted() -> None:
    rows = (row("Is it SAFE?"), row("New one"), row("is it\tsafe?"))
    training = ["is it safe?", "Something else"]

    kept, num_dropped = drop_overlapping(rows, training_prompts=training)

    assert overlapping_prompts(rows, training_prompts=training) == {"is it safe?"}
    assert kept == (rows[1],)
    assert num_dropped == 2


def test_an_evaluation_set_that_is_trained_on_whole_is_refused() -> None:
    with pytest.raises(TableError, match="found all 1"):
        drop_overlapping([row("a")], training_prompts=["A"])
