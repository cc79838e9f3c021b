from __future__ import annotations

import random
from collections import Counter

import pytest

from protocol.errors import ConfigurationError, StageError
from server_side.config import SynthesisConfig
from server_side.samples import PromptOrigin, Query
from server_side.synthesis import client_quotas, synthesize_queries
from tests.support.fake_proxies import CUT, FakeProxies, no_progress, write_words


def synthesize(*proxies: FakeProxies, seed: int = 0, **settings: object) -> tuple[Query, ...]:
    config = SynthesisConfig(**{"num_queries": 20, **settings})  # type: ignore[arg-type]
    return synthesize_queries(proxies, config=config, seed=seed, on_progress=no_progress).values


def test_prompts_are_distinct_and_as_many_as_asked_for() -> None:
    queries = synthesize(FakeProxies())

    assert len({query.prompt for query in queries}) == 20
    assert [query.query_id for query in queries][:2] == ["q000001", "q000002"]


def test_same_seed_gives_the_same_prompts_and_another_seed_others() -> None:
    assert synthesize(FakeProxies()) == synthesize(FakeProxies())
    assert synthesize(FakeProxies()) != synthesize(FakeProxies(), seed=1)


def test_clients_whose_generators_open_alike_draw_other_prompts() -> None:
    """All that a fake generator's text hangs on is the opening, which is the same, and the seed."""
    drawn: dict[str, list[str]] = {"north": [], "south": []}

    def noting(name: str) -> FakeProxies:
        def write(text: str, rng: random.Random) -> str:
            drawn[name].append(write_words(text, rng))
            return drawn[name][-1]

        return FakeProxies(name, write=write)

    synthesize(noting("north"), noting("south"))

    assert len(drawn["north"]) >= 10
    assert not set(drawn["north"]) & set(drawn["south"])


def test_prompts_are_shared_out_by_weight() -> None:
    queries = synthesize(
        FakeProxies("north"), FakeProxies("south"), client_weights={"north": 3.0, "south": 1.0}
    )

    assert Counter(query.client_name for query in queries) == {"north": 15, "south": 5}


def test_what_falls_is_counted_by_reason() -> None:
    texts = iter(["a b c d", "A  b c D", "too short", None, "w " * 201, "e f g h", "i j k l m"])
    proxies = FakeProxies(write=lambda text, rng: next(texts))
    config = SynthesisConfig(num_queries=3, max_attempts_factor=7 / 3)

    result = synthesize_queries([proxies], config=config, seed=0, on_progress=no_progress)

    assert [query.prompt for query in result.values] == ["a b c d", "e f g h", "i j k l m"]
    assert result.counts == {
        "num_sampled": 7,
        "num_repeated": 1,
        "num_too_short": 1,
        "num_unfinished": 1,
        "num_too_long": 1,
        "num_kept": 3,
    }


def test_a_cut_prompt_may_end_with_its_last_whole_sentence() -> None:
    proxies = FakeProxies(write=lambda text, rng: f"It hurts a lot. What should I{CUT}")
    config = SynthesisConfig(num_queries=1, min_yield=1.0, when_cut="trim")

    result = synthesize_queries([proxies], config=config, seed=0, on_progress=no_progress)

    assert [query.prompt for query in result.values] == ["It hurts a lot."]
    assert result.counts == {"num_sampled": 1, "num_trimmed": 1, "num_kept": 1}


def test_a_cut_prompt_in_which_nothing_ended_falls_also_where_others_are_trimmed() -> None:
    texts = iter([f"it hurts so much{CUT}", f"It hurts a lot. And{CUT}"])
    proxies = FakeProxies(write=lambda text, rng: next(texts))
    config = SynthesisConfig(num_queries=1, when_cut="trim")

    result = synthesize_queries([proxies], config=config, seed=0, on_progress=no_progress)

    assert result.counts == {
        "num_sampled": 2, "num_unfinished": 1, "num_trimmed": 1, "num_kept": 1,
    }  # fmt: skip


