"""Private selection: what its price is computed from, and that nobody can know its draw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest

from protocol.ledger import DpSgdEvent
from simulations.config import SimulateConfig
from simulations.sweeps import selection
from simulations.sweeps.costs import selection_epsilon
from simulations.sweeps.selection import select_privately
from tests.unit.simulations.sweeps.test_selection import begin, made_up_run, run_events


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan the same for all candidates, without laying out records."""
    monkeypatch.setattr(selection, "_planned_events", lambda *_: [run_events(0.8)])


def facts_of(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "selection.json").read_text("utf-8"))
    return facts


def test_the_price_is_of_what_every_candidate_costs_every_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laid out as runs that stand to be selected, which read no record for their test rows."""
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5", "seed=6"])
    flags: list[bool] = []
    priced: list[Sequence[DpSgdEvent]] = []

    def lay_out(
        candidate: SimulateConfig, place: Path, *, is_selected_from: bool = False
    ) -> SimpleNamespace:
        place.mkdir()  # each has the place for itself
        flags.append(is_selected_from)
        clients = [Mock(**{"load_config.return_value": 10 * candidate.seed + n}) for n in (1, 2)]
        return SimpleNamespace(clients=clients)

    def price(events: Sequence[Sequence[DpSgdEvent]], **terms: Any) -> float:
        priced.extend(events)
        return selection_epsilon(events, **terms)

    monkeypatch.setattr(selection, "prepare_world", lay_out)
    monkeypatch.setattr(selection, "plan_events", lambda steps: run_events(0.8, steps=steps))
    monkeypatch.setattr(selection, "selection_epsilon", price)
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 1)

    select_privately(config, folder, simulate=lambda run: made_up_run(0.1, run))

    assert priced == [run_events(0.8, steps=steps) for steps in (51, 52, 61, 62)]
    assert flags == [True, True]


@pytest.mark.usefixtures("planned")
def test_the_price_holds_at_the_largest_delta_of_the_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run at that δ may be the one that is shown."""
    folder = tmp_path / "selection"
    config = begin(folder, [f"client_side.budget.target_delta={d}" for d in ("1e-6", "1e-5")])
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 1)

    select_privately(config, folder, simulate=lambda run: made_up_run(0.1, run))

    facts = facts_of(folder)
    assert facts["delta"] == 1e-5
    assert facts["epsilon"] == selection_epsilon(
        [run_events(0.8)], mean_runs=3.0, shape=0.0, delta=1e-5
    )


@pytest.mark.usefixtures("planned")
def test_number_and_picks_come_from_the_operating_system_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could draw them again would know which runs lost, and the price would not hold."""
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5", "seed=6"])
    source = Mock(**{"random.return_value": 0.7, "randrange.side_effect": [1, 0, 1]})
    monkeypatch.setattr("secrets.SystemRandom", lambda: source)
    seeds: list[str] = []

    def simulate(run: Path) -> None:
        text = (run / "simulate.yaml").read_text("utf-8")
        seeds.extend(line for line in text.splitlines() if line.startswith("seed:"))
        made_up_run(0.1, run)

    select_privately(config, folder, simulate=simulate)

    # At 0.7 of the distribution with mean 3 lie three runs.
    assert source.mock_calls == [call.random(), *[call.randrange(2)] * 3]
    assert seeds == ["seed: 6", "seed: 5", "seed: 6"]


@pytest.mark.usefixtures("planned")
def test_the_lowest_is_the_best_run_by_perplexity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5"])
    config = replace(config, selection=replace(config.selection, metric="perplexity"))
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 3)
    scores = iter([0.05, 0.01, 0.09])

    selected = select_privately(config, folder, simulate=lambda run: made_up_run(next(scores), run))

    assert (selected / "report.html").read_text("utf-8") == "0.01"
