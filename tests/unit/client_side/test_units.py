from __future__ import annotations

from client_side.records import PrivateRecord
from client_side.units import group_into_units


def _record(prompt: str, unit_id: str) -> PrivateRecord:
    return PrivateRecord(prompt=prompt, response="r", unit_id=unit_id)


def test_records_of_one_unit_stand_together_whatever_lies_between_them() -> None:
    records = [_record("p1", "anna"), _record("p2", "ben"), _record("p3", "anna")]

    units = group_into_units(records)

    assert [[record.prompt for record in unit] for unit in units] == [["p1", "p3"], ["p2"]]


def test_no_records_are_no_units() -> None:
    assert group_into_units([]) == ()