def test_generator_that_repeats_itself_ends_after_the_allowed_attempts() -> None:
    proxies = FakeProxies(write=lambda text, rng: "always the same prompt")
    config = SynthesisConfig(num_queries=5, max_attempts_factor=3.0)

    result = synthesize_queries([proxies], config=config, seed=0, on_progress=no_progress)

    assert len(result.values) == 1
    assert result.counts["num_sampled"] == 15


def test_generator_that_repeats_itself_is_refused_where_too_little_is_found() -> None:
    proxies = FakeProxies(write=lambda text, rng: "always the same prompt")

    with pytest.raises(StageError, match=r"at least 2 .* found 1 .*repeated: 79.*temperature"):
        synthesize(proxies)
    assert len(synthesize(proxies, min_yield=0.0)) == 1


def test_prompt_of_the_test_set_falls_and_is_counted() -> None:
    texts = iter(["How  IS my knee?", "a b c d", "how is my knee?", "e f g h"])
    proxies = FakeProxies(write=lambda text, rng: next(texts))

    result = synthesize_queries(
        [proxies],
        config=SynthesisConfig(num_queries=2, max_attempts_factor=2.0),
        seed=0,
        on_progress=no_progress,
        test_prompts=["How is my knee?", "another"],
    )

    assert [query.prompt for query in result.values] == ["a b c d", "e f g h"]
    assert result.counts["num_in_test_set"] == 2


def test_public_prompts_come_first_by_the_same_rules_and_generators_write_the_rest() -> None:
    public = ["How is my knee?", "May I walk today?", "may i WALK today?", "short", "Is ice good?"]
    proxies = [FakeProxies("north"), FakeProxies("south")]

    result = synthesize_queries(
        proxies,
        config=SynthesisConfig(num_queries=6, min_prompt_words=3),
        seed=0,
        on_progress=no_progress,
        test_prompts=["how is my knee?"],
        public_prompts=public,
    )

    origins = [query.origin for query in result.values]
    assert origins == [PromptOrigin.PUBLIC] * 2 + [PromptOrigin.GENERATOR] * 4
    assert {query.prompt.lower() for query in result.values[:2]} == {
        "may i walk today?", "is ice good?",
    }  # fmt: skip
    assert Counter(query.client_name for query in result.values) == {"north": 3, "south": 3}
    assert len({query.query_id for query in result.values}) == 6
    fallen = {name: result.counts[name] for name in ("num_in_test_set", "num_too_short")}
    assert fallen == {"num_in_test_set": 1, "num_too_short": 1}
    assert (result.counts["num_public"], result.counts["num_kept"]) == (5, 6)


def test_public_prompts_that_all_fall_are_refused() -> None:
    """Else the generators would write all, and the arm be another one under this one's name."""
    with pytest.raises(StageError, match=r"found none of 2 \(in_test_set: 2\)"):
        synthesize_queries(
            [FakeProxies()],
            config=SynthesisConfig(num_queries=6),
            seed=0,
            on_progress=no_progress,
            test_prompts=["how is my knee?", "may I walk today?"],
            public_prompts=["How is my knee?", "May I walk today?"],
        )


def test_fewer_public_prompts_than_are_asked_for_are_said_and_enough_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def draw(num_queries: int) -> str:
        caplog.clear()
        synthesize_queries(
            [FakeProxies()],
            config=SynthesisConfig(num_queries=num_queries),
            seed=0,
            on_progress=no_progress,
            public_prompts=["How is my knee?", "May I walk today?", "Ouch."],
        )
        return caplog.text

    assert (
        "2 of 3 public prompts are usable (too_short: 1); the generators write the other 4 of "
        "synthesis.num_queries=6."
    ) in draw(6)
    assert not draw(2)


def test_where_public_prompts_are_enough_no_generator_is_asked() -> None:
    public = [f"what about pill {number}?" for number in range(50)]
    proxies = FakeProxies()

    first, again, other = (
        synthesize_queries(
            [proxies],
            config=SynthesisConfig(num_queries=20),
            seed=seed,
            on_progress=no_progress,
            public_prompts=public,
        ).values
        for seed in (0, 0, 1)
    )

    assert len(first) == 20
    assert first == again != other
    assert not proxies.sampler_of.params


