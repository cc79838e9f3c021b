"""A run whose client lost its records: whatever was paid for is handed over all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lm.settings import save_settings, to_settings
from server_side.measuring.metrics import read_metrics
from server_side.provenance import read_provenance
from simulations import exchanging
from simulations.config import SimulateConfig
from simulations.provenance import begin_provenance
from simulations.run import simulate

pytestmark = pytest.mark.integration

CONF = Path(__file__).resolve().parents[2] / "conf"


def run_and_lose_records(
    folder: Path, *, when: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Make a whole run and remove the second client's records on the way; return its metrics."""
    make = exchanging._make_exchange

    def lose_and_make(*arguments: Any, **others: Any) -> None:
        records = folder / "clients" / "client-2" / "records.jsonl"
        if when == "before the exchange":
            records.unlink()
        make(*arguments, **others)
        records.unlink(missing_ok=True)

    monkeypatch.setattr(exchanging, "_make_exchange", lose_and_make)
    monkeypatch.chdir(folder.parent)
    with initialize_config_dir(str(CONF), version_base=None):
        overrides = ["experiment=smoke", "seed=7", "server_side.min_clients=1"]
        config = to_settings(SimulateConfig, compose("simulate", overrides=overrides))
    folder.mkdir()
    save_settings(config, folder / "simulate.yaml")
    begin_provenance(folder)
    simulate(config, folder)
    # A run that is over can be looked at again by the same command.
    simulate(config, folder)
    return read_metrics(folder / "metrics.json")


def test_a_client_that_refused_for_want_of_records_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    metrics = run_and_lose_records(folder, when="before the exchange", monkeypatch=monkeypatch)

    own = (folder / "clients" / "client-1" / "records.jsonl").read_text("utf-8").splitlines()
    assert metrics["private_overlap"]["num_records"] == len(
        {(row["prompt"], row["response"]) for row in map(json.loads, own)}
    )
    assert [lost["name"] for lost in metrics["clients_without_releases"]] == ["client-2"]
    assert read_provenance(folder)["digests"]["records"]["client-2"] is None


def test_records_lost_after_the_exchange_cost_the_overlap_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    metrics = run_and_lose_records(folder, when="after the exchange", monkeypatch=monkeypatch)

    assert metrics["private_overlap"] is None
    assert metrics["clients_without_records"] == ["client-2"]
    page = (folder / "report.html").read_text("utf-8")
    assert "those of client-2 could not be read any more" in page
    assert set(metrics["privacy"]) == {"client-1", "client-2"}
