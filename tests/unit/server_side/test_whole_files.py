"""Files are whole or not there, and what was cut since is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.errors import StageError
from server_side.whole_files import read_json, write_atomically


def test_failed_write_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_atomically(path, "old")

    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    write_atomically(path, '{"name": "ä", "sizes": [1, 2]}')
    assert read_json(path) == {"name": "ä", "sizes": [1, 2]}
    whole = path.read_bytes()

    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(StageError, match=r"Expected .*facts\.json as it was written"):
            read_json(path)


def test_what_is_not_there_is_not_taken_for_cut(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "facts.json")
