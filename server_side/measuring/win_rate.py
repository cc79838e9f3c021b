"""How often a judge prefers one arm's answers to another's, row by row on the same prompts.

A judge likes what it is shown first, or last, so every pair is asked twice, the second time with
the answers swapped. What it says both times counts; where the two contradict each other, or where
it calls a tie, neither wins. A tie counts half, so a rate of 0.5 means no preference.

Judges stand in `server_side/measuring/judges.py`. They see public prompts and sampled answers,
nothing else.

Covers: position bias, ties, judges that do not answer (left out and counted).
Does not cover: a judge's taste for length or for its own style; an answer that talks to the judge,
or imitates the lines between the answers.

Reference: Zheng et al., "Judging LLM-as-a-Judge" (NeurIPS 2023), section 3.4 (swapping, ties).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import numpy as np

from lm.tables import TextRow
from server_side.evaluation import ArmScores
from server_side.measuring.intervals import (
    FloatArray,
    Interval,
    bootstrap_interval,
    ratio_of_sums,
)
from server_side.samples import OnProgress, StageResult

_LOGGER = logging.getLogger(__name__)
_AT_ONCE: Final = 64
"""Questions that a judge gets in one call, between two notes of progress."""


class Choice(StrEnum):
    """What a judge says about two answers."""

    FIRST = "first"
    """The first one is better."""
    SECOND = "second"
    """The second one is better."""
    TIE = "tie"
    """Neither is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """Two answers to a prompt, in the order in which the judge sees them."""

    prompt: str
    """What was asked."""
    first: str
    """One answer."""
    second: str
    """The other."""

    def swapped(self) -> Question:
        """Return the same pair the other way round."""
        return Question(prompt=self.prompt, first=self.second, second=self.first)


