"""Stage 8: which responses to a prompt become candidates, and what is said where none do."""

from __future__ import annotations

import pytest

from lm.sampling import SamplingParams
from protocol.errors import StageError
from server_side.config import SamplingConfig, SynthesisConfig
from server_side.samples import Candidate, Query, StageResult
from server_side.synthesis import propose_candidates, synthesize_queries
from tests.support.fake_proxies import CUT, FakeProxies, no_progress


def queries_of(proxies: FakeProxies, count: int) -> list[Query]:
    return [
        Query(query_id=f"q{i}", prompt=f"prompt {i}", client_name=proxies.client_name)
        for i in range(count)
    ]


def propose(proxies: FakeProxies, count: int, **settings: object) -> StageResult[Candidate]:
    return propose_candidates(
        queries_of(proxies, count),
        [proxies],
        config=SynthesisConfig(**settings),  # type: ignore[arg-type]
        seed=0,
        on_progress=no_progress,
    )


def test_each_query_is_answered_by_its_own_clients_generator() -> None:
    north, south = FakeProxies("north"), FakeProxies("south")
    queries = [*queries_of(north, 2), Query(query_id="q9", prompt="p", client_name="south")]

    candidates = propose_candidates(
        queries,
        [north, south],
        config=SynthesisConfig(num_candidates=3),
        seed=0,
        on_progress=no_progress,
    ).values

    assert north.asked == ["Answer for north.\nprompt 0", "Answer for north.\nprompt 1"]
    assert south.asked == ["Answer for south.\np"]
    assert [c.candidate_id for c in candidates][:4] == [
        "q0-r1-c1", "q0-r1-c2", "q0-r1-c3", "q1-r1-c1",
    ]  # fmt: skip


def test_clients_answer_the_same_prompt_under_the_same_instruction_differently() -> None:
    """All that a fake generator's text hangs on is the chat, which is the same, and the seed."""
    north, south = FakeProxies("north"), FakeProxies("south")
    north.instruction = south.instruction = "Help."
    queries = [
        Query(query_id=proxies.client_name, prompt="I cough.", client_name=proxies.client_name)
        for proxies in (north, south)
    ]

    candidates = propose_candidates(
        queries, [north, south], config=SynthesisConfig(), seed=0, on_progress=no_progress
    ).values

    assert north.asked == south.asked
    texts = [{c.response for c in candidates if c.query_id == query.query_id} for query in queries]
    assert all(texts)
    assert not texts[0] & texts[1]


def test_unfinished_short_and_repeated_responses_fall_and_are_counted() -> None:
    texts = iter(["rest a lot", None, "Rest  a lot", "no", "drink some water"])
    proxies = FakeProxies(write=lambda text, rng: next(texts))

    result = propose_candidates(
        queries_of(proxies, 1),
        [proxies],
        config=SynthesisConfig(num_candidates=5),
        seed=0,
        on_progress=no_progress,
    )

    assert [c.response for c in result.values] == ["rest a lot", "drink some water"]
    assert result.counts == {
        "num_queries": 1,
        "num_sampled": 5,
        "num_unfinished": 1,
        "num_repeated": 1,
        "num_too_short": 1,
        "num_kept": 2,
    }


def test_cut_responses_may_end_with_their_last_whole_sentence() -> None:
    texts = iter(
        ["Rest a lot.", f"Rest a lot. And{CUT}", f"Drink some water. Do{CUT}", f"Go and{CUT}"]
    )
    proxies = FakeProxies(write=lambda text, rng: next(texts))

    result = propose_candidates(
        queries_of(proxies, 1),
        [proxies],
        config=SynthesisConfig(num_candidates=4, when_cut="trim"),
        seed=0,
        on_progress=no_progress,
    )

    assert [c.response for c in result.values] == ["Rest a lot.", "Drink some water."]
    assert result.counts == {
        "num_queries": 1,
        "num_sampled": 4,
        "num_trimmed": 2,
        "num_repeated": 1,
        "num_unfinished": 1,
        "num_kept": 2,
    }


def test_query_with_one_candidate_left_falls() -> None:
    texts = iter(["only one response", None, "first of two", "second of two"])
    proxies = FakeProxies(write=lambda text, rng: next(texts))

    result = propose(proxies, 2, num_candidates=2)

    assert {c.query_id for c in result.values} == {"q1"}
    assert result.counts["num_queries_too_few_candidates"] == 1
    assert result.counts["num_without_rival"] == 1


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (None, "Raise .*max_new_tokens"),
        ("Yes.", "Lower .*min_response"),
        ("A b c.", "Raise .*temp"),
    ],
)
def test_no_two_usable_candidates_is_an_error_with_fitting_advice(
    text: str | None, advice: str
) -> None:
    proxies = FakeProxies(write=lambda _, rng: text)

    with pytest.raises(StageError, match=advice):
        propose(proxies, 3)


def test_prompts_and_responses_are_drawn_each_as_its_own_settings_say() -> None:
    proxies = FakeProxies()
    config = SynthesisConfig(
        num_queries=3,
        num_candidates=5,
        prompt_sampling=SamplingConfig(
            max_new_tokens=11, temperature=0.1, top_p=0.2, repetition_penalty=1.3
        ),
        response_sampling=SamplingConfig(
            max_new_tokens=12, temperature=0.4, top_p=0.5, repetition_penalty=1.6
        ),
    )

    queries = synthesize_queries([proxies], config=config, seed=0, on_progress=no_progress).values
    of_prompts = list(proxies.sampler_of.params)
    propose_candidates(queries, [proxies], config=config, seed=0, on_progress=no_progress)
    of_responses = proxies.sampler_of.params[len(of_prompts) :]

    assert set(of_prompts) == {
        SamplingParams(max_new_tokens=11, temperature=0.1, top_p=0.2, repetition_penalty=1.3)
    }
    assert set(of_responses) == {
        SamplingParams(
            max_new_tokens=12, num_candidates=5, temperature=0.4, top_p=0.5, repetition_penalty=1.6
        )
    }
