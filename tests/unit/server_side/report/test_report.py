import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lm.tables import TextRow
from protocol.accounting import TradeOffPoint
from server_side.evaluation import Metric, compare_arms
from server_side.exchange.outcome import ClientOutcome
from server_side.measuring.intervals import Interval, judge
from server_side.report import write_report
from server_side.report.examples import query_examples
from server_side.report.inputs import ReportInputs
from server_side.report.plots import loss_curve, reward_histogram, reward_scatter, trade_off
from server_side.report.rendering import render_report
from server_side.report.results import headline, metric_results
from tests.support.synthetic_rows import make_certificate
from tests.unit.server_side.report.report_samples import CONFIG, make_report_inputs

_VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: dict[str, int] = {}
        self.svg_labels: list[str | None] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [v for n, v in attrs if n in ("href", "src", "xlink:href") and v]
        if tag == "svg":
            assert values.get("role") == "img"
            self.svg_labels.append(values.get("aria-label"))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _outline(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return make_report_inputs()


@pytest.fixture(scope="module")
def page(inputs: ReportInputs) -> str:
    return render_report(inputs)


def test_page_is_well_formed_with_distinct_names(page: str) -> None:
    outline = _outline(page)

    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)


def test_page_refers_to_nothing_outside_itself(page: str) -> None:
    """Names of XML vocabularies are no addresses; everything else would be a request."""
    outline = _outline(page)

    assert all(link.startswith("#") or link == "data:," for link in outline.links)
    assert set(re.findall(r"https?://[^\s\"')]+", page)) <= {"http://www.w3.org/1999/xlink"}
    assert "script" not in outline.tags
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert "url(http" not in page


def test_every_plot_has_a_text_alternative(page: str) -> None:
    labels = _outline(page).svg_labels

    assert len(labels) == 5 + 1 + 2 + 3 + 1  # metrics, trade-off, histograms, ranking, loss
    assert all(label and len(label) > 30 for label in labels)


def test_pass_rates_stand_beside_the_other_metrics_where_tests_were_run(
    inputs: ReportInputs, page: str
) -> None:
    low, high = Interval(mean=0.2, low=0.1, high=0.3), Interval(mean=0.45, low=0.4, high=0.5)
    tested = dataclasses.replace(
        inputs,
        untuned=dataclasses.replace(inputs.untuned, pass_at_k={5: low}),
        tuned=dataclasses.replace(inputs.tuned, pass_at_k={5: high}),
        pass_differences={5: Interval(mean=0.25, low=0.2, high=0.3)},
    )

    outline = _outline(render_report(tested))

    assert "pass@5" in outline.text
    assert "+0.250" in outline.text
    assert any(label and "0.450" in label for label in outline.svg_labels)
    assert len(outline.ids) == len(set(outline.ids))
    assert "pass@" not in page


def test_plots_take_their_colours_from_the_page(page: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)

    for plot in plots:
        assert "var(--" in plot
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", plot)
        assert "<style" not in plot


def test_page_states_guarantees_funnel_and_metrics(page: str) -> None:
    text = _outline(page).text

    assert "ε = 7.999" in text
    assert "δ = 1e-5" in text
    assert "northside-clinic" in text
    assert "17 repeated an earlier one" in text
    assert "ROUGE-L" in text
    assert "q_proj, v_proj" in text


def test_page_is_light_enough(tmp_path: Path) -> None:
    path = write_report(make_report_inputs(num_queries=600), tmp_path / "report.html")

    assert path.stat().st_size < 3_000_000
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_one_run_makes_one_page(inputs: ReportInputs, page: str) -> None:
    assert render_report(inputs) == page


