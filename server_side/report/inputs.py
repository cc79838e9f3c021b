"""What the report is made of: values of the stages, as they stand in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lm.tables import TextRow
from protocol.artifacts import Certificate
from server_side.evaluation import ArmScores, Metric
from server_side.intervals import Interval
from server_side.notes import RunNotes
from server_side.repetition import TextDiversity
from server_side.run_store import StageRecord
from server_side.samples import CuratedSample, Feedback, Query, ScoredCandidate
from server_side.win_rate import WinRate


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """One run, whole. By-round mappings have the round's index, from 1, as key."""

    run_id: str
    """Name of the run."""
    certificates: tuple[Certificate, ...]
    """Certificates of all admitted releases."""
    stages: Mapping[str, StageRecord]
    """What the manifest says about each stage, in the order of the stages."""
    queries: tuple[Query, ...] = field(repr=False)
    """The synthetic prompts."""
    scored: Mapping[int, tuple[ScoredCandidate, ...]] = field(repr=False)
    """By round, its scored candidates."""
    pools: Mapping[int, tuple[CuratedSample, ...]] = field(repr=False)
    """By round, the pool that the target was tuned on."""
    feedback: Mapping[int, tuple[Feedback, ...]] = field(repr=False)
    """By round, from 2, the feedback that rewrites were based on."""
    losses: Mapping[int, tuple[float, ...]] = field(repr=False)
    """By round, the loss of each step of tuning the target."""
    test_rows: tuple[TextRow, ...]
    """Public test rows."""
    untuned: ArmScores
    """Scores of the target as it is."""
    tuned: ArmScores
    """Scores of the tuned target."""
    difference: Mapping[Metric, Interval]
    """Tuned minus untuned, paired."""
    confidence_level: float
    """Probability of the intervals."""
    settings: Mapping[str, object]
    """The server's settings, as JSON values."""
    versions: Mapping[str, str]
    """Versions of the libraries and of the language."""
    synthetic: TextDiversity | None = None
    """Diversity of the final pool's responses."""
    win_rate: WinRate | None = None
    """How often a judge preferred the tuned target; None where none was asked."""
    notes: RunNotes | None = None
    """What a simulation knows about the run; None in a deployment."""
