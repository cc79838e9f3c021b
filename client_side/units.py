"""Gather records into privacy units: what is drawn, clipped and counted together."""

from __future__ import annotations

from collections.abc import Sequence

from client_side.records import PrivateRecord


def group_into_units(records: Sequence[PrivateRecord]) -> tuple[tuple[PrivateRecord, ...], ...]:
    """Gather the records of each privacy unit.

    Args:
        records: The private records.

    Returns:
        One tuple a unit, in order of first appearance.

    Privacy:
        Output is private, its length included; must not leave the client.
    """
    units: dict[str, list[PrivateRecord]] = {}
    # Privacy: all records of a unit come into one tuple, which is drawn and clipped as one.
    for record in records:
        units.setdefault(record.unit_id, []).append(record)
    return tuple(tuple(unit) for unit in units.values())
