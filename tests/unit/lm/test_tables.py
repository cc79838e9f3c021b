import contextlib
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm.errors import TableError
from lm.tables import (
    ColumnMap,
    DropReason,
    TextRow,
    read_table,
)

SECRET = "Zebediah Quux 555-0199"
ROWS = [
    {"prompt": f"{SECRET} asks about rash {i}", "response": f"Cream {i}", "person": f"p{i // 2}"}
    for i in range(6)
]


def write(folder: Path, rows: Sequence[Mapping[str, object]], suffix: str) -> Path:
    path = folder / f"rows{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def error_of(source: Path | str, **options: object) -> str:
    """Return the message of the refusal, after checking that nothing in it quotes a row."""
    with pytest.raises(TableError) as caught:
        read_table(str(source), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert SECRET not in message
    assert "Cream" not in message
    assert message.endswith(".")
    assert caught.value.__context__ is None, "a parser's exception may quote its input"
    assert caught.value.__cause__ is None
    return message


def row(prompt: str, *, group: str | None = None, response: str = "r") -> TextRow:
    return TextRow(prompt=prompt, response=response, group=group)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_read_table_gives_the_same_rows_from_every_format(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path, ROWS, suffix)

    contents = read_table(str(path), columns=ColumnMap(group="person"))

    assert [(r.prompt, r.response, r.group) for r in contents.rows] == [
        (r["prompt"], r["response"], r["person"]) for r in ROWS
    ]
    assert contents.columns == ColumnMap(prompt="prompt", response="response", group="person")
    assert contents.num_dropped == {}


def test_read_table_keeps_line_breaks_quotes_and_other_scripts(tmp_path: Path) -> None:
    texts = ['He said "no",\nthen left', "Ω 薬 \u2028 end", "a,b;c"]
    for suffix in (".jsonl", ".csv", ".parquet"):
        path = write(tmp_path, [{"prompt": t, "response": t} for t in texts], suffix)

        assert [r.prompt for r in read_table(str(path)).rows] == texts


def test_read_table_accepts_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "a", "response": "b"}\n\n{"prompt": "c", "response":"d"}'
    )

    assert [r.prompt for r in read_table(str(path)).rows] == ["a", "c"]


def test_read_table_reads_a_named_data_set_without_leaving_a_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, str, bool]] = []

    def load_dataset(name: str, *, split: str, streaming: bool) -> list[dict[str, str]]:
        calls.append((name, split, streaming))
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))

    contents = read_table("someone/notes", split="validation")

    assert contents.rows == (row("a", response="b"),)
    assert calls == [("someone/notes", "validation", True)]


def test_read_table_names_the_kind_of_failure_of_a_named_data_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise ConnectionError(SECRET)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))

    assert "ConnectionError" in error_of("someone/notes")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("instruction", "input", "output"), ("input", "output")),
        (("instruction", "output"), ("instruction", "output")),
        (("question", "answer"), ("question", "answer")),
        (("answer", "response", "input", "prompt"), ("prompt", "response")),
    ],
)
def test_columns_are_inferred_in_the_documented_order(
    tmp_path: Path, names: tuple[str, ...], expected: tuple[str, str]
) -> None:
    path = write(tmp_path, [{name: f"text of {name}" for name in names}], ".jsonl")

    columns = read_table(str(path)).columns

    assert (columns.prompt, columns.response) == expected


def test_a_wrong_column_is_answered_with_the_columns_found_and_a_suggestion(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, ".csv")

    message = error_of(path, columns=ColumnMap(response="respnse"))

    assert "'respnse'" in message
    assert "prompt, response, person" in message
    assert "Did you mean 'response'?" in message


def test_unknown_columns_without_a_map_name_what_was_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path, [{"message": "a", "reply": "b"}], ".jsonl")

    message = error_of(path)

    assert "prompt, input, question, instruction" in message
    assert "found message, reply" in message


def test_a_first_row_in_place_of_a_header_is_not_shown(tmp_path: Path) -> None:
    """The header of a CSV file without one is a record."""
    path = tmp_path / "rows.csv"
    path.write_text(f"{SECRET} asks,Cream twice\nmore,rows\n")

    assert "2 not shown: is the first row a header?" in error_of(path)


