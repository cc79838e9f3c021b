from __future__ import annotations

import math

import pytest

from protocol.errors import StageError
from server_side.config import ScoringConfig
from server_side.samples import Candidate, CandidateOrigin, Query, ScoredCandidate
from server_side.scoring import (
    RewardScale,
    length_correlation,
    reward_scales,
    score_candidates,
)
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
    return score_candidates(
        candidates,
        panel=candidates,
        queries=QUERIES,
        generators=proxies,
        reward_proxies=proxies,
        scales=scales,
        config=ScoringConfig(**settings),  # type: ignore[arg-type]
        on_progress=no_progress,
    ).values


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
    assert reward_scales(alone, config=ScoringConfig())["north"].mean == scales["north"].mean
    assert reward_scales(alone, config=ScoringConfig())["north"].deviation == pytest.approx(
        scales["north"].deviation
    )


def test_later_round_uses_the_scale_of_the_first() -> None:
    north, south = FakeProxies("north"), FakeProxies("south")
    first = score(north, south)

    later = score(
        north,
        south,
        candidates=(candidate("q1", "bbb"),),
        scales=dict(reward_scales(first, config=ScoringConfig())),
    )

    assert later[0].reward == first[1].reward


def test_perplexity_is_that_under_the_own_clients_generator() -> None:
    north = FakeProxies("north", perplexity=lambda prompt, response: 10.0)
    south = FakeProxies("south", perplexity=lambda prompt, response: 20.0)

    assert [item.perplexity for item in score(north, south)] == [10.0, 10.0, 20.0]


def test_no_candidates_give_no_scores() -> None:
    assert score(FakeProxies("north"), candidates=()) == ()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_reward_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(StageError, match=r"finite reward.*south"):
        score(FakeProxies("north"), FakeProxies("south", reward=lambda prompt, response: bad))


def test_perplexity_that_is_no_number_is_refused() -> None:
    south = FakeProxies("south", perplexity=lambda prompt, response: math.nan)

    with pytest.raises(StageError, match=r"finite perplexity.*south"):
        score(FakeProxies("north"), south)


def test_reward_proxy_that_gives_a_constant_is_refused() -> None:
    constant = FakeProxies("south", reward=lambda prompt, response: 0.1 + 0.2)

    with pytest.raises(StageError, match=r"south.*constant"):
        score(FakeProxies("north"), constant)


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


def test_own_clients_proxy_alone_can_judge() -> None:
    """North judges q1 (lengths 1 and 3), south q2 (lengths 5 and 9, the shorter the better)."""
    asked: list[str] = []

    def north_reward(prompt: str, response: str) -> float:
        asked.append(prompt)
        return float(len(response))

    north = FakeProxies("north", reward=north_reward)
    south = FakeProxies("south", reward=lambda prompt, response: -100.0 * len(response))

    scored = score(north, south, candidates=(*CANDIDATES, candidate("q2", "d" * 9)), ensemble="own")

    assert [item.reward for item in scored] == pytest.approx([-1, 1, 1, -1])
    assert [set(item.rewards_by_client) for item in scored] == [
        {"north"}, {"north"}, {"south"}, {"south"},
    ]  # fmt: skip
    assert set(asked) == {"cough"}


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
    candidates = (words("q1", 2), words("q1", 9), words("q2", 4), words("q2", 30))

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
    scale = reward_scales(debiased, config=ScoringConfig(length_debias=True))["north"]
    assert scale.length_slope == pytest.approx(10)


def test_reward_that_is_length_alone_has_nothing_left_to_judge_by() -> None:
    proxies = [
        FakeProxies(name, reward=lambda prompt, response: math.log1p(len(response.split())))
        for name in ("north", "south")
    ]

    with pytest.raises(StageError, match="length alone"):
        score(*proxies, candidates=(words("q1", 2), words("q1", 9)), length_debias=True)
