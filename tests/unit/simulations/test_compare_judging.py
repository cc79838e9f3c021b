"""A judge between arms: who is asked about what, what is counted, and what a failure costs."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lm.tables import TextRow
from protocol.errors import StageError
from server_side.measuring.comparing import (
    UNTUNED,
    ArmRun,
    ComparingConfig,
    Comparison,
    compare_runs,
)
from server_side.measuring.row_naming import name_rows
from server_side.measuring.win_rate import Choice, Question
from simulations import compare
from simulations.compare import main
from simulations.compare_judging import ArmVerdict, judge_arms, read_asked
from tests.support.arms import run_of
from tests.support.chat_server import ChatServer
from tests.support.compared_runs import write_run

CONFIG = ComparingConfig(reference="base", num_resamples=100, num_permutations=9)
FEW = ["--reference=base", "--resamples=50", "--permutations=99"]


class FakeJudge:
    """Prefers what is called good to what is called bad, and is silent about what is odd."""

    name = "fake"
    identity = "fake"

    def __init__(self, *, always: Choice | None = None) -> None:
        self.always = always
        self.asked: list[Question] = []

    def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
        self.asked += questions
        return [self._choice(question) for question in questions]

    def _choice(self, question: Question) -> Choice | None:
        if "odd" in (question.first, question.second):
            return None
        if self.always or question.first == question.second:
            return self.always or Choice.TIE
        return Choice.FIRST if question.first == "good" else Choice.SECOND


def run_with(
    arm: str, answers: Mapping[str, str], *, seed: int = 1, untuned: str = "bad"
) -> ArmRun:
    """Return a run with one answer to each row; where it is good its ROUGE is 1, else 0."""
    run = run_of(arm, {row: float(text == "good") for row, text in answers.items()}, seed=seed)
    texts = tuple((text,) for text in answers.values())
    return replace(
        run,
        tuned=replace(run.tuned, answers=texts),
        untuned=replace(run.untuned, answers=tuple((untuned,) for _ in texts)),
    )


def asked_of(*rows: str) -> dict[str, TextRow]:
    return {row: TextRow(prompt=f"prompt {row}", response="reference") for row in rows}


def judged(
    runs: Sequence[ArmRun],
    judge: FakeJudge,
    *,
    config: ComparingConfig = CONFIG,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, ArmVerdict], Comparison]:
    comparison = compare_runs(runs, config=config)
    asked = asked_of(*(name for own in comparison.row_ids.values() for name in own))
    found = judge_arms(runs, comparison, asked=asked, judge=judge, on_progress=on_progress)
    return found, comparison


def test_a_win_rate_is_over_all_rows_and_seeds_with_half_the_ties_and_no_unusable_ones() -> None:
    """Seed 1: a win, a loss, a tie and a pair without answer, 1.5 of 3; seed 2: four wins of 4."""
    bad = dict.fromkeys("abcd", "bad")
    runs = [
        run_with("base", {"a": "bad", "b": "good", "c": "good", "d": "bad"}),
        run_with("other", {"a": "good", "b": "bad", "c": "good", "d": "odd"}),
        run_with("base", bad, seed=2),
        run_with("other", dict.fromkeys("abcd", "good"), seed=2),
    ]

    found, _ = judged(runs, FakeJudge())

    verdict, total = found["other"], found["other"].total
    counts = (total.num_wins, total.num_ties, total.num_losses, total.num_unanswered)
    assert counts == (5, 1, 1, 1)
    assert total.rate is not None
    assert total.rate.mean == pytest.approx(5.5 / 7)
    assert verdict.by_seed == pytest.approx({1: 0.5, 2: 1.0})
    assert verdict.num_seeds_ahead == 1


def test_an_interval_is_that_of_any_measure_with_these_rows() -> None:
    """Where the base is always bad, an arm wins by 1 where its ROUGE is 1, and else ties by 1/2."""
    rows = "abcdefgh"
    runs = []
    for seed, answers in ((1, "gbgggbbg"), (2, "bbbgbbgb")):
        texts = {"g": "good", "b": "bad"}
        runs.append(run_with("base", dict.fromkeys(rows, "bad"), seed=seed))
        own = {row: texts[letter] for row, letter in zip(rows, answers, strict=True)}
        runs.append(run_with("other", own, seed=seed))

    found, comparison = judged(runs, FakeJudge())

    rate = found["other"].total.rate
    (arm,) = (arm for arm in comparison.arms if arm.arm == "other")
    value = arm.figures["rougeL"].value
    assert rate is not None
    expected = (0.5 + value.mean / 2, 0.5 + value.low / 2, 0.5 + value.high / 2)
    assert (rate.mean, rate.low, rate.high) == pytest.approx(expected)


def test_every_arm_is_judged_beside_the_reference_and_the_untuned_target_too() -> None:
    runs = [run_with(name, {"a": "good", "b": "good"}) for name in ("base", "one", "two")]

    found, _ = judged(runs, FakeJudge())

    assert list(found) == [UNTUNED, "one", "two"]
    assert found[UNTUNED].total.num_losses == 2
    assert found["one"].total.num_ties == 2


def test_the_untuned_target_can_be_the_reference() -> None:
    runs = [run_with(name, {"a": "good", "b": "bad"}) for name in ("one", "two")]

    found, _ = judged(runs, FakeJudge(), config=replace(CONFIG, reference=UNTUNED))

    assert list(found) == ["one", "two"]
    assert (found["two"].total.num_wins, found["two"].total.num_ties) == (1, 1)


def test_answers_are_paired_by_row_with_its_prompt_whatever_their_order() -> None:
    judge = FakeJudge()
    runs = [
        run_with("base", {"a": "good", "b": "bad"}),
        run_with("other", {"b": "bad", "a": "good"}),
    ]

    found, _ = judged(runs, judge)

    assert found["other"].total.num_ties == 2
    about_other = judge.asked[-4:]
    assert [question.prompt for question in about_other] == ["prompt a"] * 2 + ["prompt b"] * 2


def test_rows_and_seeds_that_not_all_arms_have_are_not_asked_about() -> None:
    judge = FakeJudge()
    runs = [
        run_with("base", {"a": "bad", "b": "bad"}),
        run_with("base", {"a": "bad"}, seed=2),
        run_with("other", {"a": "good"}),
    ]

    found, _ = judged(runs, judge)

    assert found["other"].total.num_wins == 1
    assert {question.prompt for question in judge.asked} == {"prompt a"}


def test_a_judge_that_likes_what_stands_first_prefers_nobody() -> None:
    runs = [
        run_with("base", {"a": "bad", "b": "bad"}),
        run_with("other", {"a": "good", "b": "bad"}),
    ]

    found, _ = judged(runs, FakeJudge(always=Choice.FIRST))

    total = found["other"].total
    assert (total.num_wins, total.num_ties, total.num_contradictions) == (0, 2, 2)
    assert total.rate is not None
    assert total.rate.mean == 0.5


def test_a_judge_that_says_nothing_usable_gives_no_rate_and_is_counted() -> None:
    runs = [run_with("base", {"a": "odd", "b": "odd"}), run_with("other", {"a": "bad", "b": "bad"})]

    found, _ = judged(runs, FakeJudge())

    verdict = found["other"]
    assert verdict.total.rate is None
    assert verdict.total.num_unanswered == 2
    assert math.isnan(verdict.by_seed[1])
    assert verdict.num_seeds_ahead == 0


def test_progress_counts_all_questions_of_all_arms_and_seeds() -> None:
    runs = [
        run_with(name, {"a": "good", "b": "bad"}, seed=seed)
        for name in ("base", "other")
        for seed in (1, 2)
    ]
    told: list[tuple[int, int]] = []

    judged(runs, FakeJudge(), on_progress=lambda done, total: told.append((done, total)))

    assert told == [(4, 16), (8, 16), (12, 16), (16, 16)]


def test_a_row_whose_prompt_is_lost_is_one_clear_error() -> None:
    runs = [
        run_with("base", {"a": "bad", "b": "bad"}),
        run_with("other", {"a": "good", "b": "bad"}),
    ]
    comparison = compare_runs(runs, config=CONFIG)

    with pytest.raises(StageError, match=r"all 2 compared rows .* found 1 missing"):
        judge_arms(runs, comparison, asked=asked_of("a"), judge=FakeJudge())


ASKED = [TextRow(prompt=f"question {i}", response="reference") for i in range(3)]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Make two arms and seeds, of which one answers well and the other badly."""
    for seed in (1, 2):
        for name, text in (("base", "bad"), ("other", "good")):
            run = run_with(name, dict.fromkeys(name_rows(ASKED), text), seed=seed)
            write_run(tmp_path / "sweep" / f"{name}{seed}", run, asked=ASKED)
    return tmp_path / "sweep"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    def reply(text: str) -> str:
        answers = text.partition("Answer A:")[2]
        if "good" not in answers:
            return "C"
        return "A" if answers.index("good") < answers.index("bad") else "B"

    with ChatServer(reply) as running:
        yield running