def few_shot(**settings: object) -> SynthesisConfig:
    values = {"num_queries": 8, "public_prompts_path": "p.jsonl", "public_prompts_use": "few_shot"}
    return SynthesisConfig(**{**values, **settings})  # type: ignore[arg-type]


def test_public_prompts_are_shown_as_examples_and_generators_write_all() -> None:
    public = [f"what about pill {number}?" for number in range(9)] + ["How is my knee?", "short"]
    before: list[str] = []

    def write(text: str, rng: random.Random) -> str:
        before.append(text)
        return write_words(text, rng)

    first, again = (
        synthesize_queries(
            [FakeProxies(write=write)],
            config=few_shot(num_public_examples=2),
            seed=0,
            on_progress=no_progress,
            test_prompts=["how is my knee?"],
            public_prompts=public,
        )
        for _ in range(2)
    )

    shown = [text.split("\n")[:-1] for text in before]
    assert {len(set(examples)) for examples in shown} == {2}
    assert {example for examples in shown for example in examples} <= set(public[:9])
    assert len({tuple(examples) for examples in shown}) > 2
    assert {query.origin for query in first.values} == {PromptOrigin.FEW_SHOT}
    assert len(first.values) == 8
    assert first.counts["num_public_examples"] == 9
    assert "num_public" not in first.counts
    assert first.values == again.values


def test_a_generator_that_copies_an_example_has_repeated_it() -> None:
    public = [f"what about pill {number}?" for number in range(3)]
    copies = FakeProxies(write=lambda text, rng: text.split("\n")[0].upper())

    with pytest.raises(StageError, match="repeated: 32"):
        synthesize_queries(
            [copies], config=few_shot(), seed=0, on_progress=no_progress, public_prompts=public
        )


def test_too_few_public_prompts_to_show_are_refused() -> None:
    with pytest.raises(StageError, match=r"at least 3 public prompts.*found 1 of 2"):
        synthesize_queries(
            [FakeProxies()],
            config=few_shot(),
            seed=0,
            on_progress=no_progress,
            public_prompts=["what about this pill?", "What about THIS pill?"],
        )


def test_examples_without_a_file_of_them_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"public_prompts_path.*few_shot"):
        SynthesisConfig(public_prompts_use="few_shot")


def test_no_usable_prompt_is_one_clear_error() -> None:
    with pytest.raises(StageError, match="unfinished: 80"):
        synthesize(FakeProxies(write=lambda text, rng: None))


def test_prompts_of_a_client_that_did_not_deliver_fall_to_the_others() -> None:
    config = SynthesisConfig(client_weights={"a": 3.0, "b": 1.0, "gone": 4.0})

    assert client_quotas(["a", "b"], config, num_queries=8) == {"a": 6, "b": 2}


def test_weights_for_clients_that_are_not_there_alone_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="nobody"):
        synthesize(FakeProxies(), client_weights={"nobody": 1.0})


@pytest.mark.parametrize("num_queries", [0, 1, 7, 100])
def test_quotas_add_up(num_queries: int) -> None:
    quotas = client_quotas(["a", "b", "c"], SynthesisConfig(), num_queries=num_queries)

    assert sum(quotas.values()) == num_queries
    assert max(quotas.values()) - min(quotas.values()) <= 1


def test_progress_never_falls() -> None:
    seen: list[int] = []
    rng = random.Random(0)  # noqa: S311 - no secret
    proxies = FakeProxies(
        write=lambda text, own: None if rng.random() < 0.5 else f"a b c {own.random()}"
    )

    synthesize_queries(
        [proxies, FakeProxies("other")],
        config=SynthesisConfig(num_queries=30),
        seed=0,
        on_progress=lambda done, total: seen.append(done),
    )

    assert seen == sorted(seen)
    assert len(seen) > 2
