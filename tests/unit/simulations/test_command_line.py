"""The commands that Hydra composes: their help, and what they say of words they cannot take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from simulations import command_line, run
from simulations.audit import run as audit_run

# The groups of each command that leave a choice.
SIMULATE = {"arm", "client_side/budget", "client_side/records", "experiment", "runtime", "sweep"}
AUDIT = {"audit", "client_side/budget", "client_side/records"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REWARDDS_TRACEBACK", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(command_line, "_failures", [])
    monkeypatch.setattr("server_side.children.raise_on_signals", lambda: None)
    return tmp_path


def call(main: Callable[[], None], *words: str, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr("sys.argv", ["command", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


@pytest.mark.parametrize(
    ("main", "groups"), [(run.main, SIMULATE), (audit_run.main, AUDIT)], ids=["simulate", "audit"]
)
def test_help_lists_the_own_groups_alone_within_80_columns(
    main: Callable[[], None],
    groups: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(main, "--help", monkeypatch=monkeypatch) == 0

    text = capsys.readouterr().out
    listing = text.partition("(GROUP=OPTION)\n")[2].partition("\n\n")[0]
    assert {line.split(":")[0].strip() for line in listing.splitlines() if ":" in line} == groups
    assert [line for line in text.splitlines() if len(line) > 80] == []
