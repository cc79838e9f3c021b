"""Files of public prompts: what is read, and what is refused without quoting a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lm.errors import TableError
from lm.public_prompts import read_prompts


def write(path: Path, *rows: dict[str, object]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def test_prompts_are_read_in_order_whatever_else_is_there(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", {"question": " a? ", "id": 1}, {"question": "b?"})

    assert read_prompts(file) == ("a?", "b?")


def test_a_column_of_another_name_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", {"prompt": "no", "title": "yes"})

    assert read_prompts(file, column="title") == ("yes",)


@pytest.mark.parametrize(
    ("content", "column", "expected"),
    [
        (b"", None, "empty"),
        (b'{"title": "SECRET"}\n', None, "one of the columns prompt, input, question"),
        (b'{"prompt": "SECRET"}\n', "title", "the column title"),
        (b'{"prompt": "SECRET"}\n{"prompt": " "}\n', None, "none in row 2"),
        (b'{"prompt": "SECRET"}\n{"prompt": 7}\n', None, "none in row 2"),
        (b'{"prompt": "SECRET"}\n{"prompt": "SECRET \\ud800"}\n', None, "none in row 2"),
        (b'{"prompt": "SECRET \xff"}\n', None, "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(
    content: bytes, column: str | None, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_bytes(content)

    with pytest.raises(TableError, match=expected) as caught:
        read_prompts(str(file), column=column)

    assert "SECRET" not in str(caught.value)


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"p\.jsonl"):
        read_prompts(str(tmp_path / "p.jsonl"))