def test_test_records_are_read_under_the_names_that_scores_have(sweep: Path) -> None:
    asked = read_asked([sweep / "base1", sweep / "other2"])

    assert asked == dict(zip(name_rows(ASKED), ASKED, strict=True))


def test_an_endpoint_is_asked_with_the_key_of_the_environment_about_public_text_alone(
    sweep: Path,
    server: ChatServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REWARDDS_JUDGE_API_KEY", "key-of-the-test")

    main([str(sweep), *FEW, "--judge-url", server.url, "--judge-model", "judge-1"])

    shown = capsys.readouterr()
    assert set(server.keys) == {"Bearer key-of-the-test"}
    assert "key-of-the-test" not in shown.out + shown.err
    assert {body["model"] for body in server.requests} == {"judge-1"}
    assert len(server.requests) == 2 * 2 * 2 * 3  # arms, seeds, orders, rows
    (own,) = [line.split() for line in shown.out.splitlines() if "  6 " in line and "other" in line]
    assert own == ["other", "1.000", "6", "0", "0", "0", "2/2"]
    assert "Judge: judge-1, on public test prompts and sampled answers." in shown.out
    assert "asking the judge" in shown.err
    assert "asking the judge" not in shown.out


def test_files_hold_the_win_rates_as_well(sweep: Path, server: ChatServer, tmp_path: Path) -> None:
    main(
        [str(sweep), *FEW, "--judge-url", server.url, "--judge-model", "judge-1",
         "--csv", f"{tmp_path}/a.csv", "--markdown", f"{tmp_path}/a.md"]
    )  # fmt: skip

    with (tmp_path / "a.csv").open(newline="") as file:
        lines = {(line["arm"], line["metric"]): line for line in csv.DictReader(file)}
    own = lines["other", "win_rate"]
    assert [own[name] for name in ("value", "value_low", "value_high")] == ["1.0"] * 3
    assert [own[f"num_{name}"] for name in ("wins", "ties", "losses", "unanswered")] == [
        "6", "0", "0", "0"
    ]  # fmt: skip
    assert (own["judge"], own["by_seed"], own["reference"]) == ("judge-1", "1.0 1.0", "base")
    assert ("base", "win_rate") not in lines
    assert lines["other", "rougeL"]["judge"] == ""
    text = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert "**win rate** against base" in text
    assert "| other | 1.000<br>1.000 to 1.000 | 6 | 0 | 0 | 0 | 2/2 |" in text


def test_a_judge_that_cannot_be_asked_costs_neither_tables_nor_files(
    sweep: Path, server: ChatServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults.extend(["401"] * 64)

    with pytest.raises(SystemExit, match=r"status 401\. .* but the win rate is shown") as caught:
        main(
            [str(sweep), *FEW, "--judge-url", server.url, "--judge-model", "judge-1",
             "--csv", f"{tmp_path}/a.csv", "--markdown", f"{tmp_path}/a.md"]
        )  # fmt: skip

    assert len(str(caught.value).splitlines()) == 1
    assert "rougeL, higher is better" in capsys.readouterr().out
    assert "win_rate" not in (tmp_path / "a.csv").read_text(encoding="utf-8")
    assert "**rougeL**" in (tmp_path / "a.md").read_text(encoding="utf-8")


def test_a_judge_that_failed_halfway_is_asked_the_rest_and_then_nothing(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class FailsOnGood(FakeJudge):
        """Judges the untuned target's answers, which come first, and then fails."""

        def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
            if "good" in (questions[0].first, questions[0].second):
                raise StageError("Out of order.")
            return super().choose(questions)

    judges = [FailsOnGood(), FakeJudge(), FakeJudge()]
    opened = iter(judges)
    monkeypatch.setattr(compare, "open_judge", lambda _: next(opened))
    words = [str(sweep), *FEW, "--judge-model", "fake", "--judged", f"{tmp_path}/judged"]

    with pytest.raises(SystemExit, match=r"Out of order\."):
        main(words)
    main(words)
    main(words)

    before, rest, nothing = (judge.asked for judge in judges)
    assert {(question.first, question.second) for question in before} == {("bad", "bad")}
    assert {frozenset((question.first, question.second)) for question in rest} == {
        frozenset(("good", "bad"))
    }
    assert nothing == []
    assert capsys.readouterr().out.count("Judge: fake, on public") == 2


def test_a_local_judge_that_is_not_there_is_said_after_the_tables(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"found nothing at .*nowhere.* is shown above"):
        main([str(sweep), *FEW, "--judge-model", f"{tmp_path}/nowhere"])

    assert "rougeL, higher is better" in capsys.readouterr().out


def test_a_model_of_this_machine_can_judge(
    sweep: Path, tiny_llama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(sweep), *FEW, "--judge-model", str(tiny_llama)])

    assert "win rate against base, higher is better" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--judge-url", "http://127.0.0.1:1/v1"], "--judge-model NAME"),
        (["--judged", "file"], "--judge-model NAME"),
        (["--judge-url", "localhost:8000", "--judge-model", "m"], "http:// or https:// address"),
    ],
)
def test_words_that_name_no_judge_are_refused_before_anything_is_read(
    words: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["nowhere", *words])

    assert caught.value.code == 2
    assert named in capsys.readouterr().err
