"""The rows that an audit makes canaries and records of; they need no model's libraries."""

from __future__ import annotations

from typing import Final

import numpy as np

from client_side.records import SHIPPED_RECORDS
from lm.tables import ColumnMap, TextRow, read_table
from protocol.errors import ConfigurationError
from simulations.audit.config import AuditConfig
from simulations.clinic import compose_messages

RECORDS_FILE: Final = "audited_records.jsonl"
"""What the audited client trains on: records and the canaries that the coins let in."""


def audited_rows(config: AuditConfig) -> tuple[TextRow, ...]:
    """Return rows for canaries first, then for records, in mixed order.

    Args:
        config: The audit; the same one gives the same rows again.

    Returns:
        `num_canaries` + `num_records` rows.

    Raises:
        TableError: The records cannot be used.
        ConfigurationError: There are too few of them.
    """
    records = config.client_side.records
    wanted = config.num_canaries + config.num_records
    if records.path == SHIPPED_RECORDS:
        messages = compose_messages(wanted, seed=config.seed, split="train")
        return tuple(TextRow(prompt=m.prompt, response=m.response) for m in messages)
    columns = ColumnMap(prompt=records.prompt_column, response=records.response_column)
    table = read_table(
        records.path,
        columns=columns,
        split=records.split,
        max_chars=records.max_record_chars,
        limit_name="client_side.records.max_record_chars",
    )
    if len(table.rows) < wanted:
        raise ConfigurationError(
            f"Expected at least num_canaries + num_records = {wanted} rows in {records.path}, got "
            f"{len(table.rows)}. Lower num_records or num_canaries."
        )
    order = np.random.default_rng([config.seed, 2]).permutation(len(table.rows))
    return tuple(table.rows[int(index)] for index in order[:wanted])
