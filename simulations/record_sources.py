"""Where the rows of a simulation come from: files, data sets, or what the project composes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import chain
from typing import Final

from client_side.config import RecordsConfig
from client_side.records import SHIPPED_RECORDS
from lm.errors import TableError
from lm.tables import ColumnMap, TextRow, read_table, split_rows
from protocol.errors import ConfigurationError
from server_side.public_texts import read_test_rows, require_test_rows
from simulations.clinic import compose_messages
from simulations.config import DomainConfig, SimulateConfig

_LIMIT: Final = "client_side.records.max_record_chars"


def read_rows(config: SimulateConfig) -> tuple[Sequence[TextRow], Sequence[TextRow]]:
    """Read or compose what the clients without a domain of their own share, and the test.

    Args:
        config: The simulation.

    Returns:
        Training rows and test rows.

    Raises:
        TableError: Records or test records cannot be used.
        ConfigurationError: They do not fit what else is asked for.
    """
    records, evaluation = config.client_side.records, config.server_side.evaluation
    held_out: Sequence[TextRow]
    if records.path == SHIPPED_RECORDS:
        training = _compose(config.num_records, records, seed=config.seed, split="train")
        held_out = _compose(config.num_evaluation_records, records, seed=config.seed, split="test")
    else:
        columns = ColumnMap(
            prompt=records.prompt_column,
            response=records.response_column,
            group=records.group_column,
            topic=config.split.topic_column,
        )
        table = read_table(
            records.path,
            columns=columns,
            split=records.split,
            max_chars=records.max_record_chars,
            limit_name=_LIMIT,
        )
        training, held_out = table.rows, ()
    if evaluation.path is not None:
        return training, read_test_rows(evaluation)
    if evaluation.tests_column is not None:
        raise ConfigurationError(
            "Expected server_side.evaluation.path with server_side.evaluation.tests_column="
            f"{evaluation.tests_column!r}, got no path: tests come with a file of test records. "
            "Name the file, or leave tests_column unset."
        )
    if not held_out:
        # Groups and copies of a prompt stay together, so the test has nobody from the training.
        share = config.evaluation_fraction
        # In as few parts as state it, for a part wants a record that has its prompt alone.
        parts = Fraction(share).limit_denominator(max(20, math.ceil(1 / min(share, 1 - share))))
        try:
            split = split_rows(training, parts.denominator, seed=config.seed)
        except TableError as error:
            raise TableError(
                f"In keeping evaluation_fraction={share:g} of the records for the test: {error}"
            ) from None
        held_out, training = (
            tuple(chain.from_iterable(own))
            for own in (split[: parts.numerator], split[parts.numerator :])
        )
        require_test_rows(held_out, f"that evaluation_fraction={share:g} keeps of the records")
    return training, held_out


def read_domain(config: SimulateConfig, domain: DomainConfig) -> tuple[TextRow, ...]:
    """Read the records of a client that has a domain of its own.

    Args:
        config: The simulation.
        domain: Where they lie.

    Returns:
        All of them.

    Raises:
        TableError: They cannot be used.
    """
    columns = ColumnMap(
        prompt=domain.prompt_column, response=domain.response_column, group=domain.group_column
    )
    return read_table(
        domain.path,
        columns=columns,
        split=domain.split,
        max_chars=config.client_side.records.max_record_chars,
        limit_name=_LIMIT,
    ).rows


def _compose(
    num_records: int, records: RecordsConfig, *, seed: int, split: str
) -> tuple[TextRow, ...]:
    keeps_groups = records.group_column is not None
    try:
        messages = compose_messages(num_records, seed=seed, split=split)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return tuple(
        TextRow(
            prompt=message.prompt,
            response=message.response,
            group=message.patient_id if keeps_groups else None,
            topic=message.topic,
        )
        for message in messages
    )
