"""`metrics.json`: what a run measured, in a form that other programs can rely on.

`metrics.schema.json` beside this file is the contract; what does not fit it is neither written nor
read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jsonschema

from protocol import SOFTWARE_VERSION
from protocol.errors import StageError
from protocol.ledger import PrivacyLedger
from server_side.evaluation import ArmScores, Metric
from server_side.exchange.outcome import ClientOutcome
from server_side.json_values import to_json
from server_side.measuring.generator_fit import FitQuality
from server_side.measuring.intervals import Interval
from server_side.measuring.repetition import TextDiversity, self_bleu
from server_side.measuring.win_rate import WinRate
from server_side.notes import RunNotes
from server_side.ranking import RankingQuality
from server_side.whole_files import write_atomically

SCHEMA_PATH: Final = Path(__file__).with_name("metrics.schema.json")
"""JSON schema of the file."""

_FORMAT_VERSION: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningEffort:
    """How much the target was tuned, which runs that are compared should have in common."""

    num_samples: int
    """Distinct samples of the last tuning."""
    num_steps: int
    """Optimiser steps of all rounds."""
    batch_size: int
    """Samples in a step, at most; the last step of a pass may have fewer."""
    num_samples_seen: int
    """Samples that went through the model, repeats and all rounds included."""


def build_metrics(
    *,
    run_id: str,
    seed: int,
    untuned: ArmScores,
    tuned: ArmScores,
    difference: Mapping[Metric, Interval],
    pass_differences: Mapping[int, Interval],
    confidence_level: float,
    privacy: Mapping[str, PrivacyLedger],
    seconds: Mapping[str, float],
    peak_rss_bytes: int,
    counts: Mapping[str, Mapping[str, int]],
    tuning: TuningEffort | None = None,
    synthetic: TextDiversity | None = None,
    win_rate: WinRate | None = None,
    notes: RunNotes | None = None,
    figures: Mapping[str, Mapping[str, float]] | None = None,
    generators: Mapping[str, FitQuality] | None = None,
    ranking: RankingQuality | None = None,
    without_releases: Sequence[ClientOutcome] = (),
) -> dict[str, Any]:  # a JSON object
    """Put together what `write_metrics` takes.

    Args:
        run_id: Name of the run.
        seed: The server's seed.
        untuned: Scores of the target as it is.
        tuned: Scores of the tuned target.
        difference: Tuned minus untuned, from `compare_arms`.
        pass_differences: Tuned minus untuned pass@k, by k; empty where no tests were run.
        confidence_level: Probability of the intervals.
        privacy: By client, the ledger of its latest release, which holds all earlier ones.
        seconds: By stage; the total is added.
        peak_rss_bytes: Most memory that the job's process held.
        counts: By stage, what went in, fell and came out.
        tuning: How much the target was tuned; None where nobody counted.
        synthetic: Diversity of the final pool's responses; None where nothing was synthesised.
        win_rate: How often a judge preferred the tuned target; None where none was asked.
        notes: What a simulation knows about the run; None in a deployment.
        figures: By stage, what else was measured on the way.
        generators: By client, what its generator has learnt; None where nothing was sampled.
        ranking: How well the scores rank; None where that was not measured.
        without_releases: Clients of which less than both proxies could be used.

    Returns:
        A JSON object that fits the schema.
    """
    metrics: dict[str, Any] = {
        "format_version": _FORMAT_VERSION,
        "run_id": run_id,
        "software_version": SOFTWARE_VERSION,
        "seed": seed,
        "num_rows": len(tuned.rows),
        "confidence_level": confidence_level,
        "untuned": _arm(untuned),
        "tuned": _arm(tuned),
        "difference": {**_intervals(difference), **_pass_at_k(pass_differences)},
        "privacy": {name: _privacy(ledger) for name, ledger in sorted(privacy.items())},
        "seconds": {**seconds, "total": sum(seconds.values())},
        "peak_rss_bytes": peak_rss_bytes,
        "counts": {stage: dict(by_reason) for stage, by_reason in counts.items()},
        "figures": {stage: dict(by_name) for stage, by_name in (figures or {}).items()},
        **({} if generators is None else {"generators": to_json(generators)}),
        **({} if ranking is None else {"ranking": to_json(ranking)}),
    }
    if tuning is not None:
        metrics["tuning"] = to_json(tuning)
    if synthetic is not None:
        metrics["synthetic"] = to_json(synthetic)
    if without_releases:
        metrics["clients_without_releases"] = [
            {"name": client.name, "answers": dict(client.answers)} for client in without_releases
        ]
    if win_rate is not None:
        metrics["win_rate"] = to_json(win_rate)
    if notes is not None:
        metrics["arm"], metrics["tuned_on"] = notes.arm, notes.tuned_on
        if notes.private_overlap is not None:
            metrics["private_overlap"] = to_json(notes.private_overlap)
        elif notes.clients_without_records:
            metrics["private_overlap"] = None
            metrics["clients_without_records"] = list(notes.clients_without_records)
        if notes.not_covered:
            metrics["not_covered"] = list(notes.not_covered)
        if (selection := notes.selection) is not None:
            epsilon = selection.epsilon if math.isfinite(selection.epsilon) else None
            metrics["selection"] = {"epsilon": epsilon, "delta": selection.delta}
    return metrics


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Check metrics against the schema and write them; the file appears only when whole.

    Args:
        path: The file; an older one is replaced.
        metrics: What `build_metrics` returned; JSON values, all numbers finite.

    Raises:
        StageError: They do not fit the schema.
        DiskError: The disk refuses.
    """
    _check(metrics, path)
    write_atomically(path, json.dumps(metrics, indent=2, ensure_ascii=False) + "\n")


