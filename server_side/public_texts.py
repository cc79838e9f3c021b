"""The server's public text: test records, prompts, and what starting weights are tuned on.

All of it is read, and refused, before a model or its libraries are loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lm.errors import TableError
from lm.public_prompts import read_prompts
from lm.tables import ColumnMap, TableContents, TextRow, normalise_prompt, read_table
from protocol.errors import ConfigurationError, StageError
from server_side.config import (
    MIN_TEST_ROWS,
    EvaluationConfig,
    ServerConfig,
    SynthesisConfig,
    WarmStartConfig,
)
from server_side.sandbox.code_tests import check_tests
from server_side.sandbox.running import find_confinement

_LOGGER = logging.getLogger(__name__)
_SEEN_BY_ROUGE: Final = re.compile("[a-z0-9]")
"""What the words of `rouge_score` are made of; its tokenizer takes all else for space."""


def read_test_rows(config: EvaluationConfig) -> tuple[TextRow, ...]:
    """Read public test records, and make sure that their tests, if any, can be run here.

    Args:
        config: The file, its columns, and whether there are tests.

    Returns:
        All rows, at least `MIN_TEST_ROWS`.

    Raises:
        ConfigurationError: No file is named, or this machine cannot confine code that is tested.
        TableError: The file or its tests cannot be used, or it has too few rows.
    """
    if config.path is None:
        raise ConfigurationError(
            "Expected evaluation.path to name public test records, got nothing. Name a JSON "
            "lines, CSV or parquet file with prompts and responses."
        )
    columns = ColumnMap(
        prompt=config.prompt_column, response=config.response_column, tests=config.tests_column
    )
    rows = read_table(config.path, columns=columns, split=config.split).rows
    if config.tests_column is not None:
        check_tests(rows)
        find_confinement()
    require_test_rows(rows, f"in {config.path}")
    return rows


def require_test_rows(rows: Sequence[TextRow], where: str) -> None:
    """Refuse a test of so few records that no interval can be taken.

    Args:
        rows: The test records.
        where: Where they were found, for the error.

    Raises:
        TableError: They are fewer than `MIN_TEST_ROWS`.
    """
    if len(rows) < MIN_TEST_ROWS:
        raise TableError(
            f"Expected at least {MIN_TEST_ROWS} test records, of which an interval can be taken, "
            f"found {len(rows)} {where}. Supply more; a hundred tell something."
        )


def num_beyond_rouge(rows: Sequence[TextRow]) -> int:
    """Return of how many references ROUGE sees no word, where these are most of the test.

    Args:
        rows: The test records.

    Returns:
        How many hold neither a Latin letter nor a digit; 0 where they are not more than half.
    """
    number = sum(_SEEN_BY_ROUGE.search(row.response.lower()) is None for row in rows)
    return number if 2 * number > len(rows) else 0


def warn_of_references_beyond_rouge(rows: Sequence[TextRow]) -> None:
    """Say that ROUGE tells nothing about most of a test, where that is so.

    Args:
        rows: The test records.
    """
    if number := num_beyond_rouge(rows):
        _LOGGER.warning(
            "%d of %d test references hold no word of Latin letters or digits, and ROUGE sees no "
            "other, so that it is near 0 whatever the target answers. Read BLEU and perplexity "
            "instead, and perplexity alone where no spaces part the words.",
            number,
            len(rows),
        )


def read_public_prompts(config: SynthesisConfig) -> tuple[str, ...]:
    """Read the public prompts that the settings name.

    Returns:
        All of them; none where no file is named.

    Raises:
        TableError: The file cannot be used.
    """
    if config.public_prompts_path is None:
        return ()
    return read_prompts(config.public_prompts_path, column=config.public_prompts_column)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicText:
    """Public text that starting weights may be tuned on."""

    rows: tuple[TextRow, ...]
    """Rows whose prompt does not stand in the test set."""
    counts: Mapping[str, int]
    """What became of the file's rows, by reason."""

    @property
    def digest(self) -> str:
        """SHA-256 of the rows, as hex."""
        content = [[row.prompt, row.response] for row in self.rows]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_start_rows(config: WarmStartConfig) -> Sequence[TextRow]:
    """Read the public text of a warm start; none where no file is named.

    Args:
        config: Where it lies.

    Returns:
        All usable rows, those that repeat a test prompt among them; `max_rows` does not bound them.

    Raises:
        TableError: It cannot be read.
    """
    if config.path is None:
        return ()
    return _read_start(config, config.path).rows


def read_public_text(config: ServerConfig) -> PublicText:
    """Read the public text, and drop whatever repeats a prompt of the test set.

    Args:
        config: The server's settings: the text, and the whole file of test records.

    Returns:
        What is left.

    Raises:
        ConfigurationError: No test records are named.
        TableError: A file cannot be read.
        StageError: Nothing is left.
    """
    warm, evaluation = config.warm_start, config.evaluation
    assert warm.path is not None
    if evaluation.path is None:
        raise ConfigurationError(
            "Expected evaluation.path to name the public test records before starting weights are "
            "tuned (warm_start.path), because text that repeats a test prompt must be left out, "
            "got nothing. Name the file."
        )
    contents = _read_start(warm, warm.path)
    rows, num_unusable = contents.rows, sum(contents.num_dropped.values())
    if num_unusable:
        reasons = ", ".join(f"{number} {why}" for why, number in contents.num_dropped.items())
        _LOGGER.warning("%d rows of %s cannot be used: %s.", num_unusable, warm.path, reasons)
    columns = ColumnMap(prompt=evaluation.prompt_column, response=evaluation.response_column)
    test_rows = read_table(evaluation.path, columns=columns, split=evaluation.split).rows
    tested = {normalise_prompt(row.prompt) for row in test_rows}
    kept = tuple(row for row in rows if normalise_prompt(row.prompt) not in tested)
    if num_fallen := len(rows) - len(kept):
        _LOGGER.warning(
            "%d of %d rows of %s fall, because their prompt stands in the test set.",
            num_fallen,
            len(rows),
            warm.path,
        )
    if not kept:
        raise StageError(
            f"Expected public text in {warm.path} (server_side.warm_start.path) besides the test "
            f"set, found that all {len(rows)} prompts stand in it. Name other text."
        )
    num_used = min(len(kept), warm.max_rows)
    counts = {
        "num_rows": len(rows) + num_unusable,
        "num_unusable": num_unusable,
        "num_in_test_set": num_fallen,
        "num_surplus": len(kept) - num_used,
        "num_kept": num_used,
    }
    return PublicText(rows=kept, counts=counts)


def _read_start(config: WarmStartConfig, path: str) -> TableContents:
    columns = ColumnMap(prompt=config.prompt_column, response=config.response_column)
    return read_table(path, columns=columns, split=config.split, drop_unusable=True)
