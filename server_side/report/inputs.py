"""What the report is made of: values of the stages, as they stand in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm.tables import TextRow
from protocol.artifacts import Certificate
from server_side.evaluation import ArmScores, Metric
from server_side.exchange.outcome import ClientOutcome
from server_side.measuring.generator_fit import FitQuality
from server_side.measuring.intervals import Interval
from server_side.measuring.repetition import TextDiversity
from server_side.measuring.win_rate import WinRate
from server_side.notes import RunNotes
from server_side.ranking import RankingQuality
from server_side.report.formats import METRIC_NAMES
from server_side.run_store import StageRecord
from server_side.samples import CuratedSample, Feedback, Query, ScoredCandidate


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One metric of both arms."""

    key: str
    """Its name in `metrics.json`; for pass@k, that and k."""
    name: str
    """As it is written."""
    untuned: Interval
    """Of the target as it is."""
    tuned: Interval
    """Of the tuned target."""
    difference: Interval
    """Tuned minus untuned, paired."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportInputs:
    """One run, whole. By-round mappings have the round's index, from 1, as key."""

    run_id: str
    """Name of the run."""
    certificates: tuple[Certificate, ...]
    """Certificates of all admitted releases."""
    stages: Mapping[str, StageRecord]
    """What the manifest says about each stage, in the order of the stages."""
    counts: Mapping[str, Mapping[str, int]]
    """By stage, what went in, fell and came out; that of public text among them."""
    queries: tuple[Query, ...] = field(repr=False)
    """The synthetic prompts."""
    scored: Mapping[int, tuple[ScoredCandidate, ...]] = field(repr=False)
    """By round, its scored candidates."""
    pools: Mapping[int, tuple[CuratedSample, ...]] = field(repr=False)
    """By round, the pool that the target was tuned on."""
    feedback: Mapping[int, tuple[Feedback, ...]] = field(repr=False)
    """By round, from 2, the feedback that rewrites were based on."""
    fallen: CuratedSample | None
    """Of the last round's samples, the best that is not in the pool; None where all are in it."""
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
    pass_differences: Mapping[int, Interval]
    """Tuned minus untuned pass@k by k, paired; empty where no tests were run."""
    confidence_level: float
    """Probability of the intervals."""
    settings: Mapping[str, object]
    """The server's settings, as JSON values."""
    versions: Mapping[str, str]
    """Versions of the libraries and of the language."""
    synthetic: TextDiversity | None = None
    """Diversity of the final pool's responses."""
    generators: Mapping[str, FitQuality] = field(default_factory=dict)
    """By client, what its generator has learnt."""
    ranking: RankingQuality | None = None
    """How well the scores rank answers to test prompts; None where that was not measured."""
    without_releases: tuple[ClientOutcome, ...] = ()
    """Clients of which less than both proxies could be used, and what they answered."""
    win_rate: WinRate | None = None
    """How often a judge preferred the tuned target; None where none was asked."""
    notes: RunNotes | None = None
    """What a simulation knows about the run; None in a deployment."""

    @property
    def clients_left_out(self) -> list[str]:
        """Clients of which nothing was used, because their generators are broken; by name."""
        heard = {certificate.client_name for certificate in self.certificates}
        return sorted(heard - self.generators.keys()) if self.generators else []

    def setting(self, group: str, name: str) -> str:
        """Return one of the server's settings as text; empty where the run did not note it.

        Args:
            group: Group within the server's settings, such as `scoring`.
            name: The setting within its group.

        Returns:
            Its value as Python writes it.
        """
        config: Any = self.settings.get("config", {})  # JSON values
        return str(config.get(group, {}).get(name, ""))

    @property
    def num_reward_proxies_left_out(self) -> int:
        """Reward proxies that have no say, because they told no candidates apart."""
        first = self.stages.get("09_scored_r1")
        return first.counts.get("num_reward_proxies_left_out", 0) if first else 0

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All metrics of both arms, pass@k where tests were run."""
        untuned, tuned = self.untuned, self.tuned
        metrics = tuple(
            Comparison(
                key=metric.value,
                name=METRIC_NAMES[metric],
                untuned=untuned.metrics[metric],
                tuned=tuned.metrics[metric],
                difference=self.difference[metric],
            )
            for metric in Metric
        )
        return metrics + tuple(
            Comparison(
                key=f"pass_at_{k}",
                name=f"pass@{k}",
                untuned=untuned.pass_at_k[k],
                tuned=tuned.pass_at_k[k],
                difference=difference,
            )
            for k, difference in self.pass_differences.items()
        )
