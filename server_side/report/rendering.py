"""Fill the page: one HTML file that needs nothing else, neither network nor script.

Every value goes through Jinja's autoescaping; texts of models and settings of people are shown,
never interpreted. A content security policy in the page forbids it to load anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from protocol import SOFTWARE_VERSION
from server_side.public_texts import num_beyond_rouge
from server_side.report.drawings import draw_plots
from server_side.report.examples import answer_examples, query_examples
from server_side.report.formats import FILTERS
from server_side.report.inputs import ReportInputs
from server_side.report.journey import funnel, journey, timings
from server_side.report.results import (
    client_ledgers,
    generator_results,
    headline,
    length_correlations,
    metric_results,
    setting_groups,
)
from server_side.whole_files import write_atomically

_ENSEMBLES: Final = {
    "mean": " and averaged",
    "min": ", and the least of them counts",
    "own": ", and each prompt’s answers are judged by its own client’s proxy alone, or by all that "
    "are left where that one tells none apart",
}


def write_report(inputs: ReportInputs, path: Path) -> Path:
    """Write the report of a run.

    Args:
        inputs: The run.
        path: The HTML file; it appears only when whole.

    Returns:
        `path`.

    Raises:
        DiskError: The disk refuses.
    """
    write_atomically(path, render_report(inputs))
    return path


def render_report(inputs: ReportInputs) -> str:
    """Return the report of a run as one HTML document."""
    results = metric_results(inputs)
    return (
        page_environment()
        .get_template("report.html.j2")
        .render(
            run_id=inputs.run_id,
            headline=headline(inputs, results),
            results=results,
            confidence_level=inputs.confidence_level,
            num_rows=len(inputs.test_rows),
            num_beyond_rouge=num_beyond_rouge(inputs.test_rows),
            untuned=inputs.untuned,
            tuned=inputs.tuned,
            clients=client_ledgers(inputs),
            without_releases=inputs.without_releases,
            journey=journey(inputs),
            funnel=funnel(inputs.counts),
            timings=[] if inputs.notes and inputs.notes.selection else timings(inputs.stages),
            plots=draw_plots(inputs),
            query_examples=query_examples(inputs),
            answer_examples=answer_examples(inputs),
            settings=setting_groups(inputs.settings),
            versions=inputs.versions,
            synthetic=inputs.synthetic,
            generators=generator_results(inputs),
            clients_left_out=inputs.clients_left_out,
            ranking=inputs.ranking,
            ensemble=_ENSEMBLES.get(inputs.setting("scoring", "ensemble"), ""),
            num_reward_proxies_left_out=inputs.num_reward_proxies_left_out,
            length_correlations=length_correlations(inputs),
            win_rate=inputs.win_rate,
            notes=inputs.notes,
        )
    )


def page_environment(*packages: str) -> Environment:
    """Return what fills a page of this look: its frame, style, parts and filters.

    Args:
        *packages: Packages whose `templates` extend `page.html.j2`.

    Returns:
        Jinja's environment. It escapes every value, and an unknown name in a template is an error.
    """
    loaders = [PackageLoader(name, "templates") for name in (*packages, "server_side.report")]
    environment = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=select_autoescape(default_for_string=True, default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    style = environment.get_template("style.css").render()
    environment.globals |= {
        "software_version": SOFTWARE_VERSION,
        "style": Markup(style),  # noqa: S704 - a file of this package without a placeholder
    }
    return environment