def test_foreign_text_is_shown_and_never_interpreted(inputs: ReportInputs) -> None:
    """Whatever a model writes, or a client calls its domain, must stay text."""
    attack = "</style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\"'"
    rows = tuple(TextRow(prompt=attack, response=attack) for _ in inputs.test_rows)
    hostile = dataclasses.replace(
        inputs,
        run_id="x<b>",
        certificates=(make_certificate(instruction=attack),),
        queries=tuple(dataclasses.replace(query, prompt=attack) for query in inputs.queries),
        pools={
            r: tuple(dataclasses.replace(s, prompt=attack, chosen=attack) for s in pool)
            for r, pool in inputs.pools.items()
        },
        scored={
            r: tuple(
                dataclasses.replace(s, candidate=dataclasses.replace(s.candidate, response=attack))
                for s in scored
            )
            for r, scored in inputs.scored.items()
        },
        feedback={2: tuple(dataclasses.replace(f, text=attack) for f in inputs.feedback[2])},
        test_rows=rows,
        tuned=dataclasses.replace(inputs.tuned, answers=((attack,),) * len(rows)),
        settings={attack: attack, "group": {attack: [attack]}},
        versions={attack: attack},
    )

    outline = _outline(render_report(hostile))

    assert "script" not in outline.tags
    assert "img" not in outline.tags
    assert "b" not in outline.tags or outline.text.count("x<b>") >= 1
    assert attack in outline.text


def test_infinite_epsilon_is_called_no_guarantee(inputs: ReportInputs) -> None:
    certificates = (make_certificate(ledger={"epsilon": math.inf}),)

    text = _outline(render_report(dataclasses.replace(inputs, certificates=certificates))).text

    assert "there is no privacy guarantee" in text
    assert "ε = ∞" in text


def test_reproducible_noise_is_called_out(inputs: ReportInputs) -> None:
    certificates = (make_certificate(ledger={"reproducible_noise": True}),)

    text = _outline(render_report(dataclasses.replace(inputs, certificates=certificates))).text

    assert "protect nobody" in text
    assert "fixed noise seed" in text


def test_honest_guarantee_carries_no_warning(page: str) -> None:
    assert "protect nobody" not in page
    assert 'class="notice"' not in page


def test_run_without_rewrites_and_with_constant_rewards_is_drawn(inputs: ReportInputs) -> None:
    scored = tuple(dataclasses.replace(item, reward=1.0) for item in inputs.scored[1])
    pool = tuple(dataclasses.replace(sample, chosen_reward=1.0) for sample in inputs.pools[1])
    poor = dataclasses.replace(
        inputs,
        scored={1: scored, 2: ()},
        pools={1: pool, 2: pool},
        feedback={},
        losses={1: (2.0,), 2: ()},
    )

    assert "is not defined" in _outline(render_report(poor)).text


@pytest.mark.parametrize(
    ("low", "high", "is_lower_better", "expected"),
    [
        (0.01, 0.05, False, "better"),
        (-0.05, -0.01, False, "worse"),
        (-0.05, -0.01, True, "better"),
        (0.01, 0.05, True, "worse"),
        (-0.01, 0.05, False, "unclear"),
        (0.0, 0.05, False, "unclear"),
    ],
)
def test_verdict_follows_the_paired_interval(
    low: float, high: float, is_lower_better: bool, expected: str
) -> None:
    difference = Interval(mean=(low + high) / 2, low=low, high=high)

    assert judge(difference, is_lower_better=is_lower_better) == expected


def test_headline_tells_bad_news_as_plainly_as_good(inputs: ReportInputs) -> None:
    swapped = dataclasses.replace(
        inputs,
        untuned=inputs.tuned,
        tuned=inputs.untuned,
        difference=compare_arms(untuned=inputs.tuned, tuned=inputs.untuned, config=CONFIG, seed=0),
    )

    results = metric_results(swapped)
    sentence = headline(swapped, results).sentence

    assert {r.key: r.verdict for r in results}[Metric.PERPLEXITY] == "worse"
    assert "perplexity rises" in sentence


def test_a_client_that_was_not_admitted_is_named_with_what_it_answered(
    inputs: ReportInputs, page: str
) -> None:
    """It may have paid; a report that left it out would tell nobody."""
    lost = ClientOutcome(name="east", answers={"hello": "admitted", "generator": "not admitted: x"})

    told = render_report(dataclasses.replace(inputs, without_releases=(lost,)))

    assert "east: hello admitted, generator not admitted: x." in told
    assert "takes no part" not in page


