"""The audit by its own command, on tiny models, as a user would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]


def audit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulations.audit.run", "audit=smoke", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_an_audit_of_the_right_code_ends_well_and_can_be_read_again(tmp_path: Path) -> None:
    done = audit(tmp_path, "run_folder=mine")

    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "mine" / "audit.json").read_text(encoding="utf-8"))
    attacks = {(row["release"], row["attack"]) for row in document["rows"]}
    assert attacks == {
        ("generator", "likelihood"),
        ("generator", "gradient"),
        ("reward", "reward"),
        ("reward", "gradient"),
        ("text", "bigrams"),
        ("text", "tuned model"),
    }
    assert all(row["joint_epsilon"] <= row["claimed_epsilon"] for row in document["rows"])
    assert "No attack contradicts its claim" in done.stdout
    facts = json.loads((tmp_path / "mine" / "provenance.json").read_text(encoding="utf-8"))
    assert facts["command"] == ["rewardds-audit", "audit=smoke", "run_folder=mine"]
    assert facts["libraries"]["torch"]
    releases = sorted((tmp_path / "mine").rglob("*.release"))
    before = [file.read_bytes() for file in releases]

    again = audit(tmp_path, "run_folder=mine", "attack_text=true")

    assert again.returncode == 0, again.stderr
    assert [file.read_bytes() for file in releases] == before


def test_an_audit_of_records_that_are_not_there_is_one_line_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    done = audit(tmp_path, "run_folder=mine", "client_side.records.path=absent.jsonl")

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "absent.jsonl" in done.stderr
    assert not (tmp_path / "mine").exists()
