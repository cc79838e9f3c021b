from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from lm.errors import SamplingError
from lm.tables import TextRow
from server_side.config import (
    EvaluationConfig,
    FilteringConfig,
    ScoringConfig,
    SynthesisConfig,
)
from server_side.consensus import rouge_l, split_words
from server_side.ranking import (
    RankedPrompt,
    RankingQuality,
    best_of,
    judge_ranking,
    rank_correlation,
    ranking_quality,
)
from server_side.reward_scaling import RewardScale
from server_side.samples import StageResult
from tests.support.fake_proxies import WORDS, FakeProxies, no_progress

RNG = random.Random(0)  # noqa: S311 - no secret
ROWS = [
    TextRow(prompt=f"question {i}", response=" ".join(RNG.choices(WORDS, k=8))) for i in range(40)
]
REFERENCES = {row.prompt: split_words(row.response) for row in ROWS}
SYNTHESIS = SynthesisConfig(num_candidates=5, client_weights={"north": 3.0, "south": 1.0})
BY_LIKELIHOOD = FilteringConfig(alpha=0.0, consensus_weight=0.0)
values = st.lists(st.integers(0, 4).map(float), min_size=2, max_size=8)


def knows_the_reference(prompt: str, response: str) -> float:
    return rouge_l(REFERENCES[prompt], split_words(response))


def judge(
    *proxies: FakeProxies, seed: int = 0, without_scale: str = "", ensemble: str = "mean"
) -> StageResult[RankedPrompt]:
    return judge_ranking(
        ROWS,
        generators=proxies,
        reward_proxies=proxies,
        scales={
            proxy.client_name: RewardScale(mean=0.0, deviation=1.0 + index)
            for index, proxy in enumerate(proxies)
            if proxy.client_name != without_scale
        },
        synthesis=SYNTHESIS,
        scoring=ScoringConfig(ensemble=ensemble),
        seed=seed,
        on_progress=no_progress,
    )


def summed_up(
    prompts: Sequence[RankedPrompt], *, filtering: FilteringConfig = BY_LIKELIHOOD
) -> RankingQuality:
    return ranking_quality(
        prompts, filtering=filtering, config=EvaluationConfig(num_resamples=200), seed=0
    )


@given(st.data(), values)
def test_rank_correlation_is_that_of_the_reference_implementation(
    data: st.DataObject, first: list[float]
) -> None:
    second = data.draw(st.permutations(first))
    found = rank_correlation(first, second)

    if len(set(first)) == 1:
        assert found == 0.0
    else:
        assert found == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)


def test_favourites_of_equal_score_are_worth_their_mean() -> None:
    assert best_of(scores=[1.0, 1.0, 0.0], worth=[0.2, 0.4, 0.9]) == pytest.approx(0.3)


def test_quality_is_worked_out_by_hand() -> None:
    """Worths (0.2, 0.4, 0.6) and (0.1, 0.5, 0.3): means 0.4 and 0.3, best 0.6 and 0.5.

    Likelihood picks 0.6 and 0.3, with correlations 1 and ½; consensus says nothing, so it picks the
    means. The reference's reward beats one and a half of three answers, then all.
    """
    prompts = [
        RankedPrompt(
            query_id="t1", client_name="north", rouge_l=(0.2, 0.4, 0.6),
            scores={
                "reward": (1.0, 2.0, 5.0),
                "likelihood": (1.0, 2.0, 3.0),
                "consensus": (1.0, 1.0, 1.0),
            },
            reference_reward=2.0,
        ),
        RankedPrompt(
            query_id="t2", client_name="north", rouge_l=(0.1, 0.5, 0.3),
            scores={
                "reward": (1.0, 2.0, 5.0),
                "likelihood": (1.0, 2.0, 3.0),
                "consensus": (1.0, 1.0, 1.0),
            },
            reference_reward=6.0,
        ),
    ]  # fmt: skip

    quality = summed_up(prompts)

    assert (quality.num_prompts, quality.num_candidates) == (2, 6)
    assert quality.mean.mean == pytest.approx(0.35)
    assert quality.oracle.mean == pytest.approx(0.55)
    good, flat = quality.scores["likelihood"], quality.scores["consensus"]
    assert good.best.mean == pytest.approx(0.45)
    assert (good.gain.mean, good.gain.low, good.gain.high) == pytest.approx((0.1, 0.0, 0.2))
    assert good.rank_correlation.mean == pytest.approx(0.75)
    assert flat.gain.mean == pytest.approx(0.0)
    assert flat.rank_correlation.mean == 0.0
    assert quality.reward_accuracy.mean == pytest.approx(0.75)


