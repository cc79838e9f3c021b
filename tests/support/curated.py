"""Samples and rewrites as the stages make them, for tests that only care about one number."""

from __future__ import annotations

from collections.abc import Sequence

from server_side.samples import (
    Candidate,
    CandidateOrigin,
    CuratedSample,
    Query,
    ScoredCandidate,
)


def curated(query_id: str, reward: float) -> CuratedSample:
    """Make a round-1 sample whose `chosen` has a reward."""
    return CuratedSample(
        query_id=query_id,
        client_name="clinic",
        instruction="",
        prompt=query_id,
        chosen="good",
        rejected="bad",
        chosen_candidate_id=f"{query_id}-r1-c1",
        rejected_candidate_id=f"{query_id}-r1-c2",
        chosen_reward=reward,
        rejected_reward=reward - 1,
        chosen_perplexity=2.0,
        round_index=1,
    )


def rewrite(query_id: str, number: int, reward: float, perplexity: float = 2.0) -> ScoredCandidate:
    """Make a scored rewrite of round 2."""
    return ScoredCandidate(
        candidate=Candidate(
            query_id=query_id,
            candidate_id=f"{query_id}-r2-c{number}",
            round_index=2,
            response=f"rewrite {number}",
            origin=CandidateOrigin.REWRITE,
        ),
        reward=reward,
        rewards_by_client={"clinic": reward},
        perplexity=perplexity,
    )


def queries_of(samples: Sequence[CuratedSample]) -> list[Query]:
    """Return the queries that samples answer."""
    return [Query(query_id=s.query_id, prompt=s.prompt, client_name=s.client_name) for s in samples]
