"""The report on a sweep: what it says, and what a real browser makes of it."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from protocol.errors import ConfigurationError
from server_side.report.formats import epsilon
from simulations.config import TunedOn
from simulations.sweeps.costs import sweep_cost
from simulations.sweeps.drawings import draw_sweep
from simulations.sweeps.page import PAGE_FILE, TABLE_FILE, _warning, write_sweep_report
from simulations.sweeps.points import SWEEP_FILE, run_point
from simulations.sweeps.report import main
from simulations.sweeps.results import SweepResults, read_results
from tests.support.browser import CHROMIUM, browser_page
from tests.support.sweeping import METRIC, counts_of_round_2, ledger, write_sweep

CONF = Path(__file__).resolve().parents[4] / "conf"


class Text(HTMLParser):
    """Collects what a page says, and the labels of its drawings."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.said = ""
        self.labels: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "svg":
            self.labels.append(dict(attrs).get("aria-label") or "")

    def handle_data(self, data: str) -> None:
        self.said += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> SweepResults:
    folder = write_sweep(tmp_path_factory.mktemp("sweeps") / "budgets")
    audit = folder / "audits" / "eps_8"
    audit.mkdir(parents=True)
    rows = [{"joint_epsilon": 1.25}, {"joint_epsilon": 0.5}]
    found = {"rows": rows, "epsilon": 8.0, "delta": 1e-5, "exceeds_claim": False}
    (audit / "audit.json").write_text(json.dumps(found), encoding="utf-8")
    return read_results(folder)


@pytest.fixture(scope="module")
def page(results: SweepResults) -> str:
    return write_sweep_report(results, figures=results.folder / "figures").read_text("utf-8")


def said(page: str) -> Text:
    text = Text()
    text.feed(page)
    return text


def test_budgets_lie_on_one_axis_with_infinity_last_and_arms_are_series(
    results: SweepResults,
) -> None:
    assert results.axis == "ε"
    assert results.ticks == ["1", "8", "∞"]
    assert list(results.series) == ["dp_generate", "rewardds"]
    assert all(len(points) == 6 for points in results.series.values())


def test_points_that_share_their_releases_pay_once(results: SweepResults) -> None:
    cost = sweep_cost(results.done)

    assert (cost.num_runs, cost.num_exchanges, cost.num_non_private) == (12, 6, 2)
    assert cost.epsilon_alone < cost.epsilon < math.inf


def test_arms_that_release_nothing_have_a_price_each_and_the_one_without_privacy_lies_at_infinity(
    results: SweepResults,
) -> None:
    first = results.done[0]
    assert first.config is not None
    arms = [
        replace(
            first,
            name=name,
            config=replace(first.config, tuned_on=tuned_on),
            provenance={"ledgers": {"pooled": ledger(noise)}},
        )
        for name, tuned_on, noise in (
            ("20", TunedOn.PRIVATE_RECORDS, 0.0),
            ("21", TunedOn.PRIVATE_RECORDS_DP, 0.8),
            ("22", TunedOn.PRIVATE_RECORDS_DP, 0.8),
        )
    ]

    cost = sweep_cost(arms)

    assert [item.target_epsilon for item in arms] == [math.inf, 1.0, 1.0]
    assert (cost.num_runs, cost.num_exchanges, cost.num_non_private) == (3, 3, 1)
    assert cost.epsilon_alone < cost.epsilon < math.inf


def test_a_point_that_failed_after_its_exchange_has_paid_for_it(results: SweepResults) -> None:
    alone = sweep_cost(results.points)
    paid = replace(
        results.done[0],
        name="30",
        metrics=None,
        provenance={"ledgers": {"client-1": ledger(0.8)}, "digests": {"releases": {"a": "own"}}},
    )
    unknown = replace(paid, name="31", provenance={})

    cost = sweep_cost([*results.points, paid, unknown])

    assert cost.num_exchanges == alone.num_exchanges + 1
    assert cost.epsilon > alone.epsilon
    assert (alone.num_unknown, cost.num_unknown) == (0, 1)


def test_page_counts_a_failed_points_exchange_and_names_points_of_unknown_cost(
    tmp_path: Path,
) -> None:
    folder = write_sweep(tmp_path / "sweep")
    for name in ("4", "11"):
        (folder / name / "metrics.json").unlink()
        point = json.loads((folder / name / "point.json").read_text("utf-8"))
        point |= {"status": "failed", "error": "Expected a disk, got none."}
        (folder / name / "point.json").write_text(json.dumps(point), encoding="utf-8")
    (folder / "5" / "metrics.json").unlink()  # the other one that shares the releases of point 4
    (folder / "5" / "point.json").write_text((folder / "4" / "point.json").read_text("utf-8"))
    (folder / "11" / "provenance.json").unlink()

    text = said(write_sweep_report(read_results(folder)).read_text("utf-8")).said

    assert "composition of all 4 exchanges with noise" in text
    assert "What 1 point without a ledger spent before the end is not known." in text


