"""Every command says in words what the system refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import client_side.node
import server_side.node
import simulations.sweeps.report


@pytest.mark.parametrize(
    "init",
    [
        lambda folder: server_side.node.main(["init", folder, "--host", "server.test"]),
        lambda folder: client_side.node.main(["init", folder]),
    ],
    ids=["server", "client"],
)
def test_a_folder_that_cannot_be_made_is_named_with_why(
    init: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = f"{tmp_path}/file/node"

    with pytest.raises(SystemExit, match=f"able to use {folder}, found: Not a directory. Name"):
        init(folder)


def test_a_folder_of_figures_that_is_a_file_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(simulations.sweeps.report, "_report", lambda options: file.mkdir())

    with pytest.raises(SystemExit, match=f"able to use {file}, found: File exists. Name"):
        simulations.sweeps.report.main([str(tmp_path), "--figures", str(file)])
