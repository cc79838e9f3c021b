"""Judges of answers: a model in this process, or a chat endpoint over HTTP.

Both are asked the same question and answer with one letter. A local model is not sampled: the
letter that it finds likeliest counts. An endpoint speaks OpenAI's chat completions, as vLLM and
many providers do; what can pass (a broken connection, a time-out, 408, 429, 5xx, an answer that is
cut off) is tried again, a refusal is an error at once, and a reply without a letter counts as no
answer. The key comes from an environment variable and is neither logged nor stored.

A text reaches the judge as it was written, line breaks and indentation included: code means
something else without them. It is cut at a number of words; `_PIECE` says what counts as one.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import httpx
import torch
from transformers import PreTrainedTokenizerBase

from lm.devices import best_device, fastest_dtype
from lm.encoding import encode_chat
from lm.likelihood import response_nll_sums
from lm.loading import load_causal_lm, load_tokenizer
from lm.model_folders import base_model_digest, resolve_base_model
from lm.tables import TextRow
from protocol.errors import ConfigurationError, StageError
from server_side.config import EvaluationConfig, JudgeConfig
from server_side.evaluation import ArmScores
from server_side.measuring.judge_memory import RememberingJudge
from server_side.measuring.win_rate import (
    Choice,
    Judge,
    Question,
    RowVerdict,
    WinRate,
    judge_answers,
    summarize_verdicts,
)
from server_side.run_store import RunStore

VERDICTS_STAGE: Final = "13_verdicts"
"""Under what name the verdicts stand in the run folder."""

INSTRUCTION: Final = (
    "You compare two answers to a message. Judge how correct, helpful and clear they are; length "
    "and order do not count. Reply with one letter and nothing else: A if answer A is better, B if "
    "answer B is better, C if neither is."
)
"""System turn of every question."""

_LETTERS: Final = {"A": Choice.FIRST, "B": Choice.SECOND, "C": Choice.TIE}
_PIECE: Final = re.compile(r"\s{0,32}\S{1,32}|\s{1,32}")
"""What counts as a word, with the space before it. Every 32 characters of a longer one count anew,
and so do those of a longer space: a text in a script without spaces, or of line breaks, is bounded
as well."""
_BLANK_LINES: Final = re.compile(r"\A(?:[^\S\n]*\n)+")
_SAMPLE: Final = Question(
    prompt="\n  Add:\n\n\ttwo numbers.\n",
    first="def f(a, b):\n    return a + b",
    second="ab" * 200,
)
"""A question with all that rendering treats in a way of its own: lines, indentation, cuts."""
_SAMPLE_WORDS: Final = 4
_REPLY: Final = re.compile(r"\W*(?:answer\s+)?([ABC])\W*", re.IGNORECASE)
_PASSING_STATUSES: Final = frozenset({408, 429})
_MAX_REPLY_TOKENS: Final = 8
_MAX_SAID_CHARS: Final = 200
_MAX_PROMPT_TOKENS: Final = 4096
_MAX_BATCH_TOKENS: Final = 4096
_MAX_CONNECTIONS: Final = 8


def open_judge(config: JudgeConfig) -> Judge | None:
    """Return the judge that the settings name; None where there is none.

    Raises:
        ModelFolderError: A local judge's model cannot be found.
        ConfigurationError: An endpoint's key cannot be sent.
    """
    match config.kind:
        case "local":
            folder = resolve_base_model(config.model)
            return LocalJudge(folder, name=config.model, max_words=config.max_words)
        case "endpoint":
            assert config.url is not None, "checked by the settings"
            return EndpointJudge(
                name=config.model,
                url=config.url,
                api_key=_api_key(config.api_key_variable),
                timeout_seconds=config.timeout_seconds,
                num_attempts=config.num_attempts,
                max_words=config.max_words,
            )
    return None


def _api_key(variable: str) -> str | None:
    key = os.environ.get(variable, "").strip()  # a file that it was read from ends in a line break
    if not (key.isascii() and key.isprintable()):
        raise ConfigurationError(
            f"Expected the key of the judge's endpoint in the environment variable {variable}, "
            "found characters that no key has, such as accents or line breaks. Set it anew."
        )
    return key or None


def measure_win_rate(
    store: RunStore,
    rows: Sequence[TextRow],
    *,
    untuned: ArmScores,
    tuned: ArmScores,
    config: EvaluationConfig,
    seed: int,
) -> WinRate | None:
    """Ask the judge that the settings name, or read what the same judge said before.

    Args:
        store: The run folder.
        rows: The test rows that both arms answered.
        untuned: Scores of the target as it is.
        tuned: Scores of the tuned target, whose wins are counted.
        config: Who judges; intervals.
        seed: Seed of the bootstrap.

    Returns:
        The win rate; None where no judge is named.

    Raises:
        StageError: The judge cannot be asked.
        ConfigurationError: Its address is none, or its key cannot be sent.
        ModelFolderError: A local judge's model cannot be found.
    """
    judge = open_judge(config.judge)
    if judge is None:
        store.forget(VERDICTS_STAGE)
        return None
    # What it has answered stays answered, should it fail before the last question.
    judge = RememberingJudge(judge, path=store.folder / "work" / "judged.sqlite")
    if VERDICTS_STAGE in store.stages:
        known = store.read(VERDICTS_STAGE, RowVerdict)
        if any(verdict.judge != judge.identity for verdict in known):
            store.forget(VERDICTS_STAGE)
    verdicts = store.values(
        VERDICTS_STAGE,
        RowVerdict,
        partial(
            judge_answers,
            rows,
            incumbent=untuned,
            challenger=tuned,
            judge=judge,
            on_progress=store.advance,
        ),
    )
    return summarize_verdicts(
        verdicts,
        judge_name=judge.name,
        num_resamples=config.num_resamples,
        confidence_level=config.confidence_level,
        seed=seed,
    )


def render_question(question: Question, *, max_words: int) -> str:
    r"""Write a question as the judge's user turn; each of its texts is cut at `max_words`.

    Args:
        question: Prompt and two answers.
        max_words: Words of each text that are kept, a long one counted as several.

    Returns:
        The turn; the first answer stands in it as A, the second as B, and neither as C.

    >>> code = Question(prompt="Write f.", first="def f():\n    return 1", second="pass")
    >>> render_question(code, max_words=3).splitlines()[3:6]
    ['Answer A:', 'def f():', '    return']
    """
    prompt, first, second = (
        _first_words(text, max_words) for text in (question.prompt, question.first, question.second)
    )
    return (
        f"Message:\n{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n"
        "Which answer is better, A, B or C (neither)?"
    )


def _first_words(text: str, max_words: int) -> str:
    # Not `strip`: the first line's indentation is part of code.
    text = _BLANK_LINES.sub("", text.rstrip())
    pieces = islice(_PIECE.finditer(text), max_words)
    return "".join(piece[0] for piece in pieces).rstrip()


def parse_reply(reply: str) -> Choice | None:
    """Read a judge's reply; None unless it is one letter and little else.

    >>> parse_reply("Answer B."), parse_reply("A good question."), parse_reply("(c)")
    (<Choice.SECOND: 'second'>, None, <Choice.TIE: 'tie'>)
    """
    match = _REPLY.fullmatch(reply)
    return _LETTERS[match[1].upper()] if match else None


class LocalJudge:
    """A model of this machine, which says the letter that it finds likeliest."""

    def __init__(self, folder: Path, *, name: str, max_words: int) -> None:
        """Keep where the model is; it is loaded with the first question.

        Args:
            folder: Folder of the model.
            name: Name in metrics and report.
            max_words: Words of each text that it reads.
        """
        self.name = name
        self._folder = folder
        self._max_words = max_words
        self._model: torch.nn.Module | None = None

    @property
    def identity(self) -> str:
        """All that decides what it says; another model may come to lie under the same name."""
        return (
            f"local: {self.name}, model {self._digest}, {self._max_words} words, asked as "
            f"{_digest_of_asking()}"
        )

    @cached_property
    def _digest(self) -> str:  # of gigabytes, and asked for with each question
        return base_model_digest(self._folder)

    def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
        """Say for each question which answer is better."""
        tokenizer = load_tokenizer(self._folder)
        if self._model is None:
            device = best_device()
            dtype = fastest_dtype(device)
            self._model = load_causal_lm(self._folder, dtype=dtype, device=device)
        chats = [
            encode_chat(
                tokenizer,
                instruction=INSTRUCTION,
                prompt=text,
                response=letter,
                max_response_tokens=_MAX_REPLY_TOKENS,
            )
            for text in (self._fitting(tokenizer, question) for question in questions)
            for letter in _LETTERS
        ]
        sums = response_nll_sums(self._model, chats, max_batch_tokens=_MAX_BATCH_TOKENS)
        choices = list(_LETTERS.values())
        found: list[Choice | None] = []
        for start in range(0, len(sums), len(choices)):
            own = sums[start : start + len(choices)]
            found.append(choices[own.index(min(own))])
        return found

    def _fitting(self, tokenizer: PreTrainedTokenizerBase, question: Question) -> str:
        """Write a question so that all of it fits; where it must, all texts lose further words.

        To cut its tokens would take from the second answer alone, and the request for a letter.
        """
        max_words = self._max_words
        while True:
            text = render_question(question, max_words=max_words)
            chat = encode_chat(tokenizer, instruction=INSTRUCTION, prompt=text)
            if len(chat.prompt_ids) <= _MAX_PROMPT_TOKENS:
                return text
            max_words //= 2


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointJudge:
    """A chat model behind an OpenAI-style endpoint."""

    name: str
    """Name of the model, as the endpoint knows it."""
    url: str
    """Address to which `/chat/completions` is added, such as `http://127.0.0.1:8000/v1`."""
    api_key: str | None = field(default=None, repr=False)
    """Bearer token; None sends none."""
    timeout_seconds: float = 60.0
    """How long one reply may take."""
    num_attempts: int = 4
    """How often a question that failed in passing is asked in all."""
    backoff_seconds: float = 1.0
    """Pause before the second attempt; it doubles with each further one."""
    max_words: int = 250
    """Words of each text that it reads."""

    @property
    def identity(self) -> str:
        """All that decides what it says; the same model may be served elsewhere."""
        return f"endpoint: {self.name}, {self.max_words} words, asked as {_digest_of_asking()}"

    def choose(self, questions: Sequence[Question]) -> list[Choice | None]:
        """Say for each question which answer is better.

        Raises:
            StageError: The endpoint refuses, or cannot be reached in any attempt.
            ConfigurationError: The address is none.
        """
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        pool = ThreadPoolExecutor(max_workers=_MAX_CONNECTIONS)
        with httpx.Client(headers=headers, timeout=self.timeout_seconds) as client:
            try:
                return list(pool.map(lambda question: self._ask(client, question), questions))
            finally:
                # After an error nothing that waits is sent any more.
                pool.shutdown(cancel_futures=True)

    def _ask(self, client: httpx.Client, question: Question) -> Choice | None:
        body = {
            "model": self.name,
            "messages": [
                {"role": "system", "content": INSTRUCTION},
                {"role": "user", "content": render_question(question, max_words=self.max_words)},
            ],
            "temperature": 0.0,
            "max_tokens": _MAX_REPLY_TOKENS,
            "stream": False,
        }
        problem = ""
        for attempt in range(self.num_attempts):
            if attempt:
                time.sleep(self.backoff_seconds * 2 ** (attempt - 1))
            try:
                answer = client.post(f"{self.url.rstrip('/')}/chat/completions", json=body)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol):
                raise ConfigurationError(
                    "Expected the judge's address to be one such as http://127.0.0.1:8000/v1, got "
                    f"{self.url!r}. Change it."
                ) from None
            except httpx.HTTPError as error:
                problem = type(error).__name__
                continue
            if answer.status_code >= 500 or answer.status_code in _PASSING_STATUSES:
                problem = f"status {answer.status_code}"
                continue
            if answer.status_code != 200:
                raise StageError(
                    f"Expected the judge at {self.url} to take a question, got status "
                    f"{answer.status_code}{self._own_words(answer)}. See that the model "
                    f"{self.name!r} is served there, takes max_tokens and temperature, and that "
                    "the key is right."
                )
            try:
                return parse_reply(_reply_text(answer.json()))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                problem = f"an answer that is not whole ({type(error).__name__})"
        raise StageError(
            f"Expected the judge at {self.url} to answer, got {problem} in {self.num_attempts} "
            "attempts. See that it runs and can be reached from here."
        )

    def _own_words(self, answer: httpx.Response) -> str:
        """Return what an endpoint says of its refusal; not the key, which some repeat."""
        try:
            said = str(answer.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return ""
        if answer.status_code in (401, 403) or (self.api_key and self.api_key in said):
            return ""
        return f" ({' '.join(said.split())[:_MAX_SAID_CHARS]})"


def _digest_of_asking() -> str:
    """Return what changes with the instruction, or with how a question is written."""
    asked = (INSTRUCTION, render_question(_SAMPLE, max_words=_SAMPLE_WORDS))
    return hashlib.sha256("\0".join(asked).encode()).hexdigest()[:16]


def _reply_text(document: Any) -> str:  # decoded JSON
    content = document["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise TypeError
    return content
