from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lm.errors import ScoringError
from protocol.errors import StageError
from server_side.config import FilteringConfig, ScoringConfig
from server_side.reward_scaling import RewardScale, length_correlation, reward_scales
from server_side.samples import Candidate, CandidateOrigin, Query, ScoredCandidate, StageResult
from server_side.scoring import score_candidates
from tests.support.fake_proxies import FakeProxies, no_progress

QUERIES = (
    Query(query_id="q1", prompt="cough", client_name="north"),
    Query(query_id="q2", prompt="fever", client_name="south"),
)


def candidate(query_id: str, response: str) -> Candidate:
    return Candidate(
        query_id=query_id,
        candidate_id=f"{query_id}-{response}",
        round_index=1,
        response=response,
        origin=CandidateOrigin.GENERATOR,
    )


CANDIDATES = (candidate("q1", "a"), candidate("q1", "bbb"), candidate("q2", "ccccc"))


def score(
    *proxies: FakeProxies,
    candidates: tuple[Candidate, ...] = CANDIDATES,
    scales: dict[str, RewardScale] | None = None,
    **settings: object,
) -> tuple[ScoredCandidate, ...]:
    return score_result(*proxies, candidates=candidates, scales=scales, **settings).values


def score_result(
    *proxies: FakeProxies,
    candidates: tuple[Candidate, ...] = CANDIDATES,
    scales: dict[str, RewardScale] | None = None,
    **settings: object,
) -> StageResult[ScoredCandidate]:
    return score_candidates(
        candidates,
        panel=candidates,
        queries=QUERIES,
        generators=proxies,
        reward_proxies=proxies,
        scales=scales,
        config=ScoringConfig(**settings),  # type: ignore[arg-type]
        on_progress=no_progress,
    )


def test_rewards_are_standardised_per_client_and_averaged() -> None:
    """Lengths 1, 3, 5 have mean 3 and deviation √(8/3); the second client says the opposite ×100.

    Standardised, the two cancel; the first alone gives −√1.5, 0, √1.5.
    """
    north = FakeProxies("north")
    south = FakeProxies("south", reward=lambda prompt, response: -100.0 * len(response))

    both = score(north, south)
    scales = {"north": RewardScale(mean=3.0, deviation=math.sqrt(8 / 3))}
    alone = score_candidates(
        CANDIDATES,
        panel=CANDIDATES,
        queries=QUERIES,
        generators=[north, south],
        reward_proxies=[north],
        scales=None,
        config=ScoringConfig(),
        on_progress=no_progress,
    ).values

    assert [item.reward for item in both] == pytest.approx([0, 0, 0])
    assert [item.reward for item in alone] == pytest.approx([-math.sqrt(1.5), 0, math.sqrt(1.5)])
    assert both[2].rewards_by_client == {"north": 5.0, "south": -500.0}
    assert (
        reward_scales(alone, config=ScoringConfig(), filtering=FilteringConfig())["north"].mean
        == scales["north"].mean
    )
    assert reward_scales(alone, config=ScoringConfig(), filtering=FilteringConfig())[
        "north"
    ].deviation == pytest.approx(scales["north"].deviation)


@pytest.mark.parametrize(("ensemble", "reward"), [("mean", 3.75), ("min", 2.5), ("own", 2.5)])
def test_later_round_uses_the_scale_of_the_first(ensemble: str, reward: float) -> None:
    """(8 − 3) ÷ 2 at one client, (16 − 6) ÷ 2 at the other; alone it has no scale of its own."""
    north = FakeProxies("north")
    south = FakeProxies("south", reward=lambda prompt, response: 2.0 * len(response))

    (later,) = score(
        north,
        south,
        candidates=(candidate("q1", "h" * 8),),
        scales={
            "north": RewardScale(mean=3.0, deviation=2.0),
            "south": RewardScale(mean=6.0, deviation=2.0),
        },
        ensemble=ensemble,
    )

    assert later.reward == pytest.approx(reward)


def test_perplexity_is_that_under_the_own_clients_generator() -> None:
    north = FakeProxies("north", perplexity=lambda prompt, response: 10.0)
    south = FakeProxies("south", perplexity=lambda prompt, response: 20.0)

    assert [item.perplexity for item in score(north, south)] == [10.0, 10.0, 20.0]


