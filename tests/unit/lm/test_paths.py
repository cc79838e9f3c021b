from __future__ import annotations

from pathlib import Path

import pytest

from lm.paths import found_in, seen_from, whole_or_nothing


def test_a_path_is_seen_from_the_folder_and_a_name_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "inside").touch()
    (tmp_path / "outside").touch()
    monkeypatch.chdir(tmp_path)

    assert seen_from(folder, "inside") == str(folder / "inside")
    assert seen_from(folder, str(tmp_path / "outside")) == str(tmp_path / "outside")
    # The caller's alone: whoever works in the folder will miss it.
    assert seen_from(folder, "outside") == str(folder / "outside")
    assert seen_from(folder, "org/model") == "org/model"


def test_a_folder_in_use_is_no_new_one(tmp_path: Path) -> None:
    assert found_in(tmp_path / "absent") is None
    assert found_in(tmp_path) is None
    (tmp_path / "a").touch()
    assert found_in(tmp_path) == tmp_path / "a"
    assert found_in(tmp_path / "a") == tmp_path / "a"


def test_a_folder_in_use_is_left_alone_by_what_fails_in_it(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()

    with pytest.raises(KeyboardInterrupt), whole_or_nothing(tmp_path):
        raise KeyboardInterrupt

    assert (tmp_path / "theirs").exists()
