"""What is said of a response, and what the target makes of it: each under its own question."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from lm.sampling import SamplingParams
from server_side.config import FilteringConfig, RefinementConfig, SamplingConfig
from server_side.refinement import choose_again, refine_samples, write_feedback
from server_side.samples import Candidate, CandidateOrigin, CuratedSample, Feedback
from tests.support.curated import curated, queries_of, rewrite
from tests.support.fake_proxies import CUT, FakeProxies, no_progress

FIVE = [curated(f"q{number}", reward) for number, reward in enumerate((0.0, 4.0, 3.0, 1.0, 2.0))]


def of(client_name: str, *query_ids: str) -> list[CuratedSample]:
    return [replace(curated(query_id, 1.0), client_name=client_name) for query_id in query_ids]


def repeat_question(text: str, rng: random.Random) -> str:
    """Write the question that stands in a chat, which tells to whom an answer belongs."""
    question = text.partition("Question:\n")[2].partition("\n")[0]
    return f"on {question}, and nothing else {rng.random()}"


def refine(
    samples: list[CuratedSample], target: FakeProxies, **settings: int | str
) -> tuple[tuple[Candidate, ...], dict[str, int]]:
    result = refine_samples(
        samples,
        [Feedback(query_id=s.query_id, text=f"advice for {s.query_id}") for s in samples],
        target=target,
        config=RefinementConfig(**settings),  # type: ignore[arg-type]
        round_index=2,
        seed=0,
        on_progress=no_progress,
    )
    return result.values, dict(result.counts)


def feedback_on(
    samples: Sequence[CuratedSample],
    *,
    generators: Sequence[FakeProxies],
    target: FakeProxies,
    feedback_writer: str = "generator",
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Return whose each feedback is and about which question it speaks, and the counts."""
    result = write_feedback(
        samples,
        generators=generators,
        target=target,
        config=RefinementConfig(feedback_writer=feedback_writer),
        seed=0,
        on_progress=no_progress,
    )
    return [(f.query_id, f.text.partition(",")[0]) for f in result.values], dict(result.counts)


def test_generator_of_the_own_client_writes_feedback_on_each_of_its_samples() -> None:
    clinic, bank, target = (
        FakeProxies(name, write=repeat_question) for name in ("clinic", "bank", "target")
    )
    samples = [*of("clinic", "q1"), *of("bank", "q2", "q3"), *of("clinic", "q4")]

    feedback, _ = feedback_on(samples, generators=[bank, clinic], target=target)

    assert feedback == [(name, f"on {name}") for name in ("q1", "q2", "q3", "q4")]
    assert ["good" in text and "bad" in text for text in clinic.asked] == [True, True]
    assert len(bank.asked) == 2
    assert target.asked == []


def test_target_or_nobody_can_write_feedback() -> None:
    clinic, target = (FakeProxies(name, write=repeat_question) for name in ("clinic", "target"))
    samples = of("clinic", "q1", "q2")
    common = {"generators": [clinic], "target": target}

    by_target, _ = feedback_on(samples, feedback_writer="target", **common)  # type: ignore[arg-type]
    by_nobody, counts = feedback_on(samples, feedback_writer="none", **common)  # type: ignore[arg-type]

    assert by_target == [("q1", "on q1"), ("q2", "on q2")]
    assert (len(clinic.asked), len(target.asked)) == (0, 2)
    assert counts["num_plain_advice"] == 2
    assert all(text for _, text in by_nobody)


def test_feedback_that_says_nothing_is_replaced() -> None:
    clinic = FakeProxies("clinic", write=lambda text, rng: "  ")

    result = write_feedback(
        [curated("q1", 1.0)],
        generators=[clinic],
        target=clinic,
        config=RefinementConfig(),
        seed=0,
        on_progress=no_progress,
    )

    assert result.values[0].text.strip()
    assert result.counts["num_plain_advice"] == 1