def test_one_column_for_both_roles_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS, ".jsonl")

    assert "'prompt' for both" in error_of(path, columns=ColumnMap(response="prompt"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".txt", ""])
def test_a_missing_file_is_named(tmp_path: Path, suffix: str) -> None:
    assert "found nothing there" in error_of(tmp_path / f"none{suffix}")


@pytest.mark.parametrize("name", ["none.jsonl", "none.txt", "records/none.tsv", "a b"])
def test_a_mistyped_relative_path_is_not_taken_for_a_data_set(name: str) -> None:
    assert "found nothing there" in error_of(name)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)

    assert "found an empty file" in error_of(path)


def test_a_folder_and_an_unknown_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_bytes(b"PK")

    assert "found the folder" in error_of(tmp_path)
    assert "found rows.xlsx" in error_of(tmp_path / "rows.xlsx")


def test_a_header_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,response\n")

    assert "at least one row" in error_of(tmp_path / "rows.csv")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_every_cut_of_a_file_is_refused_or_ends_at_a_whole_row(tmp_path: Path, suffix: str) -> None:
    content = write(tmp_path, ROWS, suffix).read_bytes()
    torn = tmp_path / f"torn{suffix}"
    for length in range(1, len(content) - 1, 7):
        torn.write_bytes(content[:length])
        if suffix == ".jsonl" and content[length - 1 : length + 1].find(b"\n") != -1:
            continue  # a cut at the end of a line cannot be seen

        assert "half written" in error_of(torn)


def test_a_csv_cut_in_a_quoted_field_or_before_its_last_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"

    path.write_text(f'prompt,response\na,b\n{SECRET},"Cream for the')
    assert "half written" in error_of(path)
    path.write_text(f"prompt,response\na,b\n{SECRET}")
    assert "half written" in error_of(path)


def test_a_csv_row_with_too_many_fields_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"prompt,response\na,b\n{SECRET},Cream,twice\nc,d\n")

    assert "found 3 in row 2 (header not counted)" in error_of(path)


def test_a_column_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt,response,prompt\na,b,c\n")

    assert "found one twice" in error_of(tmp_path / "rows.csv")


@pytest.mark.parametrize("line", [SECRET, f'["{SECRET}"]', "[" * 200_000, "7", '{"prompt": '])
def test_a_line_that_is_no_object_names_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    good = '{"prompt": "a", "response": "b"}\n'
    path.write_text(f"{good}{line}\n{good}")

    assert "in line 2" in error_of(path)


