"""`rewardds-simulate` called within this process, as its command line would."""

from __future__ import annotations

import importlib.util

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


def hide_package(name: str, *, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one package looked for in vain, whether it is installed here or not."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda asked: None if asked == name else find_spec(asked)
    )
