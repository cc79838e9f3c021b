"""Judges over real HTTP, and one of this machine: what is asked, and what is tried again."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lm.encoding import EncodedChat, encode_chat
from lm.loading import load_causal_lm, load_tokenizer
from lm.tables import TextRow
from protocol.errors import ConfigurationError, StageError
from server_side.config import EvaluationConfig, JudgeConfig
from server_side.measuring import judges, win_rate
from server_side.measuring.judges import (
    INSTRUCTION,
    EndpointJudge,
    LocalJudge,
    measure_win_rate,
    open_judge,
    parse_reply,
    render_question,
)
from server_side.measuring.win_rate import Choice, Question
from server_side.run_store import RunStore
from tests.support.arms import scores
from tests.support.chat_server import ChatServer

QUESTIONS = [
    Question(prompt=f"question {i}", first="a good one", second="a bad one") for i in range(5)
]


def _prefer_good(text: str) -> str:
    first, second = text.index("good"), text.index("bad")
    return "A" if first < second else "B."


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(_prefer_good) as running:
        yield running


def judge_at(server: ChatServer, **changes: object) -> EndpointJudge:
    values: dict[str, object] = {
        "name": "judge-1", "url": server.url, "backoff_seconds": 0.0, "timeout_seconds": 30.0
    }  # fmt: skip
    return EndpointJudge(**(values | changes))  # type: ignore[arg-type]


def test_an_endpoint_answers_in_the_order_of_the_questions(server: ChatServer) -> None:
    asked = [QUESTIONS[0], QUESTIONS[1].swapped(), QUESTIONS[2]]

    assert judge_at(server).choose(asked) == [Choice.FIRST, Choice.SECOND, Choice.FIRST]


def test_an_endpoint_is_asked_without_chance(server: ChatServer) -> None:
    judge_at(server).choose(QUESTIONS[:1])

    (body,) = server.requests
    assert body["model"] == "judge-1"
    assert body["temperature"] == 0.0
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    assert "question 0" in body["messages"][1]["content"]


@pytest.mark.parametrize("fault", ["drop", "cut", "empty", "408", "429", "500", "503"])
def test_what_can_pass_is_asked_again(server: ChatServer, fault: str) -> None:
    server.faults.append(fault)

    assert judge_at(server).choose(QUESTIONS[:1]) == [Choice.FIRST]
    assert len(server.requests) == 2


def test_an_answer_that_takes_too_long_is_asked_for_again(server: ChatServer) -> None:
    server.faults.append("slow")

    assert judge_at(server, timeout_seconds=0.2).choose(QUESTIONS[:1]) == [Choice.FIRST]
    assert len(server.requests) == 2


@pytest.mark.parametrize("fault", ["400", "401", "404"])
def test_a_refusal_is_an_error_at_once(server: ChatServer, fault: str) -> None:
    server.faults.append(fault)

    with pytest.raises(StageError, match=fault):
        judge_at(server).choose(QUESTIONS[:1])
    assert len(server.requests) == 1


@pytest.mark.parametrize(("fault", "is_quoted"), [("400", True), ("401", False)])
def test_a_refusal_is_told_in_the_endpoints_words_but_never_those_about_a_key(
    server: ChatServer, fault: str, is_quoted: bool
) -> None:
    server.faults.append(fault)

    with pytest.raises(StageError) as caught:
        judge_at(server).choose(QUESTIONS[:1])
    assert ("(told to fail)" in str(caught.value)) is is_quoted


def test_an_endpoint_that_stays_away_is_one_clear_error(server: ChatServer) -> None:
    server.faults.extend(["500"] * 3)

    with pytest.raises(StageError, match="status 500 in 3 attempts"):
        judge_at(server, num_attempts=3).choose(QUESTIONS[:1])


def test_a_reply_without_a_letter_is_no_answer() -> None:
    with ChatServer(lambda _: "Both have their merits.") as server:
        assert judge_at(server).choose(QUESTIONS[:2]) == [None, None]


def test_the_key_comes_from_the_environment_and_shows_nowhere(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", "key-of-the-test")
    config = JudgeConfig(
        kind="endpoint", model="judge-1", url=server.url, api_key_variable="MY_JUDGE_KEY"
    )
    server.faults.append("401")

    judge = open_judge(config)

    assert judge is not None
    with caplog.at_level(logging.DEBUG), pytest.raises(StageError) as caught:
        judge.choose(QUESTIONS[:1])
    assert server.keys == ["Bearer key-of-the-test"]
    for place in (repr(judge), repr(config), str(caught.value), caplog.text):
        assert "key-of-the-test" not in place


def test_space_around_a_key_is_not_sent(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARDDS_JUDGE_API_KEY", " key-of-the-test\n")
    judge = open_judge(JudgeConfig(kind="endpoint", model="judge-1", url=server.url))

    assert judge is not None
    judge.choose(QUESTIONS[:1])
    assert server.keys == ["Bearer key-of-the-test"]


@pytest.mark.parametrize("key", ["clé-of-the-test", "key\nof-the-test"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("MY_JUDGE_KEY", key)
    config = JudgeConfig(
        kind="endpoint", model="judge-1", url="http://judge.test", api_key_variable="MY_JUDGE_KEY"
    )

    with pytest.raises(ConfigurationError, match="environment variable MY_JUDGE_KEY") as caught:
        open_judge(config)
    assert "of-the-test" not in str(caught.value)


def test_without_a_key_none_is_sent(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REWARDDS_JUDGE_API_KEY", raising=False)
    judge = open_judge(JudgeConfig(kind="endpoint", model="judge-1", url=server.url))

    assert judge is not None
    judge.choose(QUESTIONS[:1])
    assert server.keys == [None]


def test_by_default_there_is_no_judge() -> None:
    assert open_judge(JudgeConfig()) is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kind": "oracle"}, "none, local, endpoint"),
        ({"kind": "local"}, "judge.model"),
        ({"kind": "endpoint", "model": "m"}, "judge.url"),
        ({"kind": "endpoint", "model": "m", "url": "localhost:8000"}, "judge.url"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
        ({"num_attempts": 0}, "num_attempts"),
    ],
)
def test_settings_that_name_no_judge_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        JudgeConfig(**changes)  # type: ignore[arg-type]


def test_long_texts_are_cut_alike() -> None:
    question = Question(prompt="p", first="x " * 500, second="y " * 500)

    text = render_question(question, max_words=20)

    assert text.count("x ") + text.count("x\n") == 20
    assert text.count("y ") + text.count("y\n") == 20


CODE = "    def double(x):\n        if x:\n\n            return 2 * x\n\treturn 0"


def test_code_reaches_the_judge_with_its_lines_and_indentation(server: ChatServer) -> None:
    asked = Question(prompt="good", first=f"\n \n{CODE}\n", second=f"bad\n{CODE}")

    judge_at(server).choose([asked])

    content = server.requests[0]["messages"][1]["content"]
    assert f"\n\nAnswer A:\n{CODE}\n\nAnswer B:\nbad\n{CODE}\n\n" in content


@pytest.mark.parametrize("unit", ["word ", "one\n    ", "a" * 31 + " ", "\u5b57" * 32, "\n" * 32])
def test_a_text_is_cut_after_so_many_words_whatever_stands_between_them(unit: str) -> None:
    """Characters without a space count as a word every 32, and so does space without characters."""
    question = Question(prompt="p", first=f"a {unit * 100}b", second=f"c {unit * 100}d")

    text = render_question(question, max_words=20)

    assert f"Answer A:\n{f'a {unit * 19}'.rstrip()}\n\nAnswer B" in text
    assert f"Answer B:\n{f'c {unit * 19}'.rstrip()}\n\nWhich" in text


def test_what_is_not_too_long_keeps_its_last_word() -> None:
    question = Question(prompt="p", first="one two\nthree", second="word " * 3)

    assert "one two\nthree\n\nAnswer B:\nword word word\n" in render_question(question, max_words=3)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A", Choice.FIRST),
        (" b.\n", Choice.SECOND),
        ("**C**", Choice.TIE),
        ("Answer A", Choice.FIRST),
        ("A good question.", None),
        ("", None),
        ("D", None),
    ],
)
def test_only_a_letter_is_a_reply(reply: str, expected: Choice | None) -> None:
    assert parse_reply(reply) is expected


def test_a_local_judge_says_the_letter_that_its_model_finds_likeliest(tiny_llama: Path) -> None:
    """The likelihood of each reply is worked out anew, one at a time and over all positions."""
    tokenizer = load_tokenizer(tiny_llama)
    model = load_causal_lm(tiny_llama)
    totals = []
    for letter in "ABC":
        chat = encode_chat(
            tokenizer,
            instruction=INSTRUCTION,
            prompt=render_question(QUESTIONS[0], max_words=20),
            response=letter,
            max_prompt_tokens=4096,
            max_response_tokens=8,
        )
        start, stop = chat.response_span
        ids = torch.tensor([chat.input_ids])
        with torch.inference_mode():
            logs = model(input_ids=ids).logits[0].log_softmax(dim=-1)
        totals.append(sum(float(logs[i - 1, ids[0, i]]) for i in range(start, stop)))

    (choice,) = LocalJudge(tiny_llama, name="tiny", max_words=20).choose(QUESTIONS[:1])

    assert choice is list(Choice)[totals.index(max(totals))]


def test_a_local_judge_answers_each_question_by_its_own_three_replies(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = [1.0, 2.0, 3.0, 3.0, 1.0, 2.0, 2.0, 3.0, 1.0]  # of A, B and C, for three questions
    monkeypatch.setattr(judges, "response_nll_sums", lambda *_, **__: sums)

    choices = LocalJudge(tiny_llama, name="tiny", max_words=20).choose([QUESTIONS[0]] * 3)

    assert choices == [Choice.FIRST, Choice.SECOND, Choice.TIE]


def test_a_local_judge_reads_both_answers_where_they_are_too_long_for_it(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut of the tokens would take the end alone: the second answer, and what is asked for."""
    seen: list[str] = []

    def remember(_: object, chats: list[EncodedChat], **__: object) -> list[float]:
        seen.extend(tokenizer.decode(chat.prompt_ids) for chat in chats)
        return [0.0] * len(chats)

    tokenizer = load_tokenizer(tiny_llama)
    monkeypatch.setattr(judges, "response_nll_sums", remember)
    asked = Question(prompt="p", first="\u5b57" * 8000, second="\u8bcd" * 8000)

    LocalJudge(tiny_llama, name="tiny", max_words=250).choose([asked])

    assert seen[0].endswith("A, B or C (neither)?")
    assert seen[0].count("\u5b57") == seen[0].count("\u8bcd") > 100


