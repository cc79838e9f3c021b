"""Read the private records of this client, and know which of them are one privacy unit.

First stage of the journey. What is read here stays on this machine: a `PrivateRecord` has no
serializer, refuses to be pickled, and shows lengths only. Errors name settings, row numbers and
counts; they are for this client's operator alone, and `client_side.app` never forwards them.

Rules on which the privacy claim rests:
- A unit is one distinct record, or all records of one group. `unit_id` follows from that content
  alone, never from a row's place in the file, so the lifetime ledger knows the unit again in
  another file.
- Whatever leaves rows out (repeated copies, the cap per unit) decides within one unit and looks at
  no other, so that adding or removing a unit changes nothing for the rest.

Does not cover: an operator who names the wrong group column, or one person who stands in the file
under two names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn, SupportsIndex

from client_side.config import RecordsConfig, Unit
from lm.errors import TableError
from lm.tables import ColumnMap, TextRow, read_table
from protocol.errors import RecordsError

DECLARED_SIZE_TOLERANCE_FRACTION = 0.1
"""How far the true number of units may lie from `declared_size`.

ε holds whatever the truth is, since the sample rate comes from `declared_size`. What suffers is
learning: the drawn batch and the normaliser disagree by this fraction, which acts like a learning
rate that is off by as much. A tenth does no harm and leaves room for a round number, so that the
exact count, which is private, need not be stated. A larger gap is nearly always the wrong file.
"""
SHIPPED_RECORDS = "clinic"
"""What `records.path` says by default; a simulation composes these records and writes a file."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PrivateRecord:
    """One private prompt with its response; never leaves the client.

    Privacy:
        Private as a whole, `unit_id` included. It has no serializer, cannot be pickled or copied,
        and its repr shows lengths only.
    """

    prompt: str
    """What was asked."""
    response: str
    """What was answered."""
    unit_id: str
    """Digest that all records of one privacy unit share; unkeyed, so as private as its record."""

    def __repr__(self) -> str:
        return (
            f"PrivateRecord(prompt=<{len(self.prompt)} characters>, "
            f"response=<{len(self.response)} characters>)"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("Expected a private record to stay in this process, got a request to copy.")


def load_records(config: RecordsConfig) -> tuple[PrivateRecord, ...]:
    """Read, check and number the private records by unit.

    Args:
        config: Where they lie and what they may look like; from the client's own disk.

    Returns:
        Records in file order: no record twice within a unit, and at most `max_records_per_unit` of
        one unit.

    Raises:
        RecordsError: The file is missing, empty, torn, not UTF-8 or of unknown format; a column is
            not there; a row lacks a text or is too long; no record is left; or the number of units
            is far from `declared_size`.

    Privacy:
        Output is private; must not leave the client. The error's text depends on the records' form
        and number, so it belongs on the operator's screen and nowhere else.
    """
    if config.path == SHIPPED_RECORDS:
        raise RecordsError(
            f"Expected records.path to name a file or data set, got {config.path!r}, the shipped "
            "records that only a simulation composes. Set records.path."
        )
    columns = ColumnMap(
        prompt=config.prompt_column, response=config.response_column, group=config.group_column
    )
    problem = None
    try:
        table = read_table(
            config.path,
            columns=columns,
            split=config.split,
            max_chars=config.max_record_chars,
            limit_name="records.max_record_chars",
        )
    except TableError as error:
        problem = str(error)
    if problem is not None:
        raise RecordsError(problem)
    records = _keep_within_units(
        table.rows, unit=config.privacy_unit, max_records_per_unit=config.max_records_per_unit
    )
    check_declared_size(count_units(records), declared_size=config.declared_size)
    return records


def count_units(records: Sequence[PrivateRecord]) -> int:
    """Return the number of privacy units.

    Args:
        records: The private records.

    Returns:
        How many different units they belong to.

    Privacy:
        Output is private; the server is told `declared_size` in its place.
    """
    return len({record.unit_id for record in records})


def check_declared_size(
    num_units: int,
    *,
    declared_size: int,
    tolerance_fraction: float = DECLARED_SIZE_TOLERANCE_FRACTION,
) -> None:
    """Refuse records whose number is far from what the operator publicly declared.

    Args:
        num_units: True number of privacy units.
        declared_size: The number that was declared, and that the server may know.
        tolerance_fraction: Largest allowed distance, as a fraction of `declared_size`.

    Raises:
        RecordsError: The distance is larger.

    Privacy:
        Whether this raises depends on the true number and pays for nothing. It belongs at the
        start of a node, before any request is answered; within a request the server may learn no
        more than that something is wrong on the client.
    """
    if abs(num_units - declared_size) > tolerance_fraction * declared_size:
        raise RecordsError(
            f"Expected about records.declared_size={declared_size} privacy units (within "
            f"{tolerance_fraction:.0%}), found {num_units}, copies of a record counted once. Set "
            "records.declared_size to a round number near it, or check records.path."
        )


def _keep_within_units(
    rows: Sequence[TextRow], *, unit: Unit, max_records_per_unit: int
) -> tuple[PrivateRecord, ...]:
    kept: list[PrivateRecord] = []
    contents_by_unit: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        unit_id = _unit_id(row, unit=unit)
        contents = contents_by_unit.setdefault(unit_id, set())
        content = (row.prompt, row.response)
        # Privacy: both rules look at rows of this unit only, and take the first in file order
        # without weighing what they say. Removing copies across units would let one person's rows
        # decide which of another's are used.
        if content in contents or len(contents) >= max_records_per_unit:
            continue
        contents.add(content)
        kept.append(PrivateRecord(prompt=row.prompt, response=row.response, unit_id=unit_id))
    return tuple(kept)


def _unit_id(row: TextRow, *, unit: Unit) -> str:
    # Privacy: from the content, or the group's name, alone, never from place or file; so the ledger
    # knows a unit again wherever it comes back.
    parts: tuple[str, ...]
    match unit:
        case Unit.RECORD:
            parts = ("record", row.prompt, row.response)
        case Unit.GROUP:
            assert row.group is not None, "read_table refuses a row without group"
            parts = ("group", row.group)
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode()
        # The length goes first, so that no two rows give the same bytes.
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()
