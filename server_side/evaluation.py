"""Stage 13: judge the target on a public test set, untuned and tuned alike.

Both arms answer the same prompts with the same decoding and the same seed, and both are asked how
likely they find the reference responses. Higher is better for ROUGE and BLEU, lower for perplexity.

- `rouge1`, `rouge2`, `rougeL`: F-measures of `rouge_score`, 0 to 1, averaged over rows (and over
  the samples of a row). Its tokenizer keeps Latin letters and digits only, so text in other
  scripts scores 0; judge such text by BLEU and perplexity.
- `bleu`: corpus BLEU of `sacrebleu`, 0 to 100, over all samples. Its tokenizer parts words at
  spaces, so text of a script without them is judged by perplexity alone.
- `perplexity`: exp(mean negative log-likelihood of a reference token), the end of turn included.
- `distinct1`, `distinct2`: distinct n-grams ÷ n-grams of all answers of an arm; it falls when a
  model repeats itself. It depends on how much text there is, so compare arms of equal size only.
- `pass_at_k`, where rows have tests: answers are code, and run
  (`server_side/sandbox/code_tests.py`).

Intervals are percentile bootstraps over rows (`server_side/measuring/intervals.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

import numpy as np
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from lm.devices import best_device, resolve_dtype
from lm.encoding import EncodedChat, encode_chat
from lm.likelihood import response_nll_sums
from lm.loading import load_tokenizer
from lm.sampling import Completion, Sampler, SamplingParams
from lm.tables import TextRow
from protocol.errors import StageError
from server_side.config import EvaluationConfig
from server_side.measuring.intervals import (
    FloatArray,
    Formula,
    Interval,
    bootstrap_interval,
    paired_difference,
    perplexity_of_sums,
    ratio_of_sums,
)
from server_side.measuring.pass_rates import PassCount, pass_rates
from server_side.measuring.repetition import distinct_fraction
from server_side.measuring.row_naming import name_rows
from server_side.samples import OnProgress
from server_side.sandbox.code_tests import count_passing
from server_side.tuning.tuned_target import load_tuned_target


class Metric(StrEnum):
    """A figure by which an arm is judged."""

    ROUGE1 = "rouge1"
    ROUGE2 = "rouge2"
    ROUGEL = "rougeL"
    BLEU = "bleu"
    PERPLEXITY = "perplexity"


LOWER_IS_BETTER = frozenset({Metric.PERPLEXITY})
"""Metrics that improve as they fall."""

_ROUGE = (Metric.ROUGE1, Metric.ROUGE2, Metric.ROUGEL)
_MAX_BLEU_ORDER = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class RowScores:
    """What one test row adds to the metrics; sums over the samples of the row."""

    num_samples: int
    """Answers sampled for the row."""
    rouge: Mapping[Metric, float]
    """Summed F-measures of the answers."""
    bleu_statistics: tuple[int, ...]
    """Length of answers and references, then matches and n-grams of order 1 to 4."""
    nll_sum: float
    """Negative log-likelihood of the reference response, in nats."""
    num_tokens: int
    """Tokens of the reference response, the end of turn included."""
    row_id: str = ""
    """Names the row by what it says, so that runs which judged the same rows can be paired."""

    def rouge_mean(self, metric: Metric) -> float:
        """Return the mean F-measure of the row's answers."""
        return self.rouge[metric] / self.num_samples


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmScores:
    """How one arm did."""

    metrics: Mapping[Metric, Interval]
    """Each metric with its interval."""
    distinct: Mapping[int, float]
    """Distinct n-grams ÷ n-grams of all answers, by n."""
    unfinished_fraction: float
    """Share of answers that were cut at `max_new_tokens`."""
    mean_answer_words: float
    """Mean number of words of an answer."""
    rows: tuple[RowScores, ...] = field(repr=False)
    """Scores of each row, in the order of the rows."""
    answers: tuple[tuple[str, ...], ...] = field(repr=False)
    """What was sampled for each row."""
    pass_counts: tuple[PassCount, ...] = field(default=(), repr=False)
    """How many answers of each row pass its tests; empty where rows have none."""
    pass_at_k: Mapping[int, Interval] = field(default_factory=dict)
    """By k, the probability that one of k answers passes its row's tests; empty without tests."""


