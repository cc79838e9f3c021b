"""Settings of stage 13: judgement of the target."""

from __future__ import annotations

from dataclasses import dataclass, field

from server_side.config.checks import (
    require,
    require_choice,
    require_counts,
    require_positive,
)
from server_side.config.choices import DTYPES, ENGINES
from server_side.config.sampling import SamplingConfig

MIN_TEST_ROWS = 2
"""Fewest test records of which an interval can be taken."""
_MIN_MEMORY_BYTES = 64 * 1024 * 1024
_SECONDS_OF_A_DAY = 24 * 60 * 60

JUDGES = ("none", "local", "endpoint")
"""Who may compare the answers of two arms."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Pairwise comparison of the untuned and the tuned target's answers; off by default."""

    kind: str = "none"
    """Who judges: none, local (a model of this machine) or endpoint (OpenAI-style, over HTTP)."""
    model: str = ""
    """Folder or hub name of a local judge, or the name under which the endpoint knows it."""
    url: str | None = None
    """Address to which `/chat/completions` is added, such as http://127.0.0.1:8000/v1."""
    api_key_variable: str = "REWARDDS_JUDGE_API_KEY"
    """Environment variable that holds the endpoint's key; the key itself stands in no file."""
    timeout_seconds: float = 60.0
    """How long one reply may take."""
    num_attempts: int = 4
    """How often a question that failed in passing is asked in all."""
    max_words: int = 250
    """Words of each text that the judge reads; every 32 characters of a longer one count anew."""

    def __post_init__(self) -> None:
        require_choice("evaluation.judge.kind", self.kind, JUDGES)
        require_counts("evaluation.judge", self, "num_attempts", "max_words")
        require_positive("evaluation.judge", self, "timeout_seconds")
        if self.kind != "none":
            require(bool(self.model), "evaluation.judge.model", "a model", "nothing")
        if self.kind == "endpoint":
            is_address = (self.url or "").startswith(("http://", "https://"))
            expected = "the http:// or https:// address of an OpenAI-style endpoint"
            require(is_address, "evaluation.judge.url", expected, self.url)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(SamplingConfig):
    """Stage 13: the target before and after, on public test records."""

    path: str | None = None
    """JSON lines, CSV or parquet file with public test records, or a `datasets` name."""
    split: str | None = None
    """Split of a `datasets` name."""
    prompt_column: str | None = None
    """Column with the prompt; None infers it from known names."""
    response_column: str | None = None
    """Column with the reference response; None infers it from known names."""
    instruction: str | None = None
    """System turn of the test; None takes the clients' own, where all have the same."""
    max_rows: int | None = 80
    """Rows to judge, the first ones, at least 2; None takes all."""
    samples_per_prompt: int = 1
    """Answers to each prompt, whose metrics are averaged; the same decoding for every arm."""
    repetition_penalty: float = 1.1
    """Weakens tokens that occurred before; 1 is none."""
    max_prompt_tokens: int = 256
    """A longer prompt is cut."""
    max_reference_tokens: int = 320
    """A longer reference is cut before its perplexity is taken."""
    max_batch_tokens: int = 2048
    """Tokens, padding included, that go through the model at once."""
    dtype: str = "auto"
    """In what the target's weights are held while it reads the references, for perplexity: float32,
    bfloat16, or auto for what is fastest on the device, in which answers are always sampled."""
    num_resamples: int = 2000
    """Bootstrap resamples behind an interval."""
    confidence_level: float = 0.95
    """Share of resamples that an interval covers."""
    tests_column: str | None = None
    """Column with the tests of a row, a list of Python texts with asserts; None runs nothing."""
    pass_k: list[int] = field(default_factory=lambda: [1])
    """The k of pass@k, at most `samples_per_prompt` each; used where a tests column is named."""
    execution_seconds: int = 5
    """Time on a processor for an answer with all its tests; on the clock, four times that."""
    execution_memory_bytes: int = 512 * 1024 * 1024
    """Address space of an answer with its tests."""
    engine: str = "auto"
    """Sampling engine: auto, openvino, transformers or vllm."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Who compares both arms' answers pair by pair."""

    def __post_init__(self) -> None:
        self.check("evaluation")
        require_counts(
            "evaluation",
            self,
            "samples_per_prompt",
            "max_prompt_tokens",
            "max_reference_tokens",
            "max_batch_tokens",
            "num_resamples",
        )
        limits = "a whole number from 1 to 10^6"
        require(self.num_resamples <= 10**6, "evaluation.num_resamples", limits, self.num_resamples)
        if self.max_rows is not None:
            require(
                self.max_rows >= MIN_TEST_ROWS,
                "evaluation.max_rows",
                f"a whole number >= {MIN_TEST_ROWS}, of which an interval can be taken, or null",
                self.max_rows,
            )
        require_choice("evaluation.dtype", self.dtype, DTYPES)
        require_counts("evaluation", self, "execution_seconds", "execution_memory_bytes")
        require(
            self.execution_seconds <= _SECONDS_OF_A_DAY,
            "evaluation.execution_seconds",
            f"at most {_SECONDS_OF_A_DAY}, a day",
            self.execution_seconds,
        )
        ks = self.pass_k
        require(
            bool(ks) and len(set(ks)) == len(ks),
            "evaluation.pass_k",
            "a list of different numbers",
            ks,
        )
        require(
            all(1 <= k <= self.samples_per_prompt for k in ks),
            "evaluation.pass_k",
            f"numbers from 1 to evaluation.samples_per_prompt={self.samples_per_prompt}",
            ks,
        )
        require(
            _MIN_MEMORY_BYTES <= self.execution_memory_bytes <= 10**12,
            "evaluation.execution_memory_bytes",
            f"at least {_MIN_MEMORY_BYTES}, which Python itself needs, and at most 10^12",
            self.execution_memory_bytes,
        )
        level = self.confidence_level
        require(0 < level < 1, "evaluation.confidence_level", "0 < value < 1", level)
        require_choice("evaluation.engine", self.engine, ENGINES)
