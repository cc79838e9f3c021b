"""What a file or a name is taken for, and what is said of one that is nearly right."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lm.errors import TableError
from lm.public_prompts import read_prompts
from lm.table_formats import is_same_source
from lm.tables import read_table

SECRET = "Zebediah Quux"


@pytest.mark.parametrize("read", [read_table, read_prompts])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (f"prompt;response\n{SECRET};Cream\n", "';'"),
        (f'\ufeff\n"prompt";"response"\n"{SECRET}, 9";"Cream"\n', "';'"),
        (f"prompt\tresponse\n{SECRET}\tCream\n", "a tab"),
        (f"{SECRET};Cream\n{SECRET};Cream\n", "';'"),
    ],
)
def test_a_csv_file_without_commas_is_told_to_want_them(
    tmp_path: Path, read: object, content: str, named: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(TableError, match=f"Expected commas .* one column with {named}") as caught:
        read(str(path))  # type: ignore[operator]  # either of the two readers

    assert SECRET not in str(caught.value)


def test_a_semicolon_beside_commas_is_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,response,a;b\nx,y,z\n")

    assert read_table(str(path)).rows[0].prompt == "x"


def test_a_limit_is_named_by_its_setting_where_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,response\nxxxxx,y\n")

    with pytest.raises(TableError, match=r"at most 4 characters.*, or raise records\.max\.$"):
        read_table(str(path), max_chars=4, limit_name="records.max")
    with pytest.raises(TableError, match=r"at most 4 characters.*Shorten or delete them\.$"):
        read_table(str(path), max_chars=4)
    with pytest.raises(TableError, match=r"1 too_long.*at most 4 characters"):
        read_table(str(path), max_chars=4, drop_unusable=True)


def test_a_mistyped_path_without_an_ending_is_no_data_set_that_a_hub_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def load_dataset(name: str, **_: object) -> None:
        asked.append(name)
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "records").mkdir()

    for path in ("records/notes", "./notes", "../notes", "~/no such notes", str(tmp_path / "n")):
        with pytest.raises(TableError, match=r"Expected a file at .* found nothing there"):
            read_table(path)
    assert asked == []

    for name in ("someone/notes", "notes"):
        with pytest.raises(TableError, match=rf"file at {name} or .* found no such file or folder"):
            read_table(name)
    assert asked == ["someone/notes", "notes"]


def test_a_csv_file_of_a_mark_of_its_encoding_alone_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\ufeff\n", encoding="utf-8")

    with pytest.raises(TableError, match="found an empty file"):
        read_table(str(path))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (pa.array([2**62], pa.timestamp("us")), "OverflowError"),
        (pa.array([2**31 - 1], pa.date32()), "OverflowError"),
        (pa.array([0], pa.timestamp("us", tz="Nowhere/Land")), "ArrowInvalid"),
    ],
)
def test_a_parquet_column_that_python_cannot_hold_is_named(
    tmp_path: Path, values: pa.Array, problem: str
) -> None:
    """The file is whole, and to write it again would change nothing."""
    path = tmp_path / "rows.parquet"
    table = pa.table({"prompt": [SECRET], "response": ["r"], "seen": values})
    pq.write_table(table, path)

    with pytest.raises(TableError, match=f"got {problem} at 'seen'") as caught:
        read_table(str(path))
    assert "half written" not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_the_home_of_an_unknown_user_holds_no_file() -> None:
    with pytest.raises(TableError, match=r"Expected a file at ~nobodys-name/rows\.csv, found"):
        read_table("~nobodys-name/rows.csv")
    assert not is_same_source("~nobodys-name/rows.csv", "rows.csv")