def test_no_candidates_give_no_scores() -> None:
    assert score(FakeProxies("north"), candidates=()) == ()


def raise_scoring_error(prompt: str, response: str) -> float:
    raise ScoringError


@pytest.mark.parametrize("perplexity", [lambda prompt, response: math.nan, raise_scoring_error])
def test_perplexity_that_is_no_number_is_refused_with_the_clients_name(
    perplexity: Callable[[str, str], float],
) -> None:
    south = FakeProxies("south", perplexity=perplexity)

    with pytest.raises(StageError, match=r"finite perplexity.*south"):
        score(FakeProxies("north"), south)


@pytest.mark.parametrize(
    ("reward", "why"),
    [
        (lambda prompt, response: 0.1 + 0.2, "constant"),
        (lambda prompt, response: math.nan, "finite"),
        (lambda prompt, response: math.inf, "finite"),
        (raise_scoring_error, "finite"),
    ],
    ids=["constant", "nan", "infinite", "broken"],
)
@pytest.mark.parametrize("ensemble", ["mean", "min"])
def test_proxy_that_tells_nothing_apart_is_left_out_and_costs_the_others_nothing(
    ensemble: str,
    reward: Callable[[str, str], float],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    north, south = FakeProxies("north"), FakeProxies("south", reward=reward)

    result = score_result(north, south, ensemble=ensemble)

    assert [item.reward for item in result.values] == [
        item.reward for item in score(north, FakeProxies("south", reward=lambda p, r: len(r)))
    ]
    assert {name for item in result.values for name in item.rewards_by_client} == {"north"}
    assert result.counts["num_reward_proxies_left_out"] == 1
    assert "client south is left out" in caplog.text
    assert why in caplog.text


def test_proxy_that_was_left_out_is_not_asked_again() -> None:
    north, south = FakeProxies("north"), FakeProxies("south", reward=lambda prompt, response: 1.0)
    first = score(north, south)

    later = score(
        north,
        FakeProxies("south", reward=lambda prompt, response: float(len(response))),
        candidates=(candidate("q1", "ccccc"),),
        scales=dict(reward_scales(first, config=ScoringConfig(), filtering=FilteringConfig())),
    )

    assert later[0].rewards_by_client == {"north": 5.0}
    assert later[0].reward == first[2].reward == pytest.approx(math.sqrt(1.5))


def test_reward_that_ceases_to_be_a_number_is_refused() -> None:
    with pytest.raises(StageError, match=r"finite reward.*south"):
        score(
            FakeProxies("south", reward=lambda prompt, response: math.nan),
            FakeProxies("north"),
            scales={"south": RewardScale(mean=0.0, deviation=1.0)},
        )


def test_a_run_without_any_reward_goes_on_where_no_choice_looks_at_it() -> None:
    constant = FakeProxies("north", reward=lambda prompt, response: 2.0)
    scored = score(constant, FakeProxies("south", reward=lambda prompt, response: math.nan))
    without = FilteringConfig(choose_by="consensus", select_by="consensus")

    assert [item.reward for item in scored] == [0, 0, 0]
    assert reward_scales(scored, config=ScoringConfig(), filtering=without) == {}
    with pytest.raises(StageError, match=r"tells 3 candidates apart, found none"):
        reward_scales(scored, config=ScoringConfig(), filtering=FilteringConfig())


def test_progress_counts_every_judgement() -> None:
    seen: list[tuple[int, int]] = []

    score_candidates(
        CANDIDATES,
        panel=CANDIDATES,
        queries=QUERIES,
        generators=[FakeProxies("north"), FakeProxies("south")],
        reward_proxies=[FakeProxies("north"), FakeProxies("south")],
        scales=None,
        config=ScoringConfig(),
        on_progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(3, 9), (6, 9), (8, 9), (9, 9)]


def words(query_id: str, number: int) -> Candidate:
    return candidate(query_id, " ".join(f"{query_id}w{i}" for i in range(number)))


def test_least_reward_of_the_clients_can_count() -> None:
    """Standardised, south is the opposite of north, so the least is minus the size of either."""
    north = FakeProxies("north")
    south = FakeProxies("south", reward=lambda prompt, response: -100.0 * len(response))

    rewards = [item.reward for item in score(north, south, ensemble="min")]

    assert rewards == pytest.approx([-math.sqrt(1.5), 0, -math.sqrt(1.5)])


def test_consensus_is_measured_against_the_panel() -> None:
    scored = score(
        FakeProxies("north"),
        FakeProxies("south"),
        candidates=(candidate("q1", "rest a b"), candidate("q1", "rest c d e")),
    )

    assert [item.consensus for item in scored] == pytest.approx([2 / 7, 2 / 7])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_reward_that_follows_length_is_said_aloud(
    sign: float, caplog: pytest.LogCaptureFixture
) -> None:
    proxies = [
        FakeProxies(name, reward=lambda prompt, response: sign * len(response.split()))
        for name in ("north", "south")
    ]
    candidates = tuple(words(query, count) for query in ("q1", "q2") for count in range(2, 18))

    result = score_candidates(
        candidates,
        panel=candidates,
        queries=QUERIES,
        generators=proxies,
        reward_proxies=proxies,
        scales=None,
        config=ScoringConfig(),
        on_progress=no_progress,
    )

    assert sign * result.figures["reward_length_correlation"] > 0.9
    assert "length_debias" in caplog.text
    assert ("longer" if sign > 0 else "shorter") in caplog.text


def test_few_responses_are_no_ground_for_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    proxies = [FakeProxies("north", reward=lambda prompt, response: len(response.split()))]
    candidates = (words("q1", 2), words("q1", 9), words("q1", 30))

    result = score_candidates(
        candidates,
        panel=candidates,
        queries=QUERIES,
        generators=proxies,
        reward_proxies=proxies,
        scales=None,
        config=ScoringConfig(),
        on_progress=no_progress,
    )

    assert result.figures["reward_length_correlation"] > 0.9
    assert not caplog.text


def test_length_that_differs_between_prompts_only_is_no_correlation() -> None:
    """One prompt's answers are long and rewarded, the other's are not; within, the reverse."""
    scored = [
        ScoredCandidate(
            candidate=words(query_id, number), reward=reward, rewards_by_client={}, perplexity=1.0
        )
        for query_id, number, reward in (
            ("q1", 1, 1.0), ("q1", 3, 0.0), ("q2", 40, 9.0), ("q2", 80, 8.0),
        )
    ]  # fmt: skip

    assert length_correlation(scored) == pytest.approx(-1.0, abs=1e-3)
    assert length_correlation(scored[:1]) == 0.0


def test_debiased_reward_is_what_length_leaves() -> None:
    """Rewards are 10·log(1 + words) and a quality of ±1 that does not depend on length.

    What is left is the quality, so that the better of two answers wins however short it is.
    """

    def reward(prompt: str, response: str) -> float:
        return 10 * math.log1p(len(response.split())) + (1.0 if "good" in response else -1.0)

    candidates = (
        candidate("q1", "good w w"),
        candidate("q1", "bad w w"),
        candidate("q1", "good " + "w " * 30),
        candidate("q1", "bad " + "w " * 30),
    )
    proxies = [FakeProxies(name, reward=reward) for name in ("north", "south")]

    plain = score(*proxies, candidates=candidates)
    debiased = score(*proxies, candidates=candidates, length_debias=True)

    assert plain[1].reward < plain[3].reward
    assert [item.reward for item in debiased] == pytest.approx([1, -1, 1, -1])
    assert length_correlation(debiased) == pytest.approx(0, abs=1e-9)
    scale = reward_scales(
        debiased, config=ScoringConfig(length_debias=True), filtering=FilteringConfig()
    )["north"]
    assert scale.length_slope == pytest.approx(10)


def test_reward_that_is_length_alone_has_nothing_left_to_judge_by(
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxies = [
        FakeProxies(name, reward=lambda prompt, response: math.log1p(len(response.split())))
        for name in ("north", "south")
    ]

    score(*proxies, candidates=(words("q1", 2), words("q1", 9)), length_debias=True)

    assert caplog.text.count("follow from length alone") == 2
