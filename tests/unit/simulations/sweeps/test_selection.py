"""Private selection: the draw of its number of runs, its price, and what is left to be seen."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lm.settings import load_settings, save_settings, to_settings
from protocol.accounting import composed_epsilon
from protocol.errors import ConfigurationError
from protocol.ledger import DpSgdEvent, ProxyKind
from server_side.config import EvaluationConfig, ServerConfig
from server_side.provenance import read_provenance
from simulations.config import DomainConfig, SelectionConfig, SimulateConfig
from simulations.sweeps import selection
from simulations.sweeps.costs import dominating, selection_epsilon
from simulations.sweeps.hidden_run import require_selectable
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


MINE = "client_side.records.path=mine.jsonl server_side.evaluation.path=test.jsonl"


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


def made_up_run(score: float, folder: Path) -> None:
    write_point(folder / "made", budget="eps_8", seed=1)
    metrics = json.loads((folder / "made" / "metrics.json").read_text("utf-8"))
    metrics["tuned"] = arm(score)
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
    (folder / "report.html").write_text(str(score), encoding="utf-8")


def test_only_the_best_run_and_the_price_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5", "seed=6"])
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 7)
    scores = iter([0.01, 0.03, 0.09, 0.02, 0.05, 0.04, 0.0])

    selected = select_privately(config, folder, simulate=lambda run: made_up_run(next(scores), run))

    facts = json.loads((folder / "selection.json").read_text("utf-8"))
    assert (selected / "report.html").read_text("utf-8") == "0.09"
    assert {item.name for item in folder.iterdir()} == {
        "simulate.yaml", "provenance.json", "selection.json", "selected",
    }  # fmt: skip
    assert facts["selected"] in facts["candidates"]
    assert facts["epsilon"] > facts["epsilon_of_one_run"]
    assert "7" not in [str(value) for value in facts.values()]  # how many ran is secret
    assert capsys.readouterr().out == ""
    assert load_settings(SimulateConfig, selected / "simulate.yaml").seed in (5, 6)


def test_a_run_whose_settings_were_not_written_to_the_end_begins_with_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a file would be read with defaults in the place of what the price is of."""
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5"])
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 1)

    def cut(settings: object, file: Path) -> None:
        file.write_text("seed: 1\n", encoding="utf-8")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(selection, "save_settings", cut)
        with pytest.raises(KeyboardInterrupt):
            select_privately(config, folder, simulate=lambda run: None)

    selected = select_privately(config, folder, simulate=lambda run: made_up_run(0.1, run))

    assert load_settings(SimulateConfig, selected / "simulate.yaml").seed == 5
    assert read_provenance(selected)["sources_digest"]


def test_a_selection_that_was_cut_off_goes_on_with_the_same_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5", "seed=6"])
    draws = itertools.count(3)
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: next(draws))
    done: list[Path] = []

    def cut_off(run: Path) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(run)
        made_up_run(0.01, run)

    with pytest.raises(KeyboardInterrupt):
        select_privately(config, folder, simulate=cut_off)
    again: list[Path] = []
    select_privately(
        config,
        folder,
        simulate=lambda run: (again.append(run), made_up_run(0.02, run))[1],
    )

    assert next(draws) == 4  # drawn once
    assert len(again) == 1


def what_is_left(
    folder: Path, *, best: int, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[float, str]]:
    """Select among five runs; give time and text of each file and folder that is left, by name."""
    config = begin(folder, ["seed=5"])
    os.utime(folder / "simulate.yaml", (1e9, 1e9))
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 5)
    numbers = itertools.count()

    def simulate(run: Path) -> None:
        made_up_run(0.09 if next(numbers) == best else 0.01, run)
        for name in ("clients/client-1/records.jsonl", "server/c/events.out.1795671959.11607.4"):
            (run / name).parent.mkdir(parents=True)
            (run / name).touch()
        (run / "server" / "13_tuned.jsonl").write_text(run.name, "utf-8")  # as a run_id would be
        (run / "server" / "server_node.yaml").write_text(f"path: {run / 'server'}\n", "utf-8")

    select_privately(config, folder, simulate=simulate)

    return {
        str(item.relative_to(folder)): (
            item.stat().st_mtime,
            item.read_text("utf-8").replace(str(folder), "") if item.is_file() else "",
        )
        for item in (folder, *folder.rglob("*"))
    }


