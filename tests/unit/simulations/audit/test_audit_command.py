"""What `rewardds-audit` tells before it does anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys

from simulations.audit.run import main

try:
    main()
finally:
    print("loaded:", *sorted({"torch", "transformers"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("client_side.records.path=/nowhere.jsonl", "Expected a file at /nowhere.jsonl"),
        ("client_side.base_model=/nowhere", "found nothing at '/nowhere'"),
    ],
)
def test_a_wrong_path_is_told_before_a_models_libraries_load(
    setting: str, complaint: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, setting, f"run_folder={tmp_path / 'audit'}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stdout == "loaded:\n"
    assert not (tmp_path / "audit").exists()