class Judge(Protocol):
    """Whoever can say which of two answers is better."""

    @property
    def name(self) -> str:
        """How the judge is called in metrics and report."""
        ...

    @property
    def identity(self) -> str:
        """All that decides what it says; where it changes, the judge is asked anew."""
        ...

    def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
        """Say for each question which answer is better; None where no usable answer came."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RowVerdict:
    """How one test row's pairs of answers were judged, from the challenger's side."""

    row_id: str
    """The row, as in `RowScores`."""
    judge: str
    """Identity of the judge."""
    num_wins: int
    """Pairs of which the challenger's answer was better both times."""
    num_ties: int
    """Pairs without a winner, contradictions included."""
    num_losses: int
    """Pairs of which the other answer was better both times."""
    num_contradictions: int
    """Ties because swapping the answers changed the winner."""
    num_unanswered: int
    """Pairs about which the judge said nothing usable, at least once; they do not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WinRate:
    """How often the challenger was preferred."""

    judge: str
    """Who judged."""
    rate: Interval | None
    """Wins and half the ties ÷ answered pairs, with a bootstrap interval over rows; None where the
    judge answered nothing."""
    num_wins: int
    """Pairs that the challenger won."""
    num_ties: int
    """Pairs without a winner, contradictions included."""
    num_losses: int
    """Pairs that it lost."""
    num_contradictions: int
    """Ties because swapping the answers changed the winner."""
    num_unanswered: int
    """Pairs about which the judge said nothing usable."""


def judge_answers(
    rows: Sequence[TextRow],
    *,
    incumbent: ArmScores,
    challenger: ArmScores,
    judge: Judge,
    on_progress: OnProgress | None = None,
) -> StageResult[RowVerdict]:
    """Ask a judge about every pair of answers, both ways round.

    Args:
        rows: The test rows that both arms answered.
        incumbent: One arm, such as the untuned target.
        challenger: The other, whose wins are counted; the i-th samples of a row make a pair.
        judge: Whom to ask.
        on_progress: Told how many questions are answered, of how many.

    Returns:
        One verdict a row.
    """
    pairs = [
        (index, Question(prompt=row.prompt, first=ours, second=theirs))
        for index, row in enumerate(rows)
        for ours, theirs in zip(challenger.answers[index], incumbent.answers[index], strict=True)
    ]
    questions = [asked for _, pair in pairs for asked in (pair, pair.swapped())]
    choices: list[Choice | None] = []
    for start in range(0, len(questions), _AT_ONCE):
        choices += judge.choose(questions[start : start + _AT_ONCE])
        if on_progress:
            on_progress(len(choices), len(questions))
    counts = [Counter[str]() for _ in rows]
    for (index, _), plain, swapped in zip(pairs, choices[::2], choices[1::2], strict=True):
        counts[index].update(_outcome(plain, swapped))
    verdicts = tuple(
        RowVerdict(
            row_id=scores.row_id,
            judge=judge.identity,
            num_wins=own["win"],
            num_ties=own["tie"],
            num_losses=own["loss"],
            num_contradictions=own["contradiction"],
            num_unanswered=own["unanswered"],
        )
        for scores, own in zip(challenger.rows, counts, strict=True)
    )
    unanswered = sum(verdict.num_unanswered for verdict in verdicts)
    return StageResult(
        values=verdicts, counts={"num_pairs": len(pairs), "num_unanswered": unanswered}
    )


def summarize_verdicts(
    verdicts: Sequence[RowVerdict],
    *,
    judge_name: str,
    num_resamples: int,
    confidence_level: float,
    seed: int,
) -> WinRate:
    """Turn verdicts into a win rate with its interval; there is none where nothing was answered.

    Args:
        verdicts: One for each row.
        judge_name: How the judge is called in metrics and report.
        num_resamples: Number of resamples, at least 1.
        confidence_level: Probability of the interval, in (0, 1).
        seed: Seed of the bootstrap.

    Returns:
        The win rate. Rows of which no pair was answered both ways round are not resampled.
    """
    statistics = verdict_statistics(verdicts)
    answered = statistics[statistics[:, 1] > 0]
    rate = None
    if len(answered):
        rate = bootstrap_interval(
            answered,
            ratio_of_sums,
            num_resamples=num_resamples,
            confidence_level=confidence_level,
            seed=seed,
        )
    else:
        _LOGGER.warning(
            "There is no win rate: the judge %s answered no question usably both ways round. "
            "Choose another evaluation.judge.model.",
            judge_name,
        )
    return count_verdicts(verdicts, judge_name=judge_name, rate=rate)


def verdict_statistics(verdicts: Sequence[RowVerdict]) -> FloatArray:
    """Return what each row adds to wins and half the ties, and to answered pairs, (n, 2)."""
    table = [
        (row.num_wins + row.num_ties / 2, row.num_wins + row.num_ties + row.num_losses)
        for row in verdicts
    ]
    return np.array(table, dtype=np.float64).reshape(-1, 2)


def count_verdicts(
    verdicts: Sequence[RowVerdict], *, judge_name: str, rate: Interval | None
) -> WinRate:
    """Put a win rate and the counts behind it together.

    Args:
        verdicts: One for each row, of one seed or of several.
        judge_name: How the judge is called in metrics and report.
        rate: The rate, computed from the same verdicts; None where the judge answered nothing.

    Returns:
        The rate, with pairs summed up over all rows.
    """
    return WinRate(
        judge=judge_name,
        rate=rate,
        num_wins=sum(row.num_wins for row in verdicts),
        num_ties=sum(row.num_ties for row in verdicts),
        num_losses=sum(row.num_losses for row in verdicts),
        num_contradictions=sum(row.num_contradictions for row in verdicts),
        num_unanswered=sum(row.num_unanswered for row in verdicts),
    )


def _outcome(plain: Choice | None, swapped: Choice | None) -> tuple[str, ...]:
    """Put both answers together; in the swapped question the challenger stands second."""
    if plain is None or swapped is None:
        return ("unanswered",)
    match plain, swapped:
        case Choice.FIRST, Choice.SECOND:
            return ("win",)
        case Choice.SECOND, Choice.FIRST:
            return ("loss",)
        case (Choice.FIRST, Choice.FIRST) | (Choice.SECOND, Choice.SECOND):
            return ("tie", "contradiction")
    return ("tie",)