def test_nothing_that_is_left_says_which_run_was_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its index bounds the number of runs from below, and the price is for a secret number."""
    left, left_of_the_fifth = (
        what_is_left(tmp_path / f"best-{best}", best=best, monkeypatch=monkeypatch)
        for best in (0, 4)
    )

    assert left == left_of_the_fifth
    texts = {name: text for name, (_, text) in left.items() if text}
    assert texts.keys() == {
        "simulate.yaml", "selection.json", "provenance.json", "selected/simulate.yaml",
        "selected/provenance.json", "selected/metrics.json", "selected/report.html",
        "selected/server/13_tuned.jsonl", "selected/server/server_node.yaml",
    }  # fmt: skip
    assert texts["selected/report.html"] == "0.09"
    assert texts["selected/server/server_node.yaml"] == "path: /selected/server\n"
    assert {time for time, _ in left.values()} == {1e9}
    assert texts["provenance.json"] == "{}"
    assert not {"begun", "finished"} & json.loads(texts["selected/provenance.json"]).keys()


def test_what_a_selection_states_beside_its_price_is_known_before_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the candidate that was selected; all else would need a price of its own."""
    left = what_is_left(tmp_path / "selection", best=2, monkeypatch=monkeypatch)

    assert json.loads(left["selection.json"][1]).keys() == {
        "selected", "candidates", "metric", "mean_runs", "shape", "epsilon", "epsilon_of_one_run",
        "delta", "accountant", "events_of_one_run", "note",
    }  # fmt: skip


@pytest.mark.parametrize("moment", ["rename", "rmtree", "_write_facts"])
def test_a_selection_that_is_killed_at_its_end_never_selects_again(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "selection"
    config = begin(folder, ["seed=5"])
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: 2)
    with monkeypatch.context() as patched:
        decided = {"rename": Path, "rmtree": selection.shutil, "_write_facts": selection}[moment]
        before = getattr(decided, moment)

        def killed(*arguments: object, **named: object) -> object:
            if (folder / ".selection.json.decided").exists():
                raise KeyboardInterrupt
            return before(*arguments, **named)

        patched.setattr(decided, moment, killed)
        scores = iter([0.03, 0.09])
        with pytest.raises(KeyboardInterrupt):
            select_privately(config, folder, simulate=lambda run: made_up_run(next(scores), run))
    monkeypatch.setattr(selection, "draw_num_runs", lambda **_: pytest.fail("drawn again"))

    selected = select_privately(
        config, folder, simulate=lambda run: pytest.fail("made another run")
    )

    assert (selected / "report.html").read_text("utf-8") == "0.09"
    assert not (folder / ".unselected").exists()
    assert (folder / "selection.json").is_file()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("tuned_on=private_records", "tuned_on=synthetic"),
        ("tuned_on=private_records_dp", "tuned_on=synthetic"),
        (
            "client_side.budget.noise_seed=1 server_side.admission.accept_reproducible_noise=true",
            "noise_seed=null",
        ),
        ("client_side.records.path=mine.jsonl", r"server_side\.evaluation\.path"),
        (f"{MINE} num_clients=1 server_side.min_clients=1", "declare_sizes=false"),
        (f"{MINE} declare_sizes=false", "num_clients=1"),
    ],
)
def test_runs_that_the_price_does_not_cover_are_refused(
    words: str, named: str, tmp_path: Path
) -> None:
    config = begin(tmp_path / "selection", ["seed=5", words])

    with pytest.raises(ConfigurationError, match=named):
        select_privately(config, tmp_path / "selection", simulate=lambda run: None)

    assert not (tmp_path / "selection" / ".unselected").exists()


def test_own_records_are_selected_on_with_a_test_file(tmp_path: Path) -> None:
    require_selectable(
        to_settings(
            SimulateConfig,
            OmegaConf.create(
                {
                    "num_clients": 1,
                    "declare_sizes": False,
                    "client_side": {"records": {"path": "mine.jsonl", "declared_size": 800}},
                    "server_side": {"evaluation": {"path": "test.jsonl"}, "min_clients": 1},
                }
            ),
        )
    )


def test_own_records_of_one_client_count_as_own_records_beside_shipped_ones() -> None:
    own = DomainConfig(path="mine.jsonl", instruction="Answer.")
    server = ServerConfig(evaluation=EvaluationConfig(instruction="Answer."))
    start = SimulateConfig(domains={"client-2": own}, server_side=server)

    with pytest.raises(ConfigurationError, match="declare_sizes=false"):
        require_selectable(start)
    require_selectable(replace(start, declare_sizes=False))


def test_a_candidate_with_an_unknown_setting_is_an_error(tmp_path: Path) -> None:
    config = begin(tmp_path / "selection", ["sed=5"])

    with pytest.raises(Exception, match="sed"):
        select_privately(config, tmp_path / "selection", simulate=lambda run: None)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="mean_runs"):
        SelectionConfig(mean_runs=1.0)
    with pytest.raises(ConfigurationError, match="metric"):
        SelectionConfig(metric="beauty")
