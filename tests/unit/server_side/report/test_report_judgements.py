"""What the report shows of judges and rewards, and that it is silent where none was asked."""

from __future__ import annotations

import dataclasses

from server_side.measuring.generator_fit import FitQuality
from server_side.measuring.intervals import Interval
from server_side.measuring.win_rate import WinRate
from server_side.ranking import RankingQuality, ScoreQuality
from server_side.report.rendering import render_report
from tests.unit.server_side.report.report_samples import make_report_inputs


def test_a_win_rate_is_shown_where_a_judge_was_asked() -> None:
    wins = WinRate(
        judge="judge-<1>", rate=Interval(mean=0.75, low=0.5, high=0.9), num_wins=20, num_ties=10,
        num_losses=5, num_contradictions=4, num_unanswered=2,
    )  # fmt: skip

    with_judge, without = (
        render_report(make_report_inputs(win_rate=value)) for value in (wins, None)
    )

    assert "judge-&lt;1&gt;" in with_judge
    assert "contradicted itself on 4" in with_judge
    assert "Preferred by the judge" not in without


def test_a_judge_that_gave_nothing_is_said_to_have_given_nothing() -> None:
    nothing = WinRate(
        judge="judge-1", rate=None, num_wins=0, num_ties=0, num_losses=0, num_contradictions=0,
        num_unanswered=35,
    )  # fmt: skip

    page = render_report(make_report_inputs(win_rate=nothing))

    assert "judge-1 gave no usable answer about any of 35 pairs" in page


def test_reward_proxies_that_have_no_say_are_counted() -> None:
    inputs = make_report_inputs()
    first = dataclasses.replace(
        inputs.stages["09_scored_r1"], counts={"num_reward_proxies_left_out": 2}
    )

    with_some = render_report(
        dataclasses.replace(inputs, stages={**inputs.stages, "09_scored_r1": first})
    )

    assert "have no say: 2." in with_some
    assert "have no say" not in render_report(inputs)


def test_what_each_generator_has_learnt_is_told_with_its_verdict() -> None:
    def between(low: float, high: float) -> Interval:
        return Interval(mean=(low + high) / 2, low=low, high=high)

    generators = {
        "south": FitQuality(
            untuned=between(30, 40), tuned=between(30, 40), difference=between(-1, 1)
        ),
        "north": FitQuality(
            untuned=between(30, 40), tuned=between(20, 21), difference=between(-19, -10)
        ),
    }

    shown = render_report(make_report_inputs(generators=generators))
    section = shown[shown.index('<section id="generators"') : shown.index('<section id="funnel"')]
    north, south = (
        section[section.index(f'<th scope="row">{name}</th>') :].partition("</tr>")[0]
        for name in ("north", "south")
    )

    assert "20.50" in north
    assert "−19.00 to −10.00" in north
    assert '<span class="chip better">yes</span>' in north
    assert '<span class="chip unclear">not clearly</span>' in south
    assert "What the generators have learnt" not in render_report(make_report_inputs())


def test_the_ranking_is_shown_where_it_was_measured() -> None:
    low, high = Interval(mean=-0.125, low=-0.2, high=0.1), Interval(mean=0.9, low=0.8, high=1.0)
    quality = RankingQuality(
        num_prompts=40,
        num_candidates=240,
        mean=low,
        oracle=high,
        reward_accuracy=high,
        scores={"consensus": ScoreQuality(best=high, gain=low, rank_correlation=low)},
    )

    shown, silent = (render_report(make_report_inputs(ranking=value)) for value in (quality, None))

    assert "40 public test prompts (240 answers)" in shown
    assert "in 90 % of the pairs (80 % to 100 %)" in shown
    assert '<th scope="row">consensus</th>' in shown
    assert "−0.125" in shown
    assert "Does a score put good answers first?" not in silent