def test_a_json_array_is_told_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, indent=1))

    assert "found a JSON array" in error_of(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_text_that_is_not_utf8_names_the_line(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(f"prompt,response\n{SECRET},Cream für die Füße\n".encode(encoding))

    message = error_of(path)

    assert "UTF-8" in message
    assert f"line {2 if encoding == 'latin-1' else 1}" in message


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("missing", ["", "   "])
def test_rows_without_response_are_numbered(tmp_path: Path, suffix: str, missing: str) -> None:
    rows = [ROWS[0], *[{**ROWS[1], "response": missing}] * 7]
    path = write(tmp_path, rows, suffix)

    message = error_of(path)

    assert "column 'response' of every row" in message
    assert "row 2, 3, 4, 5, 6 and 2 more" in message


@pytest.mark.parametrize("value", [None, 7, ["Cream"], "\ud800"])
def test_a_response_that_is_not_text_counts_as_none(tmp_path: Path, value: object) -> None:
    path = write(tmp_path, [ROWS[0], {**ROWS[1], "response": value}], ".jsonl")

    assert "found none in row 2" in error_of(path)


def test_a_row_that_lacks_the_key_counts_as_without_response(tmp_path: Path) -> None:
    path = write(tmp_path, [ROWS[0], {"prompt": SECRET}], ".jsonl")

    assert "found none in row 2" in error_of(path)


@pytest.mark.parametrize("columns", [ColumnMap(group="person"), ColumnMap(topic="person")])
def test_a_row_without_group_or_topic_is_refused_where_its_column_is_named(
    tmp_path: Path, columns: ColumnMap
) -> None:
    path = write(tmp_path, [ROWS[0], {**ROWS[1], "person": ""}], ".csv")

    assert "'person'" in error_of(path, columns=columns)
    assert len(read_table(str(path)).rows) == 2


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("num_chars", [100_000, 300_000])
def test_an_overlong_row_is_named_by_number(tmp_path: Path, suffix: str, num_chars: int) -> None:
    """300,000 characters lie above the csv module's own limit, whose error names no row."""
    path = write(tmp_path, [ROWS[0], {**ROWS[1], "prompt": SECRET + "x" * num_chars}], suffix)

    message = error_of(path)

    assert "at most 20000 characters" in message
    assert "row 2" in message
    assert len(message) < 400


def test_unusable_rows_are_dropped_and_counted_on_request(tmp_path: Path) -> None:
    rows = [
        ROWS[0],
        {**ROWS[1], "prompt": ""},
        {**ROWS[2], "response": ""},
        {**ROWS[3], "response": "x" * 99},
        {**ROWS[4], "response": "x" * 99},
    ]
    path = write(tmp_path, rows, ".jsonl")

    contents = read_table(str(path), max_chars=50, drop_unusable=True)

    assert len(contents.rows) == 1
    assert contents.num_dropped == {
        DropReason.NO_PROMPT: 1,
        DropReason.NO_RESPONSE: 1,
        DropReason.TOO_LONG: 2,
    }


def test_no_row_left_after_dropping_is_an_error_with_the_counts(tmp_path: Path) -> None:
    path = write(tmp_path, [{**r, "response": ""} for r in ROWS], ".jsonl")

    assert "6 no_response" in error_of(path, drop_unusable=True)


def test_numbered_groups_equal_their_spelling_in_text(tmp_path: Path) -> None:
    """A column of whole numbers with a gap becomes one of 17.0 where pandas has written it."""
    spelled = zip(ROWS, (17, "17", 17.0), strict=False)
    path = write(tmp_path, [{**row, "person": person} for row, person in spelled], ".jsonl")

    assert {r.group for r in read_table(str(path), columns=ColumnMap(group="person")).rows} == {
        "17"
    }


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_tests_of_a_row_are_read_where_their_column_is_named(tmp_path: Path, suffix: str) -> None:
    tests = ["assert f(1) == 2", "", "assert f(2) == 3"]
    source = write(tmp_path, [{"prompt": "p", "response": "r", "checks": tests}], suffix)

    with_tests = read_table(str(source), columns=ColumnMap(tests="checks")).rows
    without = read_table(str(source)).rows

    assert with_tests[0].tests == ("assert f(1) == 2", "assert f(2) == 3")
    assert without[0].tests == ()
    assert "assert" not in repr(with_tests)


@pytest.mark.parametrize("value", ["assert f(1) == 2", [], [""], [1], ["a", None], None])
def test_tests_that_are_no_list_of_texts_are_refused(tmp_path: Path, value: object) -> None:
    rows = [{"prompt": "p", "response": "r", "checks": value}]
    source = write(tmp_path, rows, ".jsonl")

    message = error_of(source, columns=ColumnMap(tests="checks"))

    assert "Expected a list of texts in column 'checks'" in message
    assert "row 1" in message


def test_a_column_with_tests_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = write(tmp_path, [{"prompt": "p", "response": "r", "checks": ["1"]}], ".jsonl")

    message = error_of(source, columns=ColumnMap(tests="check"))

    assert "Expected a column 'check' with the tests" in message
    assert "Did you mean 'checks'?" in message


def test_reprs_show_lengths_only(tmp_path: Path) -> None:
    contents = read_table(str(write(tmp_path, ROWS, ".jsonl")))

    assert SECRET not in repr(contents)
    assert repr(contents.rows[0]) == "TextRow(prompt=<40 characters>, response=<7 characters>)"


@given(st.binary(max_size=300), st.sampled_from([".jsonl", ".csv", ".parquet"]))
def test_arbitrary_bytes_give_rows_or_a_table_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(TableError):
        assert read_table(str(path)).rows
