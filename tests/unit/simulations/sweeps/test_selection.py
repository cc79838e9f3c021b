"""Private selection: the draw of its number of runs, its price, and what is left to be seen."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest

from lm.settings import load_settings, save_settings
from protocol.accounting import composed_epsilon
from protocol.errors import ConfigurationError
from protocol.ledger import DpSgdEvent, ProxyKind
from simulations.config import SelectionConfig, SimulateConfig
from simulations.sweeps import selection
from simulations.sweeps.costs import dominating, selection_epsilon
from simulations.sweeps.selection import draw_num_runs, select_privately, stopping_parameter
from tests.support.sweeping import arm, write_point


def run_events(noise: float, *, rate: float = 0.05, steps: int = 20) -> list[DpSgdEvent]:
    return [
        DpSgdEvent(proxy=kind, noise_multiplier=noise, sample_rate=rate, steps=steps)
        for kind in ProxyKind
    ]


def test_the_price_of_selection_lies_between_one_run_and_all_of_them() -> None:
    events = run_events(0.8)

    one = composed_epsilon(events, delta=1e-5)
    price = selection_epsilon([events], mean_runs=20, shape=0.0, delta=1e-5)

    assert one < price < composed_epsilon(events * 20, delta=1e-5)


def test_the_price_is_that_of_theorem_2_worked_out_by_hand() -> None:
    """Papernot and Steinke, theorem 2, minimised over a grid of both orders.

    One Gaussian with noise multiplier σ has Rényi divergence ε(λ) = λ ÷ 2σ². With η = 1 and mean 4,
    γ = 1/4, the selected run has, at order λ and for any order μ,
    ε(λ) + 2 (1 - 1/μ) ε(μ) + 2 log(1/γ) ÷ μ + log(4) ÷ (λ - 1); to (ε, δ) by the conversion
    that `dp_accounting` uses: ε + log((λ-1)/λ) - (log δ + log λ) ÷ (λ - 1).
    """
    sigma, delta = 3.0, 1e-5
    event = DpSgdEvent(proxy=ProxyKind.GENERATOR, noise_multiplier=sigma, sample_rate=1.0, steps=1)
    orders = [1 + step / 100 for step in range(10, 30_000)]
    constant = min(2 * (1 - 1 / mu) * mu / (2 * sigma**2) + 2 * math.log(4) / mu for mu in orders)
    by_hand = min(
        order / (2 * sigma**2)
        + constant
        + math.log(4) / (order - 1)
        + math.log1p(-1 / order)
        - (math.log(delta) + math.log(order)) / (order - 1)
        for order in orders
    )

    price = selection_epsilon([[event]], mean_runs=4.0, shape=1.0, delta=delta)

    # The library looks at some orders only, so it may say a little more, never less.
    assert by_hand * 0.999 <= price <= by_hand * 1.02


def test_candidates_that_differ_cost_what_dominates_them_all() -> None:
    cheap, dear = run_events(1.2, rate=0.02), run_events(0.9, steps=40)

    price = selection_epsilon([cheap, dear], mean_runs=3, shape=1.0, delta=1e-5)

    assert price >= selection_epsilon([dear], mean_runs=3, shape=1.0, delta=1e-5)
    assert dominating([cheap, dear]) == tuple(run_events(0.9, rate=0.05, steps=40))


def test_a_candidate_without_noise_has_no_price() -> None:
    assert selection_epsilon([run_events(0.0)], mean_runs=2, shape=0.0, delta=1e-5) == math.inf


@pytest.mark.parametrize(("mean_runs", "shape"), [(4.0, 0.0), (4.0, 1.0), (3.0, 2.5), (2.0, 0.5)])
def test_numbers_of_runs_follow_the_distribution(mean_runs: float, shape: float) -> None:
    """Shares of 1, 2 and 3 against the formula, within five standard deviations."""
    source = random.Random(1)  # noqa: S311 - a test of shares, repeatable
    size = 20_000
    drawn = [
        draw_num_runs(mean_runs=mean_runs, shape=shape, uniform=source.random) for _ in range(size)
    ]
    gamma = stopping_parameter(mean_runs=mean_runs, shape=shape)

    for number in (1, 2, 3):
        if shape == 0:
            expected = (1 - gamma) ** number / (number * math.log(1 / gamma))
        else:
            rising = math.prod((term + shape) / (term + 1) for term in range(number))
            expected = (1 - gamma) ** number / (gamma**-shape - 1) * rising
        error = math.sqrt(expected * (1 - expected) / size)
        assert abs(drawn.count(number) / size - expected) < 5 * error
    assert min(drawn) == 1


def begin(folder: Path, candidates: list[str]) -> SimulateConfig:
    config = replace(
        SimulateConfig(), selection=SelectionConfig(candidates=candidates, mean_runs=3.0)
    )
    folder.mkdir()
    save_settings(config, folder / "simulate.yaml")
    return config


@pytest.fixture(autouse=True)
def no_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan without laying out records: what is planned is the subject of other tests."""

    def planned(candidates: object, folder: Path) -> list[list[DpSgdEvent]]:
        return [run_events(0.8)]

    monkeypatch.setattr(selection, "_planned_events", planned)


def made_up_run(score: float, folder: Path, config: SimulateConfig) -> None:
    write_point(folder / "made", budget="eps_8", seed=config.seed)
    metrics = json.loads((folder / "made" / "metrics.json").read_text("utf-8"))
    metrics["tuned"] = arm(score)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "score").write_text(str(score), encoding="utf-8")


def test_only_the_best_run_and_the_price_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5", "seed=6"])
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 7)
    scores = iter([0.01, 0.03, 0.09, 0.02, 0.05, 0.04, 0.0])

    selected = select_privately(
        config, folder, simulate=lambda own, run: made_up_run(next(scores), run, own)
    )

    facts = json.loads((folder / "selection.json").read_text("utf-8"))
    assert (selected / "score").read_text("utf-8") == "0.09"
    assert {item.name for item in folder.iterdir()} == {
        "simulate.yaml", "selection.json", "selected",
    }  # fmt: skip
    assert facts["selected"] in facts["candidates"]
    assert facts["epsilon"] > facts["epsilon_of_one_run"]
    assert "7" not in [str(value) for value in facts.values()]  # how many ran is secret
    assert capsys.readouterr().out == ""
    assert load_settings(SimulateConfig, selected / "simulate.yaml").seed in (5, 6)


def test_a_selection_that_was_cut_off_goes_on_with_the_same_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5", "seed=6"])
    draws = itertools.count(3)
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: next(draws))
    done: list[Path] = []

    def cut_off(own: SimulateConfig, run: Path) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run)
        made_up_run(0.01, run, own)

    with pytest.raises(KeyboardInterrupt):
        select_privately(config, folder, simulate=cut_off)
    again: list[Path] = []
    select_privately(
        config,
        folder,
        simulate=lambda own, run: (again.append(run), made_up_run(0.02, run, own))[1],
    )

    assert next(draws) == 4  # drawn once
    assert len(again) == 1


def test_a_candidate_with_an_unknown_setting_is_an_error(tmp_path: Path) -> None:
    config = begin(tmp_path / "selection", ["sed=5"])

    with pytest.raises(Exception, match="sed"):
        select_privately(config, tmp_path / "selection", simulate=lambda own, run: None)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="mean_runs"):
        SelectionConfig(mean_runs=1.0)
    with pytest.raises(ConfigurationError, match="metric"):
        SelectionConfig(metric="beauty")
