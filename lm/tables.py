"""Rows of prompt and response from a file or a named data set, checked and split without a look.

It knows no party: a client reads its records with it, a server its public test set. Foreign column
names are translated here, once; inside, a row has a `prompt` and a `response`.

Rules: no message and no repr holds a value of a row, only row numbers, lengths and column names.
Even a column name is shown only when it looks like one, because the "header" of a CSV file without
a header is its first row. Duplicates of a prompt, and rows of one group, stay on one side of a
split.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from lm.errors import TableError
from lm.table_formats import RawRow, read_raw_rows, text_of

PROMPT_COLUMNS = ("prompt", "input", "question", "instruction")
"""Names a prompt column is looked for under, in this order."""
RESPONSE_COLUMNS = ("response", "output", "answer")
"""Names a response column is looked for under, in this order."""
DEFAULT_MAX_CHARS = 20_000
"""Longest prompt or response that is taken for meant; a longer one is mostly a broken quote."""

_SHOWABLE_NAME = re.compile(r"[A-Za-z_][\w.\-]{0,39}")
_NUM_ROWS_SHOWN = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnMap:
    """Which columns hold what; None for prompt and response infers them from known names."""

    prompt: str | None = None
    """Column with the prompt."""
    response: str | None = None
    """Column with the response."""
    group: str | None = None
    """Column that names the person (or other group) of a row; None where rows have none."""
    topic: str | None = None
    """Column that names what a row is about, for splits by topic; None where nobody asks."""
    tests: str | None = None
    """Column with the tests that code must pass, a list of texts; None where rows have none."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TextRow:
    """One prompt with its response; the repr shows lengths only."""

    prompt: str
    """What was asked, without surrounding whitespace; never empty."""
    response: str
    """What was answered, without surrounding whitespace; never empty."""
    group: str | None = None
    """Name of the group the row belongs to, where a group column was named."""
    topic: str | None = None
    """What the row is about, where a topic column was named."""
    tests: tuple[str, ...] = ()
    """Tests that code in a response must pass, where a column with tests was named."""

    def __repr__(self) -> str:
        return (
            f"TextRow(prompt=<{len(self.prompt)} characters>, "
            f"response=<{len(self.response)} characters>)"
        )


