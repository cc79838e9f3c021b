import copy
import json
import logging
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from client_side.config import RecordsConfig, Unit
from client_side.records import (
    PrivateRecord,
    check_declared_size,
    count_units,
    load_records,
)
from protocol.errors import RecordsError

CANARY = "canary-7f3a Miss Ottoline Brask"


def write(folder: Path, rows: Sequence[Mapping[str, object]], name: str = "records.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def message(number: int, *, person: str = "p") -> dict[str, str]:
    return {
        "prompt": f"{CANARY} {number}",
        "response": f"Rest {number} days",
        "person": person,
    }


def test_load_records_reads_file_and_gives_each_record_a_unit(tmp_path: Path) -> None:
    path = write(tmp_path, [message(i) for i in range(10)])

    records = load_records(RecordsConfig(path=path, declared_size=10))

    assert [r.prompt for r in records] == [f"{CANARY} {i}" for i in range(10)]
    assert count_units(records) == 10


def test_unit_follows_from_content_and_not_from_place(tmp_path: Path) -> None:
    """The lifetime ledger must know a record again when it arrives in another file."""
    rows = [message(i) for i in range(10)]
    config = RecordsConfig(path=write(tmp_path, rows), declared_size=10)
    other = RecordsConfig(path=write(tmp_path, rows[::-1], "b.jsonl"), declared_size=10)

    assert {r.prompt: r.unit_id for r in load_records(config)} == {
        r.prompt: r.unit_id for r in load_records(other)
    }


def test_unit_does_not_confuse_where_prompt_ends_and_response_begins(tmp_path: Path) -> None:
    path = write(tmp_path, [{"prompt": "ab", "response": "c"}, {"prompt": "a", "response": "bc"}])

    assert count_units(load_records(RecordsConfig(path=path, declared_size=2))) == 2


def test_copies_of_a_record_are_one_unit_kept_once(tmp_path: Path) -> None:
    path = write(tmp_path, [message(1), message(2), message(1), message(1)])

    records = load_records(RecordsConfig(path=path, declared_size=2))

    assert len(records) == 2


def test_group_unit_joins_the_records_of_one_person_up_to_the_cap(tmp_path: Path) -> None:
    rows = [message(i, person="Ann" if i % 2 else "Bob") for i in range(10)]
    config = RecordsConfig(
        path=write(tmp_path, rows),
        privacy_unit=Unit.GROUP,
        group_column="person",
        max_records_per_unit=3,
        declared_size=2,
    )

    records = load_records(config)

    assert count_units(records) == 2
    assert [r.prompt.removeprefix(CANARY) for r in records] == [f" {i}" for i in range(6)]
    assert not any("Ann" in r.unit_id for r in records)


def test_a_copy_in_another_group_does_not_change_what_is_kept_of_this_one(tmp_path: Path) -> None:
    """Removing one person must leave every other person's records as they were."""
    mine = [message(1, person="me"), message(2, person="me")]
    theirs = [message(1, person="they"), message(3, person="they")]
    settings = {"privacy_unit": Unit.GROUP, "group_column": "person", "max_records_per_unit": 2}
    both = RecordsConfig(path=write(tmp_path, theirs + mine), declared_size=2, **settings)
    alone = RecordsConfig(path=write(tmp_path, mine, "b.jsonl"), declared_size=1, **settings)

    kept = load_records(both)

    assert kept[2:] == load_records(alone)


def test_columns_are_mapped_by_the_configuration(tmp_path: Path) -> None:
    path = write(tmp_path, [{"frage": "a", "antwort": "b"}])

    records = load_records(
        RecordsConfig(path=path, prompt_column="frage", response_column="antwort", declared_size=1)
    )

    assert (records[0].prompt, records[0].response) == ("a", "b")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "found nothing there"),
        (b"", "found an empty file"),
        (f'{{"prompt": "{CANARY}", "resp'.encode(), "half written"),
        (f'{{"prompt": "{CANARY} f\xfcr", "response": "b"}}'.encode("latin-1"), "UTF-8"),
        (f'{{"prompt": "{CANARY}"}}'.encode(), "found prompt"),
        (f'{{"prompt": "{CANARY}", "response": ""}}'.encode(), "found none in row 1"),
        (json.dumps({"prompt": CANARY * 4000, "response": "b"}).encode(), "in row 1"),
        (b"\n\n", "found an empty file"),
    ],
)
def test_bad_files_are_refused_without_quoting_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None, expected: str
) -> None:
    path = tmp_path / "records.jsonl"
    if content is not None:
        path.write_bytes(content)

    with caplog.at_level(logging.DEBUG), pytest.raises(RecordsError) as caught:
        load_records(RecordsConfig(path=str(path), declared_size=1))

    assert expected in str(caught.value)
    assert CANARY not in str(caught.value) + caplog.text
    assert caught.value.__context__ is None


def test_the_shipped_name_is_refused_outside_a_simulation() -> None:
    with pytest.raises(RecordsError, match=r"Set records\.path"):
        load_records(RecordsConfig())


def test_a_declared_size_far_from_the_truth_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, [message(i) for i in range(20)])

    with pytest.raises(RecordsError, match=r"declared_size=1000 .* found 20"):
        load_records(RecordsConfig(path=path, declared_size=1000))


@pytest.mark.parametrize(
    ("num_units", "is_refused"), [(90, False), (110, False), (89, True), (111, True)]
)
def test_declared_size_may_be_off_by_a_tenth(num_units: int, is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(RecordsError, match="within 10%"):
            check_declared_size(num_units, declared_size=100)
    else:
        check_declared_size(num_units, declared_size=100)


def test_declared_size_tolerance_can_be_chosen() -> None:
    check_declared_size(50, declared_size=100, tolerance_fraction=0.5)

    with pytest.raises(RecordsError):
        check_declared_size(99, declared_size=100, tolerance_fraction=0.0)


def test_repr_and_formatting_show_lengths_only() -> None:
    record = PrivateRecord(prompt=CANARY, response="Rest", unit_id="u" * 64)

    for shown in (repr(record), str(record), f"{record}", repr([record]), repr({"r": record})):
        assert CANARY not in shown
        assert "uuu" not in shown
    assert repr(record) == "PrivateRecord(prompt=<31 characters>, response=<4 characters>)"


def test_a_record_has_no_serializer() -> None:
    record = PrivateRecord(prompt=CANARY, response="Rest", unit_id="u")

    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="stay in this process"):
            action(record)
    with pytest.raises(TypeError):
        json.dumps(record)