def test_a_point_at_work_is_not_called_failed(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    found: list[SweepResults] = []

    run_point(
        folder / "99",
        ["client_side/budget=eps_1", "seed=4"],
        lambda: found.append(read_results(folder)),
        describe_error=str,
    )

    working = found[0].points[-1]
    assert working.is_at_work
    assert not working.is_failed
    text = said(write_sweep_report(found[0]).read_text("utf-8")).said
    assert "Points at work" in text
    assert "1 failed or cut off, 1 at work" in text


def test_points_of_different_experiments_are_series_of_their_own(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", arms=("rewardds",))
    for item in folder.glob("[0-9]*"):
        point = json.loads((item / "point.json").read_text("utf-8"))
        even = int(item.name) % 2 == 0
        point["overrides"] += [f"experiment={'smoke' if even else 'budget_curve'}"]
        point["overrides"] += ["sweep=privacy_budget", "runtime=in_process", f"run_folder={item}"]
        (item / "point.json").write_text(json.dumps(point), encoding="utf-8")

    series = read_results(folder).series

    assert set(series) == {"rewardds, experiment=smoke", "rewardds, experiment=budget_curve"}


def test_noise_and_acceptance_are_drawn_for_each_arm_and_never_averaged_over_arms(
    tmp_path: Path,
) -> None:
    folder = write_sweep(tmp_path / "sweep")
    for item in folder.glob("[0-9]*"):
        if not (item / "metrics.json").is_file() or int(item.name) % 2 == 0:
            continue
        facts = json.loads((item / "provenance.json").read_text("utf-8"))
        for client in facts["ledgers"].values():
            client["events"][1]["noise_multiplier"] *= 20
        facts["digests"]["releases"] = {"a": item.name}
        (item / "provenance.json").write_text(json.dumps(facts), encoding="utf-8")
        metrics = json.loads((item / "metrics.json").read_text("utf-8"))
        metrics["counts"] = counts_of_round_2(num_rewritten=10, num_replaced=9)
        (item / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")

    plots = draw_sweep(read_results(folder))

    noise, (*_, accepted) = plots.mechanisms[0].svg, plots.refinement
    for line in (
        "generator proxy 2.200 at 1",
        "reward proxy, rewardds 2.200 at 1",
        "reward proxy, dp_generate 44.000 at 1",
    ):
        assert line in noise
    assert "rewardds, round 2 40 at 1" in accepted.svg
    assert "dp_generate, round 2 90 at 1" in accepted.svg


def test_every_arm_of_the_table_finds_room_in_the_plots(tmp_path: Path) -> None:
    """A legend that leaves no room for the axes is a warning, and warnings are errors here."""
    values = OmegaConf.load(CONF / "sweep" / "arms.yaml")
    arms = OmegaConf.select(values, "hydra.sweeper.params.arm").split(",")
    folder = write_sweep(tmp_path / "sweep", arms=tuple(arms))
    for number, item in enumerate(sorted(folder.glob("[0-9]*/provenance.json"))):
        facts = json.loads(item.read_text("utf-8"))
        for client in facts["ledgers"].values():
            client["events"][0]["noise_multiplier"] += number % len(arms)
        item.write_text(json.dumps(facts), encoding="utf-8")

    plots = draw_sweep(read_results(folder))

    for plot in (*plots.metrics.values(), plots.mechanisms[0], *plots.refinement):
        height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', plot.svg)[1])  # type: ignore[index]
        assert height > 216 + 4 * 14  # points: a plot without a legend, and rows of the legend


def test_an_exchange_is_shown_with_its_own_ledgers_price(tmp_path: Path) -> None:
    """The page composes with the sweep's largest δ; a row must say what the ledger says."""
    folder = write_sweep(tmp_path / "sweep", arms=("rewardds",))
    facts = json.loads((folder / "0" / "provenance.json").read_text("utf-8"))
    facts["ledgers"]["client-1"] |= {"delta": 1e-3, "epsilon": 1.23}
    facts["ledgers"]["client-2"] |= {"delta": 1e-3, "epsilon": 1.1}
    (folder / "0" / "provenance.json").write_text(json.dumps(facts), encoding="utf-8")

    page = write_sweep_report(read_results(folder)).read_text("utf-8")

    row = page[page.index('<th scope="row" rowspan="2">0</th>') :][:300]
    assert ">1.230<" in row
    assert ">0.001<" in row


def test_what_no_ledger_counts_on_own_records_is_said_once(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", arms=("rewardds",))
    plain = write_sweep_report(read_results(folder)).read_text("utf-8")
    for point in ("0", "1"):
        metrics = json.loads((folder / point / "metrics.json").read_text("utf-8"))
        metrics["not_covered"] = ["Sizes were counted."]
        (folder / point / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")

    page = write_sweep_report(read_results(folder)).read_text("utf-8")

    assert said(page).said.count("no ledger counts it: Sizes were counted.") == 1
    assert "simulation on own records" not in plain


def test_the_warning_never_rounds_a_price_down(results: SweepResults) -> None:
    cost = replace(sweep_cost(results.points), epsilon=20.00001)

    assert "ε = 20.001" in _warning(cost)


def test_an_audit_without_a_result_is_named_and_spoils_nothing(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", arms=("rewardds",))
    (folder / "audits" / "under_way").mkdir(parents=True)
    (folder / "audits" / ".DS_Store").touch()

    text = said(write_sweep_report(read_results(folder)).read_text("utf-8")).said

    assert "Without a result so far: under_way." in text
    with pytest.raises(ConfigurationError, match="under_way"):
        read_results(folder, audits=[folder / "audits" / "under_way"])


def test_page_says_that_the_curve_is_no_guarantee_and_what_it_costs(
    results: SweepResults, page: str
) -> None:
    text = said(page).said

    assert "no deployable guarantee" in text
    assert f"ε = {epsilon(sweep_cost(results.points).epsilon)}" in text
    assert "public stand-in data" in text
    assert "sweep=private_selection" in text
    assert "12 points share them" in text


def test_page_shows_points_that_failed_and_escapes_what_they_say(page: str) -> None:
    assert "Expected <i>more</i>, got less." in said(page).said
    assert "<i>more" not in page
    assert "<b>odd" not in page


def test_every_plot_has_words_and_no_colour_of_its_own(page: str) -> None:
    labels = said(page).labels
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)

    assert len(labels) == 5 + 2 + 4 + 1  # metrics, noise and time, proxies and acceptance, audit
    assert all(len(label) > 40 for label in labels)
    assert not any(re.search(r"#[0-9a-fA-F]{6}\b", plot) for plot in plots)
    assert "bound 1.25, claim 8.00" in " ".join(labels)


def test_page_is_small_and_refers_to_nothing_outside_itself(page: str) -> None:
    assert len(page.encode()) < 3_000_000
    assert set(re.findall(r"https?://[^\s\"')]+", page)) <= {"http://www.w3.org/1999/xlink"}
    assert "<script" not in page


def test_table_has_one_line_a_point_and_says_why_one_failed(
    results: SweepResults, page: str
) -> None:
    with (results.folder / TABLE_FILE).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    assert len(rows) == 13
    assert [row["status"] for row in rows].count("done") == 12
    assert rows[-1]["error"].startswith("Expected <i>more")
    assert {row["target_epsilon"] for row in rows[:-1]} == {"1.0", "8.0", "inf"}
    assert rows[0]["generator_noise"] == "2.2"
    assert rows[0]["generator_rate"] == "0.12"  # of clients that differ, the dearest
    assert rows[0]["generator_untuned_perplexity"] == "30.0"
    assert float(rows[0]["generator_tuned_perplexity"]) == METRIC["mean"]
    assert 0.7 < float(rows[0]["reward_accuracy"]) < 0.8
    assert rows[0]["reward_rank_correlation"] == "0.2"
    assert rows[0]["exchange"] == rows[1]["exchange"] != rows[2]["exchange"]


def test_figures_stand_by_themselves_in_light_and_dark(results: SweepResults, page: str) -> None:
    drawn = sorted((results.folder / "figures").glob("*.svg"))

    assert len(drawn) == 12
    for file in drawn:
        text = file.read_text(encoding="utf-8")
        assert 'xmlns="http://www.w3.org/2000/svg"' in text
        assert "prefers-color-scheme: dark" in text
        assert "--after: #0b7285" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed")
def test_a_browser_shows_it_from_disk_without_errors_at_any_width(
    results: SweepResults, page: str, tmp_path: Path, width: int, scheme: str
) -> None:
    address = (results.folder / PAGE_FILE).resolve().as_uri()

    with browser_page(tmp_path) as shown:
        shown.open(address, width=width, scheme=scheme)
        widths = shown.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        sheer = shown.contrasts()
        background = shown.evaluate("getComputedStyle(document.body).backgroundColor")

    assert shown.logged == []
    assert shown.requested == [address]  # nothing but the page itself
    assert widths[0] <= widths[1]  # nothing to scroll sideways
    assert sheer[0][0] >= 4.5, sheer  # WCAG 2, level AA
    assert background == {"light": "rgb(246, 245, 242)", "dark": "rgb(18, 21, 26)"}[scheme]


def test_a_folder_that_is_no_sweep_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path)])

    assert str(caught.value.code).startswith("Error: Expected the folder of a sweep")


def test_points_that_nobody_has_begun_are_counted_as_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sweep(tmp_path / "sweep")
    sweep = json.loads((folder / SWEEP_FILE).read_text(encoding="utf-8"))
    results = read_results(folder)
    begun, done = len(results.points), len(results.done)
    (folder / SWEEP_FILE).write_text(json.dumps(sweep | {"num_points": begun + 3}))

    main([str(folder)])

    assert f"{begun + 3 - done} of {begun + 3} points are not done" in capsys.readouterr().out


def test_a_sweep_of_which_nothing_is_done_says_so(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", arms=())

    with pytest.raises(ConfigurationError, match="found none of 1"):
        read_results(folder)
