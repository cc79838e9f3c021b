import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from lm.sampling import Completion, SamplingParams
from lm.tables import TextRow
from protocol.errors import StageError
from server_side.config import EvaluationConfig, FinetuningConfig
from server_side.evaluation import (
    ArmScores,
    Metric,
    RowScores,
    compare_arms,
    evaluate_target,
    score_answers,
    summarize_arm,
)
from server_side.finetuning import finetune_target
from server_side.json_values import from_json, to_json
from server_side.measuring.intervals import (
    FloatArray,
    bootstrap_interval,
    paired_difference,
    percentile_interval,
    perplexity_of_sums,
    ratio_of_sums,
)
from server_side.measuring.repetition import distinct_fraction
from server_side.samples import CuratedSample
from tests.support.tiny_models import build_tiny_model

CONFIG = EvaluationConfig(num_resamples=300, samples_per_prompt=2, dtype="float32")
REFERENCES = ["take rest and drink water", "see your doctor on monday morning", "it will pass soon"]


class ScriptedSampler:
    """Answers the i-th prefix with the i-th scripted text and remembers how it was asked."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.calls: list[tuple[SamplingParams, int]] = []
        self.is_closed = False

    def sample(
        self,
        prefixes: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        salts: Sequence[str] | None = None,
        on_progress: object = None,
    ) -> list[list[Completion]]:
        self.calls.append((params, seed))
        return [
            [Completion(token_ids=(1,), text=text, is_finished=i % 2 == 0)] * params.num_candidates
            for i, (_, text) in enumerate(zip(prefixes, self.texts, strict=True))
        ]

    def close(self) -> None:
        self.is_closed = True


def _arm(
    answers: Sequence[str],
    *,
    nll_sums: Sequence[float] = (20.0, 20.0, 20.0),
    num_samples: int = 1,
) -> ArmScores:
    rows = [
        score_answers([answer] * num_samples, reference=reference, nll_sum=nll_sum, num_tokens=10)
        for answer, reference, nll_sum in zip(answers, REFERENCES, nll_sums, strict=True)
    ]
    completions = [
        [Completion(token_ids=(1,), text=answer, is_finished=True)] * num_samples
        for answer in answers
    ]
    return summarize_arm(rows, completions, config=CONFIG, seed=0)


def test_perfect_answers_have_perfect_scores() -> None:
    arm = _arm(REFERENCES)

    for metric in (Metric.ROUGE1, Metric.ROUGE2, Metric.ROUGEL):
        assert arm.metrics[metric].mean == 1.0
    assert arm.metrics[Metric.BLEU].mean == pytest.approx(100.0)
    assert arm.metrics[Metric.PERPLEXITY].mean == pytest.approx(np.exp(2.0))


def test_rouge_matches_values_worked_out_by_hand() -> None:
    """Against "take rest and drink water": "take water" shares 2 of 2 and 2 of 5 words.

    F1 = 2 · 1 · 0.4 ÷ 1.4 = 4/7; no bigram is shared; the longest common subsequence is 2 long.
    """
    row = score_answers(["take water"], reference=REFERENCES[0], nll_sum=1.0, num_tokens=1)

    assert row.rouge[Metric.ROUGE1] == pytest.approx(4 / 7)
    assert row.rouge[Metric.ROUGE2] == 0.0
    assert row.rouge[Metric.ROUGEL] == pytest.approx(4 / 7)


def test_words_of_one_stem_are_not_the_same_word() -> None:
    row = score_answers(["walking"], reference="walked", nll_sum=1.0, num_tokens=1)

    assert row.rouge[Metric.ROUGE1] == 0.0


def test_corpus_bleu_equals_that_of_sacrebleu() -> None:
    answers = ["take rest and water", "see your doctor on sunday morning", "it will not pass"]

    expected = sacrebleu.corpus_bleu(answers, [REFERENCES]).score

    assert _arm(answers).metrics[Metric.BLEU].mean == pytest.approx(expected)


def test_several_samples_of_a_prompt_are_averaged() -> None:
    row = score_answers(
        [REFERENCES[0], "nothing shared"], reference=REFERENCES[0], nll_sum=1.0, num_tokens=1
    )

    assert row.rouge_mean(Metric.ROUGE1) == pytest.approx(0.5)


def test_an_empty_answer_scores_zero() -> None:
    arm = _arm(["", "", ""])

    assert arm.metrics[Metric.ROUGEL].mean == 0.0
    assert arm.metrics[Metric.BLEU].mean == 0.0
    assert arm.distinct == {1: 0.0, 2: 0.0}


def test_length_of_answers_is_counted_in_words() -> None:
    assert _arm(["a bc", "d", "efg h i"]).mean_answer_words == 2.0


def test_perplexity_weighs_tokens_and_not_rows() -> None:
    """Rows of 1 and 9 tokens with 1 nat and 27 nats: exp(28 ÷ 10), not the mean of e and e³."""
    rows = [
        RowScores(num_samples=1, rouge=dict.fromkeys(list(Metric)[:3], 0.0),
                  bleu_statistics=(0,) * 10, nll_sum=nll, num_tokens=tokens)
        for nll, tokens in ((1.0, 1), (27.0, 9))
    ]  # fmt: skip
    answer = [Completion(token_ids=(), text="", is_finished=True)]

    arm = summarize_arm(rows, [answer, answer], config=CONFIG, seed=0)

    assert arm.metrics[Metric.PERPLEXITY].mean == pytest.approx(np.exp(2.8))


def test_difference_is_tuned_minus_untuned_and_paired() -> None:
    """Rows differ by far more than the 0.1 nats a token by which each of them improves.

    Whichever rows a resample draws, its perplexity falls by the factor 1 - exp(-0.1), which is
    0.095, so that the difference is about a tenth as wide as the perplexity itself.
    """
    untuned = _arm(REFERENCES, nll_sums=(10.0, 20.0, 30.0))
    tuned = _arm(REFERENCES, nll_sums=(9.0, 19.0, 29.0))

    difference = compare_arms(untuned=untuned, tuned=tuned, config=CONFIG, seed=0)[
        Metric.PERPLEXITY
    ]

    alone = untuned.metrics[Metric.PERPLEXITY]
    assert difference.mean == pytest.approx(np.exp(1.9) - np.exp(2))
    assert difference.high < 0
    assert 0 < difference.high - difference.low < (alone.high - alone.low) / 5


def test_scores_survive_the_run_folder() -> None:
    arm = _arm(REFERENCES, num_samples=2)

    assert from_json(ArmScores, json.loads(json.dumps(to_json(arm)))) == arm


def test_distinct_fraction_falls_with_repetition() -> None:
    assert distinct_fraction(["a b c d"], 2) == 1.0
    assert distinct_fraction(["a a a a"], 2) == pytest.approx(1 / 3)


@given(
    values=st.lists(st.floats(-10, 10), min_size=2, max_size=30),
    seed=st.integers(0, 2**32 - 1),
)
def test_interval_lies_within_the_values_and_repeats(values: list[float], seed: int) -> None:
    table = np.array([[value, 1.0] for value in values])
    settings = {"num_resamples": 100, "confidence_level": 0.9, "seed": seed}

    first = bootstrap_interval(table, ratio_of_sums, **settings)  # type: ignore[arg-type]

    assert min(values) - 1e-9 <= first.low <= first.high <= max(values) + 1e-9
    assert first == bootstrap_interval(table, ratio_of_sums, **settings)  # type: ignore[arg-type]


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """With a true coverage of 0.93 or more, at most 36 of 300 misses has a chance below 0.1 %."""
    rng = np.random.default_rng(0)
    misses = 0
    for trial in range(300):
        table = np.column_stack([rng.normal(5.0, 1.0, 60), np.ones(60)])
        interval = bootstrap_interval(
            table, ratio_of_sums, num_resamples=400, confidence_level=0.95, seed=trial
        )
        misses += not interval.low <= 5.0 <= interval.high

    assert 0 < misses <= 36


def test_interval_leaves_out_equal_shares_below_and_above() -> None:
    """Of 0 to 1000, the middle nine tenths lie between 50 and 950."""
    interval = percentile_interval(0.0, np.arange(1001.0), 0.9)

    assert (interval.low, interval.high) == (pytest.approx(50.0), pytest.approx(950.0))


def test_pairing_makes_the_interval_of_a_difference_narrower() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(30.0, 10.0, 100)
    first = np.column_stack([hard, np.full(100, 10.0)])
    second = np.column_stack([hard - rng.normal(1.0, 0.1, 100), np.full(100, 10.0)])
    settings = {"num_resamples": 500, "confidence_level": 0.95, "seed": 1}

    alone = bootstrap_interval(second, perplexity_of_sums, **settings)  # type: ignore[arg-type]
    paired = paired_difference(first=first, second=second, formula=perplexity_of_sums, **settings)  # type: ignore[arg-type]

    assert paired.high < 0
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_many_rows_and_resamples_stay_in_memory() -> None:
    """How many resamples are held at once shows in what the formula is given at a time."""
    table = np.ones((20_000, 2))
    at_once: list[int] = []

    def noted_ratio(sums: FloatArray) -> FloatArray:
        if sums.ndim == 2:  # not the sums over all rows as they are
            at_once.append(len(sums))
        return ratio_of_sums(sums)

    interval = bootstrap_interval(
        table, noted_ratio, num_resamples=500, confidence_level=0.95, seed=0
    )

    assert interval.low == interval.high == 1.0
    assert sum(at_once) == 500
    assert max(at_once) * table.shape[0] * np.float64().nbytes <= 32_000_000


def test_evaluation_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"evaluation\.path"):
        evaluate_target(
            [], target_folder=tmp_path, adapter=None, config=CONFIG, instruction="x",
            open_sampler=lambda adapter: ScriptedSampler([]), seed=0,
        )  # fmt: skip


def test_references_are_cut_at_their_own_limit(tmp_path: Path) -> None:
    target = build_tiny_model(tmp_path / "target")
    sampler = ScriptedSampler([REFERENCES[0]])

    arm = evaluate_target(
        [TextRow(prompt="it hurts " * 50, response="take rest " * 50)],
        target_folder=target, adapter=None, instruction="Help.", seed=4,
        config=replace(CONFIG, max_prompt_tokens=12, max_reference_tokens=7),
        open_sampler=lambda adapter: sampler,
    )  # fmt: skip

    assert arm.rows[0].num_tokens == 7


def test_both_arms_are_decoded_alike_and_tuning_lowers_perplexity(tmp_path: Path) -> None:
    """The tiny target is tuned on the references themselves, so it must find them likelier."""
    target = build_tiny_model(tmp_path / "target")
    rows = [TextRow(prompt=f"Question {i}?", response=r) for i, r in enumerate(REFERENCES)]
    adapter = finetune_target(
        [
            CuratedSample(
                query_id="q", client_name="c", instruction="Help.", prompt=row.prompt,
                chosen=row.response, rejected="", chosen_candidate_id="a",
                rejected_candidate_id="b", chosen_reward=0.0, rejected_reward=0.0,
                chosen_perplexity=1.0, round_index=1,
            )
            for row in rows
        ],
        target_folder=target, previous=None, output_folder=tmp_path / "tuned",
        config=FinetuningConfig(lora_rank=2, learning_rate=1e-2, num_epochs=5, batch_size=3,
                                dtype="float32", report_to="none"),
        seed=0, round_index=1,
    )  # fmt: skip
    config = replace(CONFIG, max_new_tokens=11, temperature=0.3, top_p=0.6, repetition_penalty=1.2)
    samplers: dict[Path | None, ScriptedSampler] = {}
    progress: list[tuple[int, int]] = []

    def open_scripted(with_adapter: Path | None) -> ScriptedSampler:
        samplers[with_adapter] = ScriptedSampler(REFERENCES)
        return samplers[with_adapter]

    arms = [
        evaluate_target(
            rows, target_folder=target, adapter=folder, config=config, instruction="Help.",
            open_sampler=open_scripted, seed=4,
            on_progress=lambda done, of: progress.append((done, of)),
        )
        for folder in (None, adapter.folder)
    ]  # fmt: skip

    assert list(samplers) == [None, adapter.folder]
    params = SamplingParams(
        max_new_tokens=11, num_candidates=2, temperature=0.3, top_p=0.6, repetition_penalty=1.2
    )
    assert [sampler.calls for sampler in samplers.values()] == [[(params, 4)]] * 2
    assert all(sampler.is_closed for sampler in samplers.values())
    untuned, tuned = (arm.metrics[Metric.PERPLEXITY] for arm in arms)
    assert tuned.high < untuned.low
    # What was sampled are the rows' own references: each answer is held against its own row's.
    assert [arm.metrics[Metric.ROUGEL].mean for arm in arms] == [1.0, 1.0]
    assert arms[0].unfinished_fraction == pytest.approx(1 / 3)
    assert progress[-1] == (6, 6)


def test_answers_are_run_where_a_column_with_tests_is_named(tmp_path: Path) -> None:
    """Of two rows one is solved; both answers to a prompt are the same."""
    target = build_tiny_model(tmp_path / "target")
    rows = [
        TextRow(prompt=f"Write {name}.", response="pass", tests=(f"assert {name}(1) == 1",))
        for name in ("same", "other")
    ]
    config = replace(CONFIG, tests_column="tests", pass_k=[1, 2], max_reference_tokens=8)
    progress: list[tuple[int, int]] = []

    arm = evaluate_target(
        rows, target_folder=target, adapter=None, config=config, instruction="Help.",
        open_sampler=lambda adapter: ScriptedSampler(["def same(x): return x"] * 2), seed=4,
        on_progress=lambda done, of: progress.append((done, of)),
    )  # fmt: skip

    assert [row.num_passed for row in arm.pass_counts] == [2, 0]
    assert {k: interval.mean for k, interval in arm.pass_at_k.items()} == {1: 0.5, 2: 0.5}
    assert progress[-1] == (6, 6)
    assert from_json(ArmScores, to_json(arm)) == arm
