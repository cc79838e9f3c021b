"""Rewards where each client's own proxy judges, and who judges where that one tells nothing apart.

North's prompt is answered by lengths 1 and 3, south's by 5 and 7, west's by 2 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from server_side.config import FilteringConfig, ScoringConfig
from server_side.reward_scaling import RewardScale, reward_scales
from server_side.samples import Candidate, CandidateOrigin, Query, ScoredCandidate, StageResult
from server_side.scoring import score_candidates
from tests.support.fake_proxies import FakeProxies, no_progress

OWN = ScoringConfig(ensemble="own")
QUERIES = (
    Query(query_id="q1", prompt="cough", client_name="north"),
    Query(query_id="q2", prompt="fever", client_name="south"),
    Query(query_id="q3", prompt="rash", client_name="west"),
)
NORTHS, SOUTHS, WESTS = (
    tuple(
        Candidate(
            query_id=query_id,
            candidate_id=f"{query_id}-{length}",
            round_index=1,
            response="a" * length,
            origin=CandidateOrigin.GENERATOR,
        )
        for length in lengths
    )
    for query_id, lengths in (("q1", (1, 3)), ("q2", (5, 7)), ("q3", (2, 4)))
)


def score(
    *proxies: FakeProxies,
    candidates: tuple[Candidate, ...] = NORTHS + SOUTHS,
    scales: Mapping[str, RewardScale] | None = None,
) -> StageResult[ScoredCandidate]:
    return score_candidates(
        candidates,
        panel=NORTHS + SOUTHS + WESTS,
        queries=QUERIES,
        generators=proxies,
        reward_proxies=proxies,
        scales=scales,
        config=OWN,
        on_progress=no_progress,
    )


def constant(name: str) -> FakeProxies:
    return FakeProxies(name, reward=lambda prompt, response: 0.5)


def test_own_clients_proxy_alone_can_judge() -> None:
    """North finds the longer answer better, south the shorter one."""
    asked: list[str] = []

    def north_reward(prompt: str, response: str) -> float:
        asked.append(prompt)
        return float(len(response))

    north = FakeProxies("north", reward=north_reward)
    south = FakeProxies("south", reward=lambda prompt, response: -100.0 * len(response))

    scored = score(north, south).values

    assert [item.reward for item in scored] == pytest.approx([-1, 1, 1, -1])
    assert [set(item.rewards_by_client) for item in scored] == [
        {"north"}, {"north"}, {"south"}, {"south"},
    ]  # fmt: skip
    assert set(asked) == {"cough"}


@pytest.mark.parametrize("useless", [lambda prompt, response: 0.5, lambda p, r: math.nan])
def test_a_client_whose_own_proxy_is_left_out_is_judged_by_those_that_are_left(
    useless: Callable[[str, str], float], caplog: pytest.LogCaptureFixture
) -> None:
    """With 0 for each, its best answer would lie below everybody else's, and none join the pool.

    North judges all four: their lengths have mean 4 and deviation √5.
    """
    result = score(FakeProxies("north"), FakeProxies("south", reward=useless))

    expected = [(length - 4) / math.sqrt(5) for length in (1, 3, 5, 7)]
    assert [item.reward for item in result.values] == pytest.approx(expected)
    assert {name for item in result.values for name in item.rewards_by_client} == {"north"}
    assert result.counts["num_reward_proxies_left_out"] == 1
    assert "client south is left out" in caplog.text
    assert "Those that are left judge its client's candidates." in caplog.text


def test_several_that_are_left_give_their_mean_on_scales_that_hold_in_later_rounds() -> None:
    """North judges lengths 1 to 7 and west 5, 7, 2, 4, the shorter the better."""
    west = FakeProxies("west", reward=lambda prompt, response: -10.0 * len(response))
    proxies = (FakeProxies("north"), constant("south"), west)

    first = score(*proxies, candidates=NORTHS + SOUTHS + WESTS).values
    scales = reward_scales(first, config=OWN, filtering=FilteringConfig())
    later = score(*proxies, candidates=SOUTHS, scales=scales).values

    assert [set(item.rewards_by_client) for item in first] == [
        {"north"}, {"north"}, {"north", "west"}, {"north", "west"}, {"west"}, {"west"},
    ]  # fmt: skip
    by_north, by_west = ((5 - 4) / math.sqrt(5), -(5 - 4.5) / math.sqrt(3.25))
    assert first[2].reward == pytest.approx((by_north + by_west) / 2)
    assert [item.reward for item in later] == [item.reward for item in first[2:4]]


def test_a_proxy_that_fails_on_the_candidates_of_another_is_left_out_in_its_turn() -> None:
    """And the proxy of a client without candidates is asked as soon as others need it."""

    def fails_on_fever(prompt: str, response: str) -> float:
        return math.nan if prompt == "fever" else float(len(response))

    north = FakeProxies("north", reward=fails_on_fever)

    result = score(north, constant("south"), FakeProxies("west"))

    assert result.counts["num_reward_proxies_left_out"] == 2
    assert [set(item.rewards_by_client) for item in result.values] == [{"west"}] * 4
    assert result.values[1].reward > result.values[0].reward


def test_where_every_proxy_is_left_out_all_have_the_reward_0(
    caplog: pytest.LogCaptureFixture,
) -> None:
    result = score(constant("north"), constant("south"))

    assert [item.reward for item in result.values] == [0, 0, 0, 0]
    assert "client north is left out" in caplog.text
    assert "Those that are left" not in caplog.text
