"""Raw rows of a JSON lines, CSV or parquet file, or of a `datasets` name, as plain dictionaries.

`lm.tables` gives them their meaning; here only the file itself is judged: does it exist, is it
whole, is it text. A file that ends in the middle of a row is refused, never cut back to its last
whole row, because half a file is a mistake that should be seen.

No message holds a value. An exception of a parser often carries its input, so none is chained:
the failure is noted first, and the `TableError` is raised outside the handler.

Does not cover: a CSV file cut within its last unquoted field, and a JSON lines file cut at the end
of a line, both of which look whole.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lm.errors import TableError
from lm.paths import expanded

RawRow = tuple[int, Mapping[str, object]]
"""Row number as the user would count it, and the row's columns."""

# csv refuses longer fields with an error of its own; the limit of `read_table` should speak first.
_MAX_CSV_FIELD_CHARS = 100_000_000
_DATASET_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TORN = "This looks like a file that was only half written: write it again in one piece."


def read_raw_rows(source: str, *, split: str | None) -> list[RawRow]:
    """Read every row of a source, numbered from 1.

    Args:
        source: Path of a `.jsonl`, `.json` (one object a line), `.csv` or `.parquet` file, or the
            name of a data set that `datasets.load_dataset` knows.
        split: Split of a `datasets` name; None takes `train`. Files have none.

    Returns:
        Rows in file order. The number is the line for JSON lines, else the row after the header.

    Raises:
        TableError: The source is missing, unreadable, empty, torn or not of a known format.
    """
    path = expanded(source)
    if path.is_file():
        rows = _read_file(path)
    elif path.is_dir():
        raise TableError(
            f"Expected a file, found the folder {path}. Name one JSON lines, CSV or parquet file."
        )
    elif _looks_like_a_path(path) or not _DATASET_NAME.fullmatch(source):
        raise TableError(f"Expected a file at {path}, found nothing there. Check the path.")
    else:
        rows = _read_dataset(source, split=split)
    if not rows:
        raise TableError(f"Expected at least one row in {source}, found none. Supply rows.")
    return rows


def text_of(value: object) -> str:
    """Take a column's value for a text.

    Args:
        value: What a row holds.

    Returns:
        The text without surrounding whitespace; empty where the value is no text that can be used.
    """
    if not isinstance(value, str):
        return ""
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which JSON can spell and no tokenizer can read
        return ""
    return value.strip()


def _looks_like_a_path(path: Path) -> bool:
    """Tell a mistyped path, which no hub is asked about, from the name of a data set."""
    is_within_a_folder = path.parent != Path() and path.parent.is_dir()
    return path.suffix[1:].isalpha() or is_within_a_folder


def is_same_source(one: str, other: str) -> bool:
    """Say whether two sources hold the same rows because they are one, however they are spelled.

    Args:
        one: A source, as `read_raw_rows` takes it.
        other: Another one. Splits of one data set count as one source.

    Returns:
        Whether they are one file, by whatever path or link, or one name.
    """
    first, second = (expanded(source) for source in (one, other))
    try:
        return first.samefile(second)
    except OSError:  # one of them is no file
        return first.resolve() == second.resolve()


def _read_file(path: Path) -> list[RawRow]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TableError(
            f"Expected a file that ends in {', '.join(_READERS)}, found {path.name}. Convert it, "
            "or rename it if it is one of these."
        )
    try:
        content = path.read_bytes()
        problem = None
    except OSError as error:
        content, problem = b"", error.strerror
    if problem is not None:
        raise TableError(f"Expected to read {path}, got: {problem}. Check its permissions.")
    if not content.strip():
        raise _empty(path)
    return reader(path, content)


def _empty(path: Path) -> TableError:
    return TableError(f"Expected rows in {path}, found an empty file. Supply rows.")


