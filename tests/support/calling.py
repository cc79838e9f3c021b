"""`rewardds-simulate` called within this process, as its command line would."""

from __future__ import annotations

import pytest

from simulations import command_line
from simulations.run import main


def call(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the command; what it changes in this process is put back after the test."""
    # Both are set for the whole process, which is a command line's own.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(command_line, "_failures", [])
    monkeypatch.setattr("sys.argv", ["rewardds-simulate", *arguments])
    monkeypatch.setattr("server_side.children.raise_on_signals", lambda: None)
    main()
