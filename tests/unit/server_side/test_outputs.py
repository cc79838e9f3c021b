"""What a run hands out about itself: all of it, unless it was chosen for how it came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lm.tables import TextRow
from server_side import outputs
from server_side.config import RefinementConfig, ServerConfig
from server_side.exchange.outcome import ClientOutcome, write_outcome
from server_side.inputs import JobInputs
from server_side.measuring.generator_fit import FitQuality
from server_side.measuring.intervals import Interval
from server_side.notes import RunNotes, SelectionPrice
from server_side.outputs import write_outputs
from server_side.report import ReportInputs
from server_side.run_store import RunStore, StageRecord
from tests.support.arms import scores
from tests.support.curated import curated, queries_of
from tests.unit.server_side.report.report_samples import make_certificates

SOME = Interval(mean=2.0, low=1.0, high=3.0)
FIT = FitQuality(untuned=SOME, tuned=SOME, difference=SOME)
TEST_ROW = TextRow(prompt="Is ice good?", response="It is.")
LOST = ClientOutcome(name="lost-clinic", answers={"generator": "no answer"})
NOTES = RunNotes(arm="full", tuned_on="synthetic")
SELECTED = RunNotes(
    arm="full", tuned_on="synthetic", selection=SelectionPrice(epsilon=16.0, delta=1e-5)
)


def record(seconds: float) -> StageRecord:
    return StageRecord(files={}, counts={"num_kept": 1}, seconds=seconds, peak_rss_bytes=1_000_000)


@dataclass(frozen=True, kw_only=True, slots=True)
class HandedOut:
    """What a reader of the results gets to see."""

    metrics: Mapping[str, Any]
    report: ReportInputs


def hand_out(notes: RunNotes | None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> HandedOut:
    """Write the outputs of a run of one round, of one of whose clients nothing could be used."""
    reports: list[ReportInputs] = []
    # Data set and target tell nothing of how the run went; the report is taken as it is handed on.
    monkeypatch.setattr(outputs, "export_dataset", lambda *args, **others: None)
    monkeypatch.setattr(outputs, "_hand_over_target", lambda *args, **others: None)
    monkeypatch.setattr(outputs, "write_report", lambda report, path: reports.append(report))
    write_outcome(folder, run_id="run-1", error=None, outcomes=[LOST])
    (folder / "11_target_r1").mkdir()
    history = {"num_steps": 1, "num_pairs_dropped": 0, "losses": [1.0]}
    (folder / "11_target_r1" / "history.json").write_text(json.dumps(history), encoding="utf-8")
    pool = (curated("q1", 1.0),)
    stored = {
        "07_queries": tuple(queries_of(pool)),
        "09_scored_r1": (),
        "10_best_r1": pool,
        "10_pool_r1": pool,
    }
    store = SimpleNamespace(
        folder=folder,
        stages={"07_queries": record(61.0), "11_target_r1": record(96.0)},
        read=lambda name, kind: stored[name],
        forget=lambda name: None,
    )
    inputs = SimpleNamespace(
        run_id="run-1", certificates=make_certificates(), test_rows=(TEST_ROW,), settings={}
    )
    write_outputs(
        cast(RunStore, store),
        cast(JobInputs, inputs),
        folder / "11_target_r1",
        untuned=scores({"row": 0.1}),
        tuned=scores({"row": 0.2}),
        generators={"harbour-clinic": FIT},
        config=ServerConfig(refinement=RefinementConfig(num_rounds=1)),
        exchange=record(7.0),
        output_folder=folder / "out",
        annotate=None if notes is None else lambda pool: notes,
    )
    metrics = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))
    return HandedOut(metrics=metrics, report=reports[0])


@pytest.mark.parametrize("notes", [None, NOTES])
def test_a_run_tells_what_it_took_and_who_gave_nothing(
    notes: RunNotes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = hand_out(notes, tmp_path, monkeypatch)

    assert found.metrics["seconds"] == {
        "06_exchange": 7.0, "07_queries": 61.0, "11_target_r1": 96.0, "total": 164.0,
    }  # fmt: skip
    assert found.metrics["peak_rss_bytes"] == 1_000_000
    assert [lost["name"] for lost in found.metrics["clients_without_releases"]] == ["lost-clinic"]
    assert found.report.without_releases == (LOST,)


def test_a_selected_run_tells_no_time_and_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both follow from what was drawn of the records, for which no selection's price pays."""
    found = hand_out(SELECTED, tmp_path, monkeypatch)

    assert set(found.metrics["seconds"].values()) == {0.0}
    assert found.metrics["peak_rss_bytes"] == 0
    assert {(s.seconds, s.peak_rss_bytes) for s in found.report.stages.values()} == {(0.0, 0)}


def test_a_selected_run_does_not_tell_who_gave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a client could deliver may follow from its records, as above."""
    found = hand_out(SELECTED, tmp_path, monkeypatch)

    assert found.report.without_releases == ()
    assert "lost-clinic" not in json.dumps(found.metrics)