def evaluate_target(
    rows: Sequence[TextRow],
    *,
    target_folder: Path,
    adapter: Path | None,
    config: EvaluationConfig,
    instruction: str,
    open_sampler: Callable[[Path | None], Sampler],
    seed: int,
    on_progress: OnProgress | None = None,
) -> ArmScores:
    """Sample answers to the test prompts and score them, and the references, under one arm.

    Args:
        rows: Public test rows; none may stand in training (`lm.tables` drops such rows).
        target_folder: Folder of the untuned target model.
        adapter: Folder of the tuned target, an adapter or a whole model; None judges the untuned.
        config: Decoding, samples a prompt, intervals.
        instruction: System turn of every chat.
        open_sampler: Opens a sampling engine over the tuned target in that folder, or the untuned.
        seed: Seed of sampling and of the bootstrap; give both arms the same.
        on_progress: Told how many of the sampled and scored rows are done, of how many.

    Returns:
        Scores of the arm.

    Raises:
        StageError: There are no rows.
    """
    if not rows:
        raise StageError(
            "Expected at least one row to evaluate on, found none. Name a test file in "
            "evaluation.path, or lower what the overlap check drops."
        )
    tokenizer = load_tokenizer(target_folder)
    chats = [
        encode_chat(
            tokenizer,
            instruction=instruction,
            prompt=row.prompt,
            response=row.response,
            max_prompt_tokens=config.max_prompt_tokens,
            max_response_tokens=config.max_reference_tokens,
        )
        for row in rows
    ]
    num_units = (2 if config.tests_column is None else 3) * len(rows)
    completions = _sample_answers(
        chats,
        adapter=adapter,
        config=config,
        open_sampler=open_sampler,
        seed=seed,
        on_progress=on_progress and _part(on_progress, 0, len(rows), num_units),
    )
    nll_sums = _reference_nll_sums(
        chats,
        target_folder=target_folder,
        adapter=adapter,
        config=config,
        on_progress=on_progress and _part(on_progress, len(rows), len(rows), num_units),
    )
    scored = [
        score_answers(
            [completion.text for completion in answers],
            reference=row.response,
            nll_sum=nll_sum,
            num_tokens=chat.response_span[1] - chat.response_span[0],
            row_id=row_id,
        )
        for row, answers, nll_sum, chat, row_id in zip(
            rows, completions, nll_sums, chats, name_rows(rows), strict=True
        )
    ]
    pass_counts: tuple[PassCount, ...] = ()
    if config.tests_column is not None:
        pass_counts = count_passing(
            rows,
            [[completion.text for completion in answers] for answers in completions],
            config=config,
            on_progress=on_progress and _part(on_progress, 2 * len(rows), len(rows), num_units),
        )
    return summarize_arm(scored, completions, pass_counts=pass_counts, config=config, seed=seed)


def score_answers(
    answers: Sequence[str], *, reference: str, nll_sum: float, num_tokens: int, row_id: str = ""
) -> RowScores:
    """Compare the answers to one prompt with the reference response.

    Args:
        answers: Sampled answers, at least one; an empty one scores 0.
        reference: The test row's response.
        nll_sum: Negative log-likelihood of the reference under the arm, in nats.
        num_tokens: Tokens of the reference.
        row_id: Name of the row, from `name_rows`.

    Returns:
        What the row adds to the metrics.
    """
    scorer = RougeScorer([metric.value for metric in _ROUGE], use_stemmer=False)
    bleu = BLEU(max_ngram_order=_MAX_BLEU_ORDER)
    rouge = dict.fromkeys(_ROUGE, 0.0)
    bleu_statistics = np.zeros(2 + 2 * _MAX_BLEU_ORDER, dtype=np.int64)
    for answer in answers:
        scores = scorer.score(reference, answer)
        for metric in _ROUGE:
            rouge[metric] += scores[metric.value].fmeasure
        counted = bleu.corpus_score([answer], [[reference]])
        bleu_statistics += [counted.sys_len, counted.ref_len, *counted.counts, *counted.totals]
    return RowScores(
        num_samples=len(answers),
        rouge=MappingProxyType(rouge),
        bleu_statistics=tuple(bleu_statistics.tolist()),
        nll_sum=nll_sum,
        num_tokens=num_tokens,
        row_id=row_id,
    )