def test_target_rewrites_each_chosen_response_in_the_light_of_its_own_feedback() -> None:
    target = FakeProxies("target", write=repeat_question)

    candidates, counts = refine(of("clinic", "q1", "q2", "q3"), target, num_candidates=2)

    assert [
        all(part in text for part in (f"Question:\nq{n}\n", "good", f"advice for q{n}"))
        for n, text in enumerate(target.asked, start=1)
    ] == [True] * 3
    assert [c.candidate_id for c in candidates] == [
        f"q{n}-r2-c{number}" for n in (1, 2, 3) for number in (1, 2)
    ]
    assert all(c.response.startswith(f"on {c.query_id},") for c in candidates)
    assert {c.origin for c in candidates} == {CandidateOrigin.REWRITE}
    assert [c.lineage for c in candidates[::2]] == [(f"q{n}-r1-c1",) for n in (1, 2, 3)]
    assert counts["num_kept"] == 6


def test_rewrite_that_repeats_the_chosen_response_falls() -> None:
    texts = iter(["Good", "not the same", None])
    target = FakeProxies("target", write=lambda text, rng: next(texts))

    candidates, counts = refine(
        [curated("q1", 1.0)], target, num_candidates=3, min_response_words=1
    )

    assert [c.response for c in candidates] == ["not the same"]
    assert (counts["num_repeated"], counts["num_unfinished"]) == (1, 1)


def test_a_cut_rewrite_may_end_with_its_last_whole_sentence() -> None:
    texts = iter([f"Rest a lot. And{CUT}", None])
    target = FakeProxies("target", write=lambda text, rng: next(texts))

    candidates, counts = refine([curated("q1", 1.0)], target, num_candidates=2, when_cut="trim")

    assert [c.response for c in candidates] == ["Rest a lot."]
    assert (counts["num_trimmed"], counts["num_unfinished"]) == (1, 1)


def test_round_without_a_usable_rewrite_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    best = [curated("q1", 1.0)]

    candidates, counts = refine(best, FakeProxies("target", write=lambda text, rng: None))
    again = choose_again(best, [], queries=queries_of(best), config=FilteringConfig()).values

    assert candidates == ()
    assert counts["num_samples_without_rewrite"] == 1
    assert "max_new_tokens" in caplog.text
    assert again == tuple(best)


def test_rewrite_of_a_rewrite_carries_its_whole_lineage() -> None:
    best = [curated("q1", 1.0)]
    first = rewrite("q1", 1, 2.0, 1.0)
    first = replace(first, candidate=replace(first.candidate, lineage=("q1-r1-c1",)))
    (sample,) = choose_again(
        best, [first], queries=queries_of(best), config=FilteringConfig()
    ).values

    candidates, _ = refine([sample], FakeProxies("target"), num_candidates=1)

    assert (sample.chosen_origin, sample.chosen_lineage) == (
        CandidateOrigin.REWRITE,
        ("q1-r1-c1",),
    )
    assert candidates[0].lineage == ("q1-r1-c1", "q1-r2-c1")


def test_feedback_and_rewrites_are_drawn_each_as_its_own_settings_say() -> None:
    clinic, target = FakeProxies("clinic"), FakeProxies("target")
    config = RefinementConfig(
        num_candidates=3,
        feedback_sampling=SamplingConfig(
            max_new_tokens=11, temperature=0.1, top_p=0.2, repetition_penalty=1.3
        ),
        rewrite_sampling=SamplingConfig(
            max_new_tokens=12, temperature=0.4, top_p=0.5, repetition_penalty=1.6
        ),
    )
    common = {"target": target, "config": config, "seed": 0, "on_progress": no_progress}

    feedback = write_feedback(FIVE, generators=[clinic], **common).values  # type: ignore[arg-type]
    refine_samples(FIVE, feedback, round_index=2, **common)  # type: ignore[arg-type]

    assert clinic.sampler_of.params == [
        SamplingParams(max_new_tokens=11, temperature=0.1, top_p=0.2, repetition_penalty=1.3)
    ]
    assert target.sampler_of.params == [
        SamplingParams(
            max_new_tokens=12, num_candidates=3, temperature=0.4, top_p=0.5, repetition_penalty=1.6
        )
    ]
