"""A made-up run for tests of the report: two clients, two rounds, seeded numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from lm.sampling import Completion
from lm.tables import TextRow
from protocol.artifacts import Certificate
from protocol.ledger import ProxyKind
from server_side.config import EvaluationConfig
from server_side.evaluation import ArmScores, compare_arms, score_answers, summarize_arm
from server_side.report import ReportInputs
from server_side.run_store import StageRecord
from server_side.samples import (
    Candidate,
    CandidateOrigin,
    CuratedSample,
    Feedback,
    Query,
    ScoredCandidate,
)
from tests.support.synthetic_rows import make_certificate

_OPENINGS = (
    "Hi, I was given amoxicillin on Tuesday and now I have a rash on both arms.",
    "My knee has been swollen since I slipped on the stairs, and bending it hurts.",
    "I get headaches behind my left eye in the afternoon, mostly on working days.",
    "My son, 4, has had a barking cough for two nights and sounds hoarse.",
    "Since the weekend I wake with heartburn and a bitter taste.",
)
_ADVICE = (
    "Stop the tablets and call us today so that we can choose another.",
    "Rest it, raise it, and cool it for ten minutes three times a day.",
    "Write down when it comes and how long it stays, and drink more in the mornings.",
    "Cool night air often helps; if he struggles for breath, go to the emergency room.",
    "Eat three hours before bed and raise the head end of it a little.",
    "If it gets worse or you run a fever above 39 degrees, come in the same day.",
    "We can see you on Thursday morning if it has not settled by then.",
)
CONFIG = EvaluationConfig(num_resamples=400)


def _advice(rng: np.random.Generator, num_sentences: int) -> str:
    return " ".join(rng.choice(_ADVICE, size=num_sentences, replace=False))


def _arm(rows: list[TextRow], *, quality: float, seed: int) -> ArmScores:
    rng = np.random.default_rng(seed)
    completions, scores = [], []
    for row in rows:
        own = " ".join(row.response.split(". ")[: 1 + int(rng.random() < quality)])
        text = f"{own} {_advice(rng, 2)}"
        completions.append([Completion(token_ids=(), text=text, is_finished=rng.random() < 0.9)])
        nll = 40 * float(rng.normal(3.4 - quality, 0.2))
        scores.append(score_answers([text], reference=row.response, nll_sum=nll, num_tokens=40))
    return summarize_arm(scores, completions, config=CONFIG, seed=0)


def make_certificates() -> tuple[Certificate, ...]:
    """Return the certificates of both proxies of both clients."""
    return tuple(
        make_certificate(client_name=client, proxy=proxy, ledger={"epsilon": epsilon})
        for client, epsilon in (("northside-clinic", 7.9987), ("harbour-clinic", 7.412))
        for proxy in ProxyKind
    )


def make_report_inputs(*, num_queries: int = 60, **changes: Any) -> ReportInputs:
    """Return a whole run."""
    rng = np.random.default_rng(7)
    clients = ("harbour-clinic", "northside-clinic")
    queries = tuple(
        Query(
            query_id=f"q{i:06d}",
            prompt=f"{_OPENINGS[i % 5]} It is day {1 + i % 9}. What should I do?",
            client_name=clients[i % 2],
        )
        for i in range(1, num_queries + 1)
    )
    scored = {
        round_index: tuple(
            _scored(query, round_index, number, rng)
            for query in queries[:: 1 if round_index == 1 else 2]
            for number in range(6)
        )
        for round_index in (1, 2)
    }
    pools = {1: _pool(queries, scored[1], size=num_queries // 8 + 1)}
    best = _pool(queries, scored[1] + scored[2], size=num_queries)
    pools[2] = best[: num_queries // 4 + 1]
    rows = [
        TextRow(prompt=f"{_OPENINGS[i % 5]} (test {i})", response=_advice(rng, 3))
        for i in range(40)
    ]
    untuned, tuned = _arm(rows, quality=0.1, seed=1), _arm(rows, quality=0.8, seed=2)
    values: dict[str, Any] = {
        "run_id": "2026-03-01_clinic_seed0",
        "certificates": make_certificates(),
        "stages": _stages(),
        "counts": {name: stage.counts for name, stage in _stages().items()},
        "queries": queries,
        "scored": scored,
        "pools": pools,
        "fallen": best[len(pools[2])],
        "feedback": {
            2: tuple(
                Feedback(
                    query_id=query.query_id,
                    text="The first answer names a day and a sign to watch for; the other does "
                    "not. Keep it as plain, and say when to come in.",
                )
                for query in queries[::2]
            )
        },
        "losses": {
            r: tuple(float(3.6 - 0.4 * r - 0.03 * s + rng.normal(0, 0.03)) for s in range(12))
            for r in (1, 2)
        },
        "test_rows": tuple(rows),
        "untuned": untuned,
        "tuned": tuned,
        "difference": compare_arms(untuned=untuned, tuned=tuned, config=CONFIG, seed=0),
        "pass_differences": {},
        "confidence_level": 0.95,
        "settings": {
            "software_version": "0.1.0",
            "base_model_digest": "ab" * 32,
            "config": {
                "seed": 0,
                "synthesis": {
                    "num_queries": num_queries,
                    "num_candidates": 6,
                    "response_sampling": {"top_p": 0.7, "max_new_tokens": 96},
                },
                "filtering": {"alpha": 0.5, "k": 8.0},
                "finetuning": {"target_modules": ["q_proj", "v_proj"], "num_upper_layers": None},
            },
        },
        "versions": {"Python": "3.11.9", "torch": "2.13.0"},
    }
    return ReportInputs(**(values | changes))


def _scored(
    query: Query, round_index: int, number: int, rng: np.random.Generator
) -> ScoredCandidate:
    reward = float(rng.normal(0.5 * (round_index - 1), 1.0))
    return ScoredCandidate(
        candidate=Candidate(
            query_id=query.query_id,
            candidate_id=f"{query.query_id}-r{round_index}-{number}",
            round_index=round_index,
            response=_advice(rng, int(rng.integers(1, 6))),
            origin=CandidateOrigin.GENERATOR if round_index == 1 else CandidateOrigin.REWRITE,
        ),
        reward=reward,
        rewards_by_client={"harbour-clinic": 2 * reward, "northside-clinic": reward / 3},
        perplexity=float(np.exp(rng.normal(2.8 - 0.1 * reward, 0.5))),
        # Not drawn: another draw would change every figure after it.
        consensus=0.1 + 0.01 * number,
    )


def _pool(
    queries: tuple[Query, ...], scored: tuple[ScoredCandidate, ...], *, size: int
) -> tuple[CuratedSample, ...]:
    samples = []
    for query in queries:
        own = [item for item in scored if item.candidate.query_id == query.query_id]
        best, worst = (pick(own, key=lambda item: item.reward) for pick in (max, min))
        samples.append(
            CuratedSample(
                query_id=query.query_id,
                client_name=query.client_name,
                instruction="Answer the patient's message.",
                prompt=query.prompt,
                chosen=best.candidate.response,
                rejected=worst.candidate.response,
                chosen_candidate_id=best.candidate.candidate_id,
                rejected_candidate_id=worst.candidate.candidate_id,
                chosen_reward=best.reward,
                rejected_reward=worst.reward,
                chosen_perplexity=best.perplexity,
                round_index=best.candidate.round_index,
            )
        )
    return tuple(sorted(samples, key=lambda sample: -sample.chosen_reward)[:size])


def _stages() -> dict[str, StageRecord]:
    def record(seconds: float, **counts: int) -> StageRecord:
        return StageRecord(files={}, counts=counts, seconds=seconds, peak_rss_bytes=1_850_000_000)

    return {
        "07_queries": record(
            61.0, num_sampled=94, num_unfinished=9, num_repeated=17, num_too_short=6,
            num_surplus=2, num_kept=60,
        ),
        "08_candidates_r1": record(
            148.0, num_queries=60, num_sampled=384, num_unfinished=14, num_repeated=5,
            num_queries_too_few_candidates=1, num_kept=360,
        ),
        "09_scored_r1": record(33.0, num_scored=360),
        "10_best_r1": record(0.1, num_pairs=60, num_queries_too_few_candidates=0),
        "10_pool_r1": record(0.04, num_pairs=60, num_below_threshold=52, num_kept=8),
        "11_target_r1": record(96.0),
        "12_feedback_r2": record(52.0, num_samples=30, num_cut=4, num_plain_advice=0),
        "08_candidates_r2": record(
            80.0, num_samples=30, num_sampled=180, num_unfinished=22, num_repeated=3,
            num_samples_without_rewrite=1, num_kept=155,
        ),
        "09_scored_r2": record(17.0, num_scored=155),
        "10_pool_r2": record(
            0.04, num_pairs=60, num_joined=8, num_renewed=3, num_below_threshold=44, num_kept=16
        ),
        "11_target_r2": record(101.0),
        "13_untuned": record(75.0, num_rows=40),
        "13_tuned": record(83.0, num_rows=40),
    }  # fmt: skip