def test_how_rewards_follow_length_stands_in_the_page(inputs: ReportInputs, page: str) -> None:
    scoring = dataclasses.replace(
        inputs.stages["09_scored_r1"], figures={"reward_length_correlation": -0.4567}
    )
    stages = {**inputs.stages, "09_scored_r1": scoring}

    told = render_report(dataclasses.replace(inputs, stages=stages))

    assert "Scoring, round 1 <b>−0.457</b>." in told
    assert "log length" not in page


def test_examples_hold_chosen_and_rejected_of_the_best_sample(inputs: ReportInputs) -> None:
    examples = query_examples(inputs)
    best = max(inputs.pools[2], key=lambda sample: sample.chosen_reward)

    roles = {c.role: c.text for r in examples[0].rounds for c in r.candidates if c.role}

    assert examples[0].query_id == best.query_id
    assert roles == {"chosen": best.chosen, "rejected": best.rejected}
    assert inputs.fallen is not None
    assert examples[-1].query_id == inputs.fallen.query_id
    assert examples[-1].label == "best of those that are not in the pool"
    assert len({example.query_id for example in examples}) == len(examples)


def test_examples_show_every_score_by_which_answers_are_ordered(inputs: ReportInputs) -> None:
    best = max(inputs.pools[2], key=lambda sample: sample.chosen_reward)
    (scored,) = (
        item
        for scored in inputs.scored.values()
        for item in scored
        if item.candidate.candidate_id == best.chosen_candidate_id
    )

    scores = (
        f"<span>reward {scored.reward:+.2f}</span>".replace("-", "−"),
        f"<span>perplexity {scored.perplexity:.3g}</span>",
        f"<span>consensus {scored.consensus:.2f}</span>",
    )
    assert "".join(scores) in render_report(inputs)


def test_plots_of_extreme_values_do_not_fail() -> None:
    reward_histogram(before=[], after=[], round_index=1, name="a")
    reward_histogram(before=[1e9, -1e9], after=[0.0], round_index=1, name="b")
    loss_curve({1: [0.5], 2: []}, objective="sft", name="c")
    plot = reward_scatter(
        values=list(np.geomspace(1, 1e12, 5000)), rewards=[0.0] * 5000, is_kept=[False] * 5000,
        label="perplexity", is_log=True, correlation=None, name="d",
    )  # fmt: skip

    assert len(plot.svg) < 150_000


def test_trade_off_says_what_a_test_can_reach_at_most() -> None:
    """At a false alarm rate of 1 % the curve of (1, 0)-DP lets e %, 2.7 %, be recognised."""
    rates = [point / 1000 for point in range(1001)]
    points = tuple(
        TradeOffPoint(
            false_positive_rate=rate,
            false_negative_rate=max(0.0, 1 - math.e * rate, (1 - rate) / math.e),
        )
        for rate in rates
    )

    plot = trade_off({"a": points, "b": points}, name="t")

    assert "no test recognises more than 2.8 % of the units of a, b." in plot.text
    assert plot.svg.count("a, b") == 2  # one line in the legend, and the words


@pytest.mark.parametrize(("missed", "said"), [(0.9866, "1.4 %"), (0.987, "1.3 %"), (0.0, "100.0")])
def test_bound_of_the_trade_off_is_never_rounded_down(missed: float, said: str) -> None:
    point = TradeOffPoint(false_positive_rate=0.01, false_negative_rate=missed)

    assert f"no test recognises more than {said}" in trade_off({"a": [point]}, name="t").text


def test_page_tells_the_confidence_level_as_it_was_set() -> None:
    page = render_report(make_report_inputs(confidence_level=0.975))

    assert "Intervals hold 97.5 % of bootstrap resamples" in page


def test_page_shows_the_trade_off_of_the_clients_ledgers(page: str) -> None:
    assert "What any test for one unit&#39;s presence can reach" in page