def _read_json_lines(path: Path, content: bytes) -> list[RawRow]:
    lines = _decode(path, content).split("\n")  # splitlines would also cut at U+2028
    last_number = len(lines)
    rows: list[RawRow] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row = _parse_json(line)
        if isinstance(row, dict):
            rows.append((number, row))
        elif number == 1 and line.lstrip().startswith("["):
            raise TableError(
                f"Expected one JSON object a line in {path}, found a JSON array. Write each "
                "object on a line of its own."
            )
        elif number == last_number:
            raise TableError(
                f"Expected {path} to end with a whole JSON object, found line {number} cut off or "
                f"not an object. {_TORN}"
            )
        else:
            raise TableError(
                f"Expected one JSON object a line in {path}, found something else in line "
                f"{number}. Correct that line."
            )
    return rows


def _parse_json(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _read_csv(path: Path, content: bytes) -> list[RawRow]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_CSV_FIELD_CHARS))
    text = _decode(path, content)
    first = text.lstrip().partition("\n")[0]
    for sign, name in (";", "';'"), ("\t", "a tab"):
        if sign in first and "," not in first:
            raise TableError(
                f"Expected commas between the columns of {path}, found one column with {name} in "
                "its name. Save the file with commas, and quotes around fields that hold them."
            )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header = _next_csv_row(path, reader)
    while header == []:
        header = _next_csv_row(path, reader)
    if header is None:  # a mark of the encoding, and no text after it
        raise _empty(path)
    if len(set(header)) != len(header):
        raise TableError(
            f"Expected different column names in the first line of {path}, found one twice. "
            "Rename one of them."
        )
    rows: list[RawRow] = []
    while (fields := _next_csv_row(path, reader)) is not None:
        if not fields:
            continue
        number = len(rows) + 1
        if len(fields) != len(header):
            is_last = _next_csv_row(path, reader) is None
            advice = _TORN if is_last else "Quote fields that hold commas or line breaks."
            raise TableError(
                f"Expected {len(header)} fields in every row of {path}, found {len(fields)} in "
                f"row {number} (header not counted). {advice}"
            )
        rows.append((number, dict(zip(header, fields, strict=True))))
    return rows


def _next_csv_row(path: Path, reader: Iterator[list[str]]) -> list[str] | None:
    try:
        return next(reader)
    except StopIteration:
        return None
    except csv.Error:
        line = getattr(reader, "line_num", 0)
    raise TableError(
        f"Expected {path} to be CSV with double quotes around fields that hold them, found a field "
        f"that does not end properly at line {line}. Correct it; at the end of the file this means "
        "that it was only half written."
    )


def _read_parquet(path: Path, content: bytes) -> list[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        table: Any = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        problem = None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        table, problem = None, type(error).__name__
    if problem is not None:
        raise TableError(f"Expected {path} to be a whole parquet file, got {problem}. {_TORN}")
    try:
        rows: list[dict[str, object]] = table.to_pylist()
    except Exception as error:  # by time zones, calendars and text, each in a way of its own
        rows, problem = [], type(error).__name__
    if problem is not None:
        raise TableError(
            f"Expected values that Python can hold in every column of {path}, got {problem} at "
            f"{_unreadable_column(table)}. Leave that column out, or convert it."
        )
    return list(enumerate(rows, start=1))


def _unreadable_column(table: Any) -> str:  # of pyarrow, which has no types
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            column.to_pylist()
        except Exception:  # the one that the rows met
            return repr(name)
    return "one"


def _read_dataset(name: str, *, split: str | None) -> list[RawRow]:
    import datasets

    try:
        # Streaming keeps rows out of the library's cache folder, which others may be able to read.
        data: Any = datasets.load_dataset(name, split=split or "train", streaming=True)
        rows: list[RawRow] = [(number, dict(row)) for number, row in enumerate(data, start=1)]
        problem = None
    except Exception as error:  # whatever a loader raises may quote what it was reading
        rows, problem = [], type(error).__name__
    if problem is not None:
        raise TableError(
            f"Expected a file at {name} or a data set of that name with a split "
            f"{split or 'train'!r}, found no such file or folder, and asking the hub ended in "
            f"{problem}. Check the path; for a data set, its name and the network."
        )
    return rows


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
    raise TableError(
        f"Expected UTF-8 text in {path}, found a byte that is not in line {line}. Convert the file "
        "to UTF-8."
    )


_READERS: dict[str, Callable[[Path, bytes], list[RawRow]]] = {
    ".jsonl": _read_json_lines,
    ".json": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