class DropReason(StrEnum):
    """Why a row cannot be used."""

    NO_PROMPT = "no_prompt"
    """The prompt is missing, blank or not text."""
    NO_RESPONSE = "no_response"
    """The response is missing, blank or not text."""
    NO_GROUP = "no_group"
    """A group column was named and is missing or blank here."""
    NO_TOPIC = "no_topic"
    """A topic column was named and is missing or blank here."""
    NO_TESTS = "no_tests"
    """A column with tests was named, and here it holds no list of texts, or an empty one."""
    TOO_LONG = "too_long"
    """Prompt or response is longer than the limit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableContents:
    """What a table held."""

    rows: tuple[TextRow, ...] = field(repr=False)
    """Usable rows in file order; at least one."""
    columns: ColumnMap
    """The columns that were read, inferred names filled in."""
    num_dropped: Mapping[DropReason, int]
    """Rows left out, by reason; empty unless dropping was asked for."""


def read_table(
    source: str,
    *,
    columns: ColumnMap | None = None,
    split: str | None = None,
    max_chars: int = DEFAULT_MAX_CHARS,
    limit_name: str | None = None,
    drop_unusable: bool = False,
) -> TableContents:
    """Read prompts and responses from a file or a named data set.

    Args:
        source: Path of a `.jsonl`, `.json` (one object a line), `.csv` or `.parquet` file, or the
            name of a data set that `datasets.load_dataset` knows.
        columns: Which columns to read; None infers prompt and response from known names.
        split: Split of a `datasets` name; None takes `train`.
        max_chars: Longest prompt or response allowed, in characters.
        limit_name: Setting that `max_chars` comes from; None where it is fixed.
        drop_unusable: Leave out and count rows without prompt or response and rows that are too
            long. By default such a row is an error.

    Returns:
        The usable rows, at least one.

    Raises:
        TableError: The source cannot be read, a column is not there, a row cannot be used, or no
            row is left.
    """
    raw_rows = read_raw_rows(source, split=split)
    resolved = _resolve_columns(source, raw_rows, columns or ColumnMap())
    rows: list[TextRow] = []
    unusable: dict[DropReason, list[int]] = {}
    for number, raw in raw_rows:
        row = _to_row(raw, resolved, max_chars=max_chars)
        if isinstance(row, TextRow):
            rows.append(row)
        else:
            unusable.setdefault(row, []).append(number)
    if unusable and not drop_unusable:
        text = _describe_unusable(
            source, unusable, resolved, max_chars=max_chars, limit_name=limit_name
        )
        raise TableError(text)
    if not rows:
        counts = ", ".join(f"{len(numbers)} {reason}" for reason, numbers in unusable.items())
        raise TableError(
            f"Expected at least one usable row in {source}, found none: {counts}. Supply rows "
            f"with prompt and response, of at most {max_chars} characters each."
        )
    num_dropped = {reason: len(numbers) for reason, numbers in unusable.items()}
    return TableContents(rows=tuple(rows), columns=resolved, num_dropped=num_dropped)


def normalise_prompt(prompt: str) -> str:
    """Return the form under which two prompts count as the same.

    Compatible characters, case and runs of whitespace are levelled.

    >>> normalise_prompt("  Is  it SAFE? ")
    'is it safe?'
    """
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def split_rows(
    rows: Sequence[TextRow], num_parts: int, *, seed: int
) -> tuple[tuple[TextRow, ...], ...]:
    """Split rows into parts of nearly equal size that share no prompt and no group.

    Args:
        rows: Rows to split.
        num_parts: Number of parts, at least 1.
        seed: Fixes which rows go where.

    Returns:
        `num_parts` non-empty tuples, each in the order of `rows`.

    Raises:
        TableError: There are fewer separable rows than parts.
    """
    if num_parts < 1:
        raise TableError(f"Expected num_parts >= 1, got {num_parts}. Ask for at least one part.")
    clusters = inseparable_clusters(rows)
    if len(clusters) < num_parts:
        raise TableError(
            f"Expected at least {num_parts} rows that differ in prompt and group, one for each "
            f"part, found {len(clusters)}. Supply more rows or ask for fewer parts."
        )
    order = np.random.default_rng(seed).permutation(len(clusters))
    # The largest go first, so that the parts even out; within a size the seed decides.
    shuffled = sorted((clusters[i] for i in order), key=len, reverse=True)
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    for cluster in shuffled:
        min(parts, key=len).extend(cluster)
    return tuple(tuple(rows[i] for i in sorted(part)) for part in parts)


def overlapping_prompts(
    rows: Iterable[TextRow], *, training_prompts: Iterable[str]
) -> frozenset[str]:
    """Return the normalised prompts of `rows` that also stand in training.

    Args:
        rows: Rows of an evaluation set.
        training_prompts: Prompts that a model was or will be trained on.

    Returns:
        Prompts in the form that `normalise_prompt` gives.
    """
    seen = {normalise_prompt(prompt) for prompt in training_prompts}
    return frozenset(normalise_prompt(row.prompt) for row in rows) & seen


def drop_overlapping(
    rows: Sequence[TextRow], *, training_prompts: Iterable[str]
) -> tuple[tuple[TextRow, ...], int]:
    """Leave out evaluation rows whose prompt stands in training.

    Args:
        rows: Rows of an evaluation set.
        training_prompts: Prompts that a model was or will be trained on.

    Returns:
        The rows that remain, in their order, and how many were left out.

    Raises:
        TableError: No row is left.
    """
    overlap = overlapping_prompts(rows, training_prompts=training_prompts)
    kept = tuple(row for row in rows if normalise_prompt(row.prompt) not in overlap)
    if rows and not kept:
        raise TableError(
            f"Expected evaluation prompts that are not trained on, found all {len(rows)} in the "
            "training prompts. Supply another evaluation set."
        )
    return kept, len(rows) - len(kept)


def _to_row(
    raw: Mapping[str, object], columns: ColumnMap, *, max_chars: int
) -> TextRow | DropReason:
    assert columns.prompt is not None
    assert columns.response is not None
    prompt = text_of(raw.get(columns.prompt))
    response = text_of(raw.get(columns.response))
    group = None if columns.group is None else _group_name(raw.get(columns.group))
    if not prompt:
        return DropReason.NO_PROMPT
    if not response:
        return DropReason.NO_RESPONSE
    topic = None if columns.topic is None else _group_name(raw.get(columns.topic))
    if columns.group is not None and not group:
        return DropReason.NO_GROUP
    if columns.topic is not None and not topic:
        return DropReason.NO_TOPIC
    tests = () if columns.tests is None else _tests(raw.get(columns.tests))
    if columns.tests is not None and not tests:
        return DropReason.NO_TESTS
    if max(len(prompt), len(response)) > max_chars:
        return DropReason.TOO_LONG
    return TextRow(prompt=prompt, response=response, group=group, topic=topic, tests=tests)


def _group_name(value: object) -> str:
    # Groups are often numbered: 17 or 17.0 in one file and "17" in another are the same person.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return str(whole) if type(whole) is int else text_of(whole)  # True is no number


def _tests(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(test, str) for test in value):
        return ()
    return tuple(test for test in value if text_of(test))


def _resolve_columns(source: str, raw_rows: Sequence[RawRow], columns: ColumnMap) -> ColumnMap:
    found = list(dict.fromkeys(name for _, raw in raw_rows for name in raw))
    prompt = _pick(source, found, "prompt", columns.prompt, PROMPT_COLUMNS)
    response = _pick(source, found, "response", columns.response, RESPONSE_COLUMNS)
    group = None
    if columns.group is not None:
        group = _pick(source, found, "group", columns.group, ())
    topic = None
    if columns.topic is not None:
        topic = _pick(source, found, "topic", columns.topic, ())
    tests = None
    if columns.tests is not None:
        tests = _pick(source, found, "tests", columns.tests, ())
    if prompt == response:
        raise TableError(
            f"Expected different columns for prompt and response in {source}, got {prompt!r} for "
            "both. Name the column of each."
        )
    return ColumnMap(prompt=prompt, response=response, group=group, topic=topic, tests=tests)


def _pick(
    source: str, found: Sequence[str], role: str, asked: str | None, known: Sequence[str]
) -> str:
    if asked is not None and asked in found:
        return asked
    if asked is None:
        for name in known:
            if name in found:
                return name
    shown = [name for name in found if _SHOWABLE_NAME.fullmatch(name)]
    num_hidden = len(found) - len(shown)
    listing = ", ".join(shown) or "no column that looks like one"
    if num_hidden:
        listing += f" (and {num_hidden} not shown: is the first row a header?)"
    wanted = f"a column {asked!r}" if asked is not None else f"one of {', '.join(known)}"
    candidates = difflib.get_close_matches(asked or role, shown, n=1, cutoff=0.6)
    candidates = candidates or [name for name in known if name in shown][:1]
    advice = f"Did you mean {candidates[0]!r}?" if candidates else "Check the column names."
    raise TableError(
        f"Expected {wanted} with the {role} in {source}, found {listing}. {advice} Name the column "
        f"with the {role} in the settings."
    )


def _describe_unusable(
    source: str,
    unusable: Mapping[DropReason, Sequence[int]],
    columns: ColumnMap,
    *,
    max_chars: int,
    limit_name: str | None,
) -> str:
    reason, numbers = next(iter(unusable.items()))
    shown = ", ".join(str(number) for number in numbers[:_NUM_ROWS_SHOWN])
    more = len(numbers) - _NUM_ROWS_SHOWN
    where = f"row {shown}" + (f" and {more} more" if more > 0 else "")
    match reason:
        case DropReason.TOO_LONG:
            return (
                f"Expected at most {max_chars} characters in each prompt and response of {source}, "
                f"found more in {where}. Shorten or delete them"
                f"{f', or raise {limit_name}' if limit_name else ''}."
            )
        case DropReason.NO_TESTS:
            return (
                f"Expected a list of texts in column {columns.tests!r} of every row of {source}, "
                f"found none in {where}. Complete or delete them; a list needs JSON lines or "
                "parquet."
            )
        case DropReason.NO_PROMPT:
            column = columns.prompt
        case DropReason.NO_RESPONSE:
            column = columns.response
        case DropReason.NO_GROUP:
            column = columns.group
        case DropReason.NO_TOPIC:
            column = columns.topic
    return (
        f"Expected text in column {column!r} of every row of {source}, found none in {where}. "
        "Complete or delete them."
    )


def inseparable_clusters(rows: Sequence[TextRow]) -> list[list[int]]:
    """Join rows that share a normalised prompt or a group, directly or through others.

    Args:
        rows: Rows that are to be split.

    Returns:
        Positions of the rows that must stay together; every row is in exactly one cluster.
    """
    parent = list(range(len(rows)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_with: dict[tuple[str, str], int] = {}
    for index, row in enumerate(rows):
        keys = [("prompt", normalise_prompt(row.prompt))]
        if row.group is not None:
            keys.append(("group", row.group))
        for key in keys:
            parent[find(index)] = find(first_with.setdefault(key, index))
    clusters: dict[int, list[int]] = {}
    for index in range(len(rows)):
        clusters.setdefault(find(index), []).append(index)
    return list(clusters.values())