def summarize_arm(
    rows: Sequence[RowScores],
    completions: Sequence[Sequence[Completion]],
    *,
    pass_counts: tuple[PassCount, ...] = (),
    config: EvaluationConfig,
    seed: int,
) -> ArmScores:
    """Turn the scores of rows into metrics with intervals.

    Args:
        rows: Scores of each test row, at least one.
        completions: The sampled answers to each row, in the order of `rows`.
        pass_counts: How many of each row's answers pass its tests; empty where none were run.
        config: Which k of pass@k, and the intervals.
        seed: Seed of the bootstrap; two arms that are compared need the same.

    Returns:
        Scores of the arm.
    """
    answers = [completion for row in completions for completion in row]
    texts = [completion.text for completion in answers]
    return ArmScores(
        metrics=MappingProxyType(
            {
                metric: bootstrap_interval(
                    row_statistics(rows, metric),
                    metric_formula(metric),
                    num_resamples=config.num_resamples,
                    confidence_level=config.confidence_level,
                    seed=seed,
                )
                for metric in Metric
            }
        ),
        distinct=MappingProxyType({n: distinct_fraction(texts, n) for n in (1, 2)}),
        pass_at_k=pass_rates(pass_counts, config=config, seed=seed),
        unfinished_fraction=sum(not answer.is_finished for answer in answers) / len(answers),
        mean_answer_words=sum(len(text.split()) for text in texts) / len(texts),
        rows=tuple(rows),
        answers=tuple(tuple(completion.text for completion in row) for row in completions),
        pass_counts=pass_counts,
    )


def compare_arms(
    *, untuned: ArmScores, tuned: ArmScores, config: EvaluationConfig, seed: int
) -> Mapping[Metric, Interval]:
    """Return by how much the tuned arm exceeds the untuned one, row by row on the same prompts.

    Args:
        untuned: Scores of the target as it is.
        tuned: Scores of the tuned target on the same rows.
        config: Intervals.
        seed: Seed of the bootstrap.

    Returns:
        Tuned minus untuned for each metric, with the interval of the paired bootstrap. An interval
        that excludes 0 is a difference that the test rows bear out.
    """
    return MappingProxyType(
        {
            metric: paired_difference(
                first=row_statistics(untuned.rows, metric),
                second=row_statistics(tuned.rows, metric),
                formula=metric_formula(metric),
                num_resamples=config.num_resamples,
                confidence_level=config.confidence_level,
                seed=seed,
            )
            for metric in Metric
        }
    )


def _sample_answers(
    chats: Sequence[EncodedChat],
    *,
    adapter: Path | None,
    config: EvaluationConfig,
    open_sampler: Callable[[Path | None], Sampler],
    seed: int,
    on_progress: OnProgress | None,
) -> list[list[Completion]]:
    sampler = open_sampler(adapter)
    params = SamplingParams(
        max_new_tokens=config.max_new_tokens,
        num_candidates=config.samples_per_prompt,
        temperature=config.temperature,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
    )
    try:
        prefixes = [chat.response_prefix for chat in chats]
        return sampler.sample(prefixes, params, seed=seed, on_progress=on_progress)
    finally:
        sampler.close()


def _reference_nll_sums(
    chats: Sequence[EncodedChat],
    *,
    target_folder: Path,
    adapter: Path | None,
    config: EvaluationConfig,
    on_progress: OnProgress | None,
) -> list[float]:
    device = best_device()
    dtype = resolve_dtype(config.dtype, device)
    model = load_tuned_target(target_folder, adapter, dtype=dtype, device=device)
    return response_nll_sums(
        model, chats, max_batch_tokens=config.max_batch_tokens, on_progress=on_progress
    )


def row_statistics(rows: Sequence[RowScores], metric: Metric) -> FloatArray:
    """Return what each row adds to the sums that the metric's formula takes, (n, k)."""
    match metric:
        case Metric.PERPLEXITY:
            table = [(row.nll_sum, row.num_tokens) for row in rows]
        case Metric.BLEU:
            return np.array([row.bleu_statistics for row in rows], dtype=np.float64)
        case _:
            table = [(row.rouge[metric], row.num_samples) for row in rows]
    return np.array(table, dtype=np.float64)


def metric_formula(metric: Metric) -> Formula:
    """Return how a metric follows from the sums of `row_statistics`."""
    match metric:
        case Metric.PERPLEXITY:
            return perplexity_of_sums
        case Metric.BLEU:
            return _bleu_of_sums
        case _:
            return ratio_of_sums


def _bleu_of_sums(sums: FloatArray) -> FloatArray:
    flat = sums.reshape(-1, sums.shape[-1])
    scores = [
        BLEU.compute_bleu(
            correct=row[2 : 2 + _MAX_BLEU_ORDER],
            total=row[2 + _MAX_BLEU_ORDER :],
            sys_len=row[0],
            ref_len=row[1],
            smooth_method="exp",
            max_ngram_order=_MAX_BLEU_ORDER,
        ).score
        for row in np.rint(flat).astype(np.int64).tolist()
    ]
    return np.array(scores).reshape(sums.shape[:-1])


def _part(report: OnProgress, start: int, length: int, total: int) -> OnProgress:
    """Turn the progress of one half into progress of the whole, in rows."""
    return lambda done, of: report(start + length * done // max(1, of), total)
