"""What the page says follows what the run was."""

from __future__ import annotations

import dataclasses

import pytest

from server_side.notes import RunNotes, SelectionPrice
from server_side.report import rendering
from server_side.report.drawings import Drawings, draw_plots
from server_side.report.examples import query_examples
from server_side.report.inputs import ReportInputs
from server_side.report.rendering import render_report
from server_side.samples import PromptOrigin
from tests.unit.server_side.report.report_samples import make_report_inputs


@pytest.fixture(scope="module")
def inputs() -> ReportInputs:
    return make_report_inputs()


@pytest.fixture(scope="module")
def drawings(inputs: ReportInputs) -> Drawings:
    return draw_plots(inputs)


@pytest.fixture
def drawn_once(drawings: Drawings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn has no part in these words, and would take most of each page's time."""
    monkeypatch.setattr(rendering, "draw_plots", lambda _: drawings)


def test_a_run_all_of_whose_samples_are_in_the_pool_shows_none_that_fell(
    inputs: ReportInputs,
) -> None:
    examples = query_examples(dataclasses.replace(inputs, fallen=None))

    assert not [example for example in examples if "not in the pool" in example.label]


@pytest.mark.parametrize(
    ("group", "values", "told"),
    [
        ("scoring", {"ensemble": "min"}, "and the least of them counts"),
        ("scoring", {"ensemble": "own"}, "own client’s proxy alone"),
    ],
)
@pytest.mark.usefixtures("drawn_once")
def test_words_follow_the_settings(
    inputs: ReportInputs, group: str, values: dict[str, str], told: str
) -> None:
    settings = {**inputs.settings, "config": {group: values}}

    assert told in render_report(dataclasses.replace(inputs, settings=settings))


@pytest.mark.parametrize(
    ("objective", "told"),
    [("sft", "Mean loss of a response token"), ("dpo", "(DPO)"), ("orpo", "(ORPO)")],
)
def test_the_loss_that_is_drawn_is_named_after_the_objective(
    inputs: ReportInputs, objective: str, told: str
) -> None:
    settings = {**inputs.settings, "config": {"finetuning": {"objective": objective}}}

    assert told in render_report(dataclasses.replace(inputs, settings=settings))


@pytest.mark.usefixtures("drawn_once")
def test_a_selected_run_leads_with_the_price_of_the_selection_and_tells_no_time(
    inputs: ReportInputs,
) -> None:
    price = SelectionPrice(epsilon=12.3456, delta=1e-5)
    notes = RunNotes(arm="with_consensus", tuned_on="synthetic", selection=price)

    told = render_report(dataclasses.replace(inputs, notes=notes))

    assert "ε of the selection" in told
    assert "12.346" in told
    assert "one alone 7.999" in told
    assert "dearest client" not in told
    assert "Time, all stages" not in told
    assert 'href="#cost"' not in told


@pytest.mark.usefixtures("drawn_once")
def test_what_no_ledger_counts_stands_before_the_ledgers(inputs: ReportInputs) -> None:
    notes = RunNotes(
        arm="with_consensus", tuned_on="synthetic", not_covered=("Sizes were counted.",)
    )

    told, plain = (render_report(dataclasses.replace(inputs, notes=some)) for some in (notes, None))

    privacy = told[told.index('id="privacy"') :]
    assert "Sizes were counted." in privacy[: privacy.index("card ledger")]
    assert "simulation on own records" not in plain


@pytest.mark.usefixtures("drawn_once")
def test_prompts_of_public_text_are_not_called_sampled(inputs: ReportInputs) -> None:
    queries = tuple(
        dataclasses.replace(query, origin=PromptOrigin.PUBLIC) for query in inputs.queries
    )

    told = render_report(dataclasses.replace(inputs, queries=queries))

    assert "taken from public text" in told
    assert "sampled from the generators" not in told


@pytest.mark.usefixtures("drawn_once")
@pytest.mark.parametrize(("response", "is_told"), [("Отдыхайте.", True), ("Rest, 2 days.", False)])
def test_a_test_beyond_rouge_is_told_beside_the_results(
    inputs: ReportInputs, response: str, is_told: bool
) -> None:
    """Else 0.000 before and after looks like a target that answers nothing right."""
    rows = tuple(dataclasses.replace(row, response=response) for row in inputs.test_rows)

    told = render_report(dataclasses.replace(inputs, test_rows=rows))

    assert ("references hold no word of Latin letters or digits" in told) == is_told
