from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rouge_score.tokenizers import DefaultTokenizer

from lm.errors import TableError
from lm.tables import TextRow
from protocol.errors import ConfigurationError, StageError
from server_side.config import EvaluationConfig, ServerConfig, WarmStartConfig
from server_side.public_texts import (
    num_beyond_rouge,
    read_public_text,
    read_test_rows,
    warn_of_references_beyond_rouge,
)


def write_rows(file: Path, prompts: Sequence[str]) -> str:
    rows = [{"prompt": prompt, "response": "Rest and drink water."} for prompt in prompts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_public_text_that_repeats_a_test_prompt_falls_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Proxies that had learnt the test's answers would hand them on to the target."""
    public = write_rows(tmp_path / "public.jsonl", ["Is it  SAFE?", "a", "b", "c"])
    tests = write_rows(tmp_path / "test.jsonl", ["other", "another", "is it safe?"])
    warm_start = WarmStartConfig(path=public, max_rows=2)
    # Also those rows of the file that this run does not judge: another may.
    evaluation = EvaluationConfig(path=tests, max_rows=2)

    text = read_public_text(ServerConfig(warm_start=warm_start, evaluation=evaluation))

    assert [row.prompt for row in text.rows] == ["a", "b", "c"]
    assert text.counts == {
        "num_rows": 4, "num_unusable": 0, "num_in_test_set": 1, "num_surplus": 1, "num_kept": 2,
    }  # fmt: skip
    assert "1 of 4 rows" in caplog.text


def test_public_text_that_cannot_be_used_is_left_out_said_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    public = write_rows(tmp_path / "public.jsonl", ["a", " ", "b"])
    tests = write_rows(tmp_path / "test.jsonl", ["other", "another"])
    config = ServerConfig(
        warm_start=WarmStartConfig(path=public), evaluation=EvaluationConfig(path=tests)
    )

    text = read_public_text(config)

    assert (text.counts["num_rows"], text.counts["num_unusable"]) == (3, 1)
    assert f"1 rows of {public} cannot be used: 1 no_prompt." in caplog.text


def test_a_test_of_one_record_is_refused_for_no_interval_can_be_taken(tmp_path: Path) -> None:
    tests = write_rows(tmp_path / "test.jsonl", ["is it safe?"])

    with pytest.raises(TableError, match=r"at least 2 test records.* found 1 in "):
        read_test_rows(EvaluationConfig(path=tests))


@pytest.mark.parametrize(
    "text",
    [
        "Пейте воду и отдыхайте.",
        "多喝水，好好休息。",
        "اشرب الماء",
        "Take 2.",
        "服用3次",
        "ÉÀ ü",
        "ö p",
    ],
)
def test_what_rouge_sees_nothing_of_is_what_its_own_tokenizer_makes_no_word_of(text: str) -> None:
    rows = [TextRow(prompt="a", response=text)]

    assert num_beyond_rouge(rows) == (not DefaultTokenizer(False).tokenize(text))


@pytest.mark.parametrize(("num_foreign", "is_said"), [(2, False), (3, True)])
def test_a_test_of_which_rouge_sees_mostly_nothing_is_said_aloud(
    num_foreign: int, is_said: bool, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["Пейте воду."] * num_foreign + ["Drink water."] * (4 - num_foreign)

    warn_of_references_beyond_rouge([TextRow(prompt="a", response=text) for text in texts])

    assert ("3 of 4 test references" in caplog.text) == is_said
    assert ("Read BLEU and perplexity" in caplog.text) == is_said


def test_public_text_that_is_the_test_set_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "test.jsonl", ["a", "b"])
    config = ServerConfig(
        warm_start=WarmStartConfig(path=file), evaluation=EvaluationConfig(path=file)
    )

    with pytest.raises(StageError, match="all 2 prompts stand in it"):
        read_public_text(config)


def test_public_text_without_a_test_set_to_compare_with_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "public.jsonl", ["a"])

    with pytest.raises(ConfigurationError, match=r"evaluation\.path"):
        read_public_text(ServerConfig(warm_start=WarmStartConfig(path=file)))