ROWS = [TextRow(prompt=f"question {i}", response="reference") for i in range(2)]


def _num_asked(server: ChatServer, folder: Path, **changes: object) -> int:
    """Measure the win rate in a run folder; return how many questions the judge got for it."""
    before = len(server.requests)
    judge = replace(JudgeConfig(kind="endpoint", model="judge-1", url=server.url), **changes)  # type: ignore[arg-type]
    arm = scores({"row0": 0.1, "row1": 0.1})
    with RunStore(folder, settings={}, seed=0) as store:
        measure_win_rate(
            store,
            ROWS,
            untuned=replace(arm, answers=(("bad",), ("bad",))),
            tuned=replace(arm, answers=(("good",), ("good",))),
            config=EvaluationConfig(judge=judge, num_resamples=10),
            seed=0,
        )
    return len(server.requests) - before


def test_a_judge_is_not_asked_again_where_the_same_would_be_asked(
    server: ChatServer, tmp_path: Path
) -> None:
    assert _num_asked(server, tmp_path) == 4
    assert _num_asked(server, tmp_path, timeout_seconds=30.0) == 0


def test_what_a_judge_answered_before_it_failed_is_not_asked_again(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(win_rate, "_AT_ONCE", 2)

    def choose_and_fail_later(self: EndpointJudge, questions: list[Question]) -> list[Choice]:
        if questions[0].prompt != ROWS[0].prompt:
            raise StageError("Out of order.")
        return [Choice.TIE] * len(questions)

    with monkeypatch.context() as patch:
        patch.setattr(EndpointJudge, "choose", choose_and_fail_later)
        with pytest.raises(StageError, match="Out of order"):
            _num_asked(server, tmp_path)

    assert _num_asked(server, tmp_path) == 2


def _ask_otherwise(render: Callable[..., str]) -> Callable[..., str]:
    return lambda question, *, max_words: f"{render(question, max_words=max_words)} Think first."


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("INSTRUCTION", "Say A, B or C."),
        ("render_question", _ask_otherwise(render_question)),
        ("_first_words", lambda text, max_words: " ".join(text.split()[:max_words])),
        ("_first_words", lambda text, max_words: text[:max_words]),
    ],
)
def test_verdicts_on_what_was_asked_otherwise_are_not_read_back(
    server: ChatServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changed: object,
) -> None:
    _num_asked(server, tmp_path)
    server.reply = lambda _: "A"
    monkeypatch.setattr(judges, name, changed)

    assert _num_asked(server, tmp_path) == 4


def test_identities_of_both_kinds_of_judge_change_with_the_instruction(
    server: ChatServer, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (judge_at(server), LocalJudge(tiny_llama, name="tiny", max_words=20))
    before = [judge.identity for judge in both]
    assert [judge.identity for judge in both] == before

    monkeypatch.setattr(judges, "INSTRUCTION", "Say A, B or C.")

    assert not set(before) & {judge.identity for judge in both}


def test_another_model_under_the_same_name_is_another_judge(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """What the first one said is not read back as the second one's verdict."""
    folder = Path(shutil.copytree(tiny_llama, tmp_path / "judge"))
    before = LocalJudge(folder, name="judge", max_words=20).identity
    assert LocalJudge(tiny_llama, name="judge", max_words=20).identity == before

    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")

    assert LocalJudge(folder, name="judge", max_words=20).identity != before
