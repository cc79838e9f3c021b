from __future__ import annotations

import math

import pytest

from protocol.errors import StageError
from server_side.config import ScoringConfig
from server_side.samples import Candidate, CandidateOrigin, Query, ScoredCandidate
from server_side.scoring import RewardScale, reward_scales, score_candidates
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
) -> tuple[ScoredCandidate, ...]:
    return score_candidates(
        candidates,
        queries=QUERIES,
        generators=proxies,
        reward_proxies=proxies,
        scales=scales,
        config=ScoringConfig(),
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
    assert reward_scales(alone)["north"].mean == scales["north"].mean
    assert reward_scales(alone)["north"].deviation == pytest.approx(scales["north"].deviation)


def test_later_round_uses_the_scale_of_the_first() -> None:
    north, south = FakeProxies("north"), FakeProxies("south")
    first = score(north, south)

    later = score(
        north, south, candidates=(candidate("q1", "bbb"),), scales=dict(reward_scales(first))
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
        queries=QUERIES,
        generators=[FakeProxies("north"), FakeProxies("south")],
        reward_proxies=[FakeProxies("north"), FakeProxies("south")],
        scales=None,
        config=ScoringConfig(),
        on_progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(3, 9), (6, 9), (8, 9), (9, 9)]