def test_score_that_knows_the_reference_is_told_from_one_that_does_not() -> None:
    """The reward is ROUGE-L itself, so it equals the oracle; likelihood is the reverse of it."""
    proxies = [
        FakeProxies(
            name,
            reward=knows_the_reference,
            perplexity=lambda prompt, response: 1.0 + knows_the_reference(prompt, response),
        )
        for name in ("north", "south")
    ]

    result = judge(*proxies)
    quality = summed_up(result.values)

    assert quality.num_prompts == result.counts["num_prompts"] == 40
    assert quality.scores["reward"].best.mean == pytest.approx(quality.oracle.mean)
    assert quality.scores["reward"].gain.low > 0
    assert quality.scores["reward"].rank_correlation.mean == pytest.approx(1.0)
    assert quality.reward_accuracy.mean == pytest.approx(1.0)
    assert quality.scores["likelihood"].gain.high < 0
    assert quality.scores["choice"] == quality.scores["likelihood"]
    assert "reward_length_correlation" in result.figures


@pytest.mark.parametrize(
    ("filtering", "score"),
    [
        (FilteringConfig(alpha=1.0, consensus_weight=0.0), "reward"),
        (BY_LIKELIHOOD, "likelihood"),
        (FilteringConfig(choose_by="consensus"), "consensus"),
    ],
)
def test_choice_follows_how_filtering_is_set_up_not_how_the_answers_were_judged(
    filtering: FilteringConfig, score: str
) -> None:
    result = judge(FakeProxies("north"), FakeProxies("south"))
    quality = summed_up(result.values, filtering=filtering)

    assert quality.scores["choice"] == quality.scores[score]
    others = quality.scores.keys() - {"choice", score}
    assert all(quality.scores["choice"] != quality.scores[other] for other in others)


def test_choice_breaks_ties_by_reward_as_filtering_does() -> None:
    """As published each of two answers has one first and one last rank."""
    prompt = RankedPrompt(
        query_id="t1", client_name="north", rouge_l=(0.2, 0.6),
        scores={"reward": (1.0, 2.0), "likelihood": (-3.0, -9.0), "consensus": (0.4, 0.4)},
        reference_reward=2.0,
    )  # fmt: skip

    quality = summed_up([prompt], filtering=FilteringConfig(consensus_weight=0.0))

    assert quality.scores["choice"].best.mean == pytest.approx(0.6)
    assert quality.scores["choice"].rank_correlation.mean == pytest.approx(1.0)


def test_choice_that_asks_nobody_gains_nothing() -> None:
    result = judge(FakeProxies("north"), FakeProxies("south"))
    quality = summed_up(result.values, filtering=FilteringConfig(choose_by="first"))

    assert quality.scores["choice"].gain.mean == pytest.approx(0.0)
    assert quality.scores["choice"].rank_correlation.mean == 0.0


def test_generators_share_the_prompts_as_they_do_in_synthesis() -> None:
    result = judge(FakeProxies("north"), FakeProxies("south"))

    names = [prompt.client_name for prompt in result.values]
    assert (names.count("north"), names.count("south")) == (30, 10)
    assert "south" in names[:30]


@pytest.mark.parametrize("ensemble", ["own", "mean"])
def test_client_whose_rewards_have_no_scale_answers_and_others_judge(ensemble: str) -> None:
    """Its generator gave no candidates in round 1, or its proxy told none apart.

    North's reward is ROUGE-L, and its scale halves it; south's own would be a length.
    """
    result = judge(
        FakeProxies("south"),
        FakeProxies("north", reward=knows_the_reference),
        without_scale="south",
        ensemble=ensemble,
    )

    names = [prompt.client_name for prompt in result.values]
    assert (names.count("north"), names.count("south")) == (30, 10)
    assert any(any(p.rouge_l) for p in result.values if p.client_name == "south")
    for prompt in result.values:
        assert prompt.scores["reward"] == pytest.approx([worth / 2 for worth in prompt.rouge_l])
        assert prompt.reference_reward == pytest.approx(0.5)


def test_same_seed_gives_the_same_ranking() -> None:
    assert judge(FakeProxies("north"), FakeProxies("south")) == judge(
        FakeProxies("north"), FakeProxies("south")
    )


def fail(text: str, rng: random.Random) -> str:
    raise SamplingError


@pytest.mark.parametrize(
    "proxies",
    [
        [FakeProxies(name, write=lambda text, rng: None) for name in ("north", "south")],
        [FakeProxies(name, write=fail) for name in ("north", "south")],
        [FakeProxies(name, reward=lambda p, r: math.nan) for name in ("north", "south")],
    ],
    ids=["mute", "failing", "no numbers"],
)
def test_ranking_that_cannot_be_judged_costs_no_job(
    proxies: list[FakeProxies], caplog: pytest.LogCaptureFixture
) -> None:
    result = judge(*proxies)

    assert result.values == ()
    assert result.counts["num_prompts"] == 0
    assert "not judged" in caplog.text
