"""How much went into each stage, what fell there and why, and how long it took."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from server_side.report.formats import count
from server_side.report.inputs import ReportInputs
from server_side.run_store import StageRecord
from server_side.samples import PromptOrigin

_TITLES: Final = {
    "00_warm_start": "Public text for the proxies' start",
    "06_exchange": "Exchange with the clients",
    "07_generators": "Judging the generators",
    "07_queries": "Synthetic prompts",
    "08_candidates": "Candidate responses",
    "09_scored": "Scoring",
    "10_best": "Best and worst response",
    "10_pool": "Pool",
    "11_target": "Tuning the target",
    "12_feedback": "Feedback",
    "13_ranking": "Judging the ranking",
    "13_untuned": "Judging the untuned target",
    "13_tuned": "Judging the tuned target",
    "13_verdicts": "Asking the judge",
}
_REASONS: Final = {
    "num_unfinished": "never ended",
    "num_too_short": "too short",
    "num_too_long": "too long",
    "num_repeated": "repeated an earlier one",
    "num_surplus": "more than were asked for",
    "num_unusable": "without prompt or response, or longer than any model reads",
    "num_in_test_set": "stand in the test set",
    "num_below_threshold": "below the threshold",
    "num_near_duplicates": "nearly the same as a better one",
    "num_not_taken_in": "reached a pool that takes nobody in",
}
_NOTES: Final = {
    "num_queries_too_few_candidates": "prompts without two usable responses",
    "num_samples_without_rewrite": "samples without a usable rewrite",
    "num_trimmed": "cut ones, trimmed to their last whole sentence",
    "num_public": "of them public",
    "num_public_examples": "public prompts to show as examples",
    "num_joined": "newly joined the pool",
    "num_renewed": "renewed in the pool",
}
_PROMPTS: Final = {
    PromptOrigin.GENERATOR: "sampled from the generators",
    PromptOrigin.FEW_SHOT: "sampled after public examples",
    PromptOrigin.PUBLIC: "taken from public text",
}
_ENTRIES: Final = ("num_sampled", "num_pairs", "num_rows")
"""What says how much went in, the first that is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FunnelStep:
    """One stage that lets some things pass and others fall."""

    title: str
    """Name of the stage, with its round."""
    num_entered: int
    """Things that went in."""
    num_kept: int
    """Things that passed."""
    losses: tuple[tuple[str, int], ...]
    """Why the others fell, and how many; most first."""
    notes: tuple[str, ...]
    """What else was counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JourneyStop:
    """One stop of the picture that shows the journey."""

    side: str
    """`client`, or `server`."""
    title: str
    """What happens."""
    figure: str
    """Its number."""
    caption: str
    """What the number counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What one stage cost."""

    title: str
    """Name of the stage, with its round."""
    seconds: float
    """How long it took."""
    fraction: float
    """Its share of the longest stage."""
    peak_rss_bytes: int
    """Most memory that the process held meanwhile."""


def journey(inputs: ReportInputs) -> list[JourneyStop]:
    """Return the stops of the journey, from the records to the tuned target."""
    num_clients = len({certificate.client_name for certificate in inputs.certificates})
    num_units = sum({c.client_name: c.declared_size for c in inputs.certificates}.values())
    num_candidates = sum(len(scored) for scored in inputs.scored.values())
    last = max(inputs.pools)
    return [
        JourneyStop(
            side="client",
            title="Private records",
            figure=f"≈ {count(num_units)}",
            caption=f"declared by {_counted(num_clients, 'client')}; never leave",
        ),
        JourneyStop(
            side="client",
            title="DP proxies",
            figure=count(len(inputs.certificates)),
            caption="models released, signed, with their ledger",
        ),
        JourneyStop(
            side="server",
            title="Synthetic prompts",
            figure=count(len(inputs.queries)),
            caption=" and ".join(
                _PROMPTS[origin]
                for origin in PromptOrigin
                if any(query.origin is origin for query in inputs.queries)
            ),
        ),
        JourneyStop(
            side="server",
            title="Candidates",
            figure=count(num_candidates),
            caption=f"scored in {_counted(len(inputs.scored), 'round')}",
        ),
        JourneyStop(
            side="server",
            title="Pool",
            figure=count(len(inputs.pools[last])),
            caption=f"samples kept after round {last}",
        ),
        JourneyStop(
            side="server",
            title="Tuned target",
            figure=count(sum(map(len, inputs.losses.values()))),
            caption="optimiser steps in all rounds",
        ),
    ]


def funnel(counts: Mapping[str, Mapping[str, int]]) -> list[FunnelStep]:
    """Return the stages at which something could fall, with where it went."""
    steps = []
    for name, numbers in counts.items():
        entry = next((key for key in _ENTRIES if key in numbers), None)
        if entry is None or "num_kept" not in numbers:
            continue
        entered = numbers[entry] + numbers.get("num_public", 0)
        kept = numbers["num_kept"]
        losses = {text: numbers[key] for key, text in _REASONS.items() if numbers.get(key)}
        if (unnamed := entered - kept - sum(losses.values())) > 0:
            losses["fell with their prompt"] = unnamed
        steps.append(
            FunnelStep(
                title=stage_title(name),
                num_entered=entered,
                num_kept=kept,
                losses=tuple(sorted(losses.items(), key=lambda item: -item[1])),
                notes=tuple(
                    f"{text}: {count(numbers[key])}"
                    for key, text in _NOTES.items()
                    if numbers.get(key)
                ),
            )
        )
    return steps


def timings(stages: Mapping[str, StageRecord]) -> list[Timing]:
    """Return what each stage cost, in the order of the stages."""
    longest = max((stage.seconds for stage in stages.values()), default=0.0) or 1.0
    return [
        Timing(
            title=stage_title(name),
            seconds=stage.seconds,
            fraction=stage.seconds / longest,
            peak_rss_bytes=stage.peak_rss_bytes,
        )
        for name, stage in stages.items()
    ]


def stage_title(name: str) -> str:
    """Return a stage's name in words; one that is not known is shown as it is.

    >>> stage_title("08_candidates_r2"), stage_title("07_queries"), stage_title("99_new")
    ('Candidate responses, round 2', 'Synthetic prompts', '99_new')
    """
    match = re.fullmatch(r"(?P<stage>.*?)(?:_r(?P<round>\d+))?", name)
    assert match, "the pattern fits every text"
    title = _TITLES.get(match["stage"], match["stage"])
    return title if match["round"] is None else f"{title}, round {match['round']}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
