"""A judge is asked nothing twice, also by another process, and another judge is asked all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from protocol.errors import StageError
from server_side.measuring.judge_memory import RememberingJudge
from server_side.measuring.win_rate import Choice, Question

PAIR = Question(prompt="Which?", first="this", second="that")
OTHER = Question(prompt="And now?", first="one", second="two")


class Asked:
    """A judge that notes what it is asked; about what stands in `silent_on` it says nothing."""

    def __init__(self, identity: str = "judge-1") -> None:
        self.name = identity
        self.identity = identity
        self.seen: list[Question] = []
        self.silent_on: set[str] = set()

    def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
        self.seen += questions
        return [
            None
            if question.prompt in self.silent_on
            else Choice.FIRST
            if question.first < question.second
            else Choice.SECOND
            for question in questions
        ]


def test_what_was_said_is_said_again_without_asking(tmp_path: Path) -> None:
    judge = Asked()
    path = tmp_path / "new" / "judged"
    first = RememberingJudge(judge, path=path).choose([PAIR, PAIR.swapped()])
    judge.seen.clear()

    again = RememberingJudge(judge, path=path).choose([OTHER, PAIR.swapped(), PAIR])

    assert first == [Choice.SECOND, Choice.FIRST]
    assert again == [Choice.FIRST, Choice.FIRST, Choice.SECOND]
    assert judge.seen == [OTHER]


def test_another_judge_is_asked_itself(tmp_path: Path) -> None:
    RememberingJudge(Asked(), path=tmp_path / "judged").choose([PAIR])
    other = Asked("judge-2")

    RememberingJudge(other, path=tmp_path / "judged").choose([PAIR])

    assert other.seen == [PAIR]


def test_a_question_without_a_usable_answer_is_asked_again(tmp_path: Path) -> None:
    judge = Asked()
    judge.silent_on = {PAIR.prompt}
    remembering = RememberingJudge(judge, path=tmp_path / "judged")
    before = remembering.choose([PAIR, OTHER])
    judge.silent_on = set()

    assert before == [None, Choice.FIRST]
    assert remembering.choose([PAIR, OTHER]) == [Choice.SECOND, Choice.FIRST]
    assert judge.seen == [PAIR, OTHER, PAIR]


def test_no_text_is_kept(tmp_path: Path) -> None:
    RememberingJudge(Asked(), path=tmp_path / "judged").choose(
        [Question(prompt="canary-17", first="canary-18", second="canary-19")]
    )

    assert b"canary" not in (tmp_path / "judged").read_bytes()


@pytest.mark.parametrize("found", [b"no database, but a file of somebody's\n" * 40, None])
def test_a_file_of_another_kind_is_left_alone(tmp_path: Path, found: bytes | None) -> None:
    path, judge = tmp_path / "judged", Asked()
    if found is None:
        path.mkdir()
    else:
        path.write_bytes(found)

    with pytest.raises(StageError, match="judge's answers can be kept"):
        RememberingJudge(judge, path=path).choose([PAIR])

    assert judge.seen == []
    assert path.is_dir() if found is None else path.read_bytes() == found
