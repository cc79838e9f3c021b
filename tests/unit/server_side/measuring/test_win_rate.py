"""A judge is asked both ways round, and contradictions are ties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from lm.tables import TextRow
from server_side.evaluation import ArmScores
from server_side.measuring.win_rate import (
    Choice,
    Question,
    RowVerdict,
    WinRate,
    judge_answers,
    summarize_verdicts,
)
from tests.support.arms import scores

ROWS = [TextRow(prompt=f"question {i}", response="reference") for i in range(4)]


class ScriptedJudge:
    name = identity = "scripted"

    def __init__(self, choose: Callable[[Question], Choice | None]) -> None:
        self._choose = choose
        self.asked: list[Question] = []

    def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
        self.asked += questions
        return [self._choose(question) for question in questions]


def answers(*texts: str) -> ArmScores:
    base = scores({f"row{i}": 0.1 for i in range(len(ROWS))})
    return replace(base, answers=tuple(texts for _ in ROWS))


def verdicts_of(judge: ScriptedJudge) -> tuple[RowVerdict, ...]:
    found = judge_answers(
        ROWS, incumbent=answers("old", "old2"), challenger=answers("new", "new2"), judge=judge
    )
    return found.values


def rate(verdicts: Sequence[RowVerdict]) -> WinRate:
    return summarize_verdicts(
        verdicts, judge_name="scripted", num_resamples=100, confidence_level=0.95, seed=0
    )


def test_every_pair_is_asked_both_ways_round() -> None:
    judge = ScriptedJudge(lambda _: Choice.TIE)

    verdicts_of(judge)

    assert len(judge.asked) == 4 * 2 * 2
    assert judge.asked[1] == judge.asked[0].swapped()
    assert {(q.first, q.second) for q in judge.asked} == {
        ("new", "old"), ("old", "new"), ("new2", "old2"), ("old2", "new2"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prefers", "expected"),
    [("new", (8, 0, 0)), ("old", (0, 0, 8))],
)
def test_a_judge_that_means_what_it_says_decides(
    prefers: str, expected: tuple[int, int, int]
) -> None:
    judge = ScriptedJudge(lambda q: Choice.FIRST if q.first.startswith(prefers) else Choice.SECOND)

    found = rate(verdicts_of(judge))

    assert (found.num_wins, found.num_ties, found.num_losses) == expected
    assert found.rate is not None
    assert found.rate.mean == (1.0 if prefers == "new" else 0.0)


@pytest.mark.parametrize("always", [Choice.FIRST, Choice.SECOND])
def test_a_judge_that_looks_at_the_place_alone_gives_ties(always: Choice) -> None:
    found = rate(verdicts_of(ScriptedJudge(lambda _: always)))

    assert (found.num_wins, found.num_ties, found.num_losses) == (0, 8, 0)
    assert found.num_contradictions == 8
    assert found.rate is not None
    assert found.rate.mean == 0.5


def test_a_tie_one_way_round_is_a_tie() -> None:
    judge = ScriptedJudge(lambda q: Choice.FIRST if q.first.startswith("new") else Choice.TIE)

    found = rate(verdicts_of(judge))

    assert found.num_ties == 8
    assert found.num_contradictions == 0


def test_what_the_judge_does_not_answer_is_left_out_and_counted() -> None:
    """It prefers the challenger in row 0 and is silent on the others, once of the two times."""
    judge = ScriptedJudge(
        lambda q: (
            None
            if q.prompt != "question 0" and q.first.startswith("old")
            else (Choice.FIRST if q.first.startswith("new") else Choice.SECOND)
        )
    )

    found = rate(verdicts_of(judge))

    assert found.num_unanswered == 6
    assert found.rate is not None
    assert found.rate.mean == 1.0
    assert found.num_wins == 2


def test_a_judge_that_never_answers_gives_no_rate_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    found = rate(verdicts_of(ScriptedJudge(lambda _: None)))

    assert found.rate is None
    assert found.num_unanswered == 8
    assert "evaluation.judge.model" in caplog.text