def read_metrics(path: Path) -> dict[str, Any]:  # a JSON object
    """Read a `metrics.json`.

    Raises:
        StageError: The file is missing, is no JSON, or does not fit the schema.
    """
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(
            f"Expected metrics as JSON in {path}, found none that can be read "
            f"({type(error).__name__}). Run the job to its end."
        ) from error
    _check(metrics, path)
    return metrics


def _check(metrics: Mapping[str, Any], path: Path) -> None:
    schema = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(metrics))
    if error is not None:
        raise _unfit(path, where=error.json_path, what=error.message)
    if where := _first_non_finite(metrics):
        raise _unfit(path, where=where, what="a number that JSON has no form for")


def _unfit(path: Path, *, where: str, what: str) -> StageError:
    return StageError(
        f"Expected {path} to fit {SCHEMA_PATH.name}, found at {where}: {what}. Run the job again "
        "with one version of the software."
    )


def _first_non_finite(value: object, where: str = "$") -> str | None:
    match value:
        case float() if not math.isfinite(value):
            return where
        case Mapping():
            found = (_first_non_finite(item, f"{where}.{key}") for key, item in value.items())
            return next((place for place in found if place), None)
    return None


def _arm(arm: ArmScores) -> dict[str, object]:
    return {
        **_intervals(arm.metrics),
        **_pass_at_k(arm.pass_at_k),
        **{f"distinct{n}": fraction for n, fraction in arm.distinct.items()},
        "unfinished_fraction": arm.unfinished_fraction,
        "mean_answer_words": arm.mean_answer_words,
        "self_bleu": self_bleu([text for row in arm.answers for text in row]),
    }


def _intervals(metrics: Mapping[Metric, Interval]) -> dict[str, object]:
    return {metric.value: _interval(value) for metric, value in metrics.items()}


def _pass_at_k(rates: Mapping[int, Interval]) -> dict[str, object]:
    by_k = {str(k): _interval(value) for k, value in rates.items()}
    return {"pass_at_k": by_k} if by_k else {}


def _interval(value: Interval) -> dict[str, float]:
    return {"mean": value.mean, "low": value.low, "high": value.high}


def _privacy(ledger: PrivacyLedger) -> dict[str, object]:
    return {
        "epsilon": ledger.epsilon if math.isfinite(ledger.epsilon) else None,
        "delta": ledger.delta,
        "unit": ledger.unit.value,
        "relation": ledger.relation.value,
        "num_events": len(ledger.events),
        "reproducible_noise": ledger.reproducible_noise,
    }
