"""What generators have learnt, told by the perplexity of public test responses."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from lm.errors import ScoringError
from lm.tables import TextRow
from protocol.errors import ExchangeError
from server_side.config import EvaluationConfig
from server_side.measuring.generator_fit import (
    FitQuality,
    GeneratorFit,
    fit_qualities,
    judge_generators,
    warn_of_idle_generators,
    with_sound_generator,
)
from tests.support.fake_proxies import FakeProxies, no_progress

ROWS = [TextRow(prompt=f"q{i}", response="rest " * (1 + i)) for i in range(6)]
CONFIG = EvaluationConfig(num_resamples=200)


def fit(*, untuned: tuple[float, ...], tuned: tuple[float, ...]) -> GeneratorFit:
    return GeneratorFit(
        client_name="north", untuned_nll_sums=untuned, tuned_nll_sums=tuned, num_tokens=(1, 3)
    )


def quality_of(value: GeneratorFit) -> FitQuality:
    return fit_qualities([value], config=CONFIG, seed=0)["north"]


def test_perplexity_weighs_tokens_alike_whatever_response_they_stand_in() -> None:
    """(1 + 7) nats on 1 + 3 tokens are 2 a token, where a mean over responses says 5/3."""
    quality = quality_of(fit(untuned=(1.0, 7.0), tuned=(1.0, 3.0)))

    assert quality.untuned.mean == pytest.approx(math.exp(2))
    assert quality.tuned.mean == pytest.approx(math.exp(1))
    assert quality.difference.mean == pytest.approx(math.exp(1) - math.exp(2))


def test_a_generator_has_learnt_only_where_the_interval_says_so() -> None:
    learnt = quality_of(fit(untuned=(2.0, 6.0), tuned=(1.0, 3.0)))
    lucky = quality_of(fit(untuned=(2.0, 6.0), tuned=(0.5, 6.5)))
    unlearnt = quality_of(fit(untuned=(1.0, 3.0), tuned=(2.0, 6.0)))

    assert [q.verdict for q in (learnt, lucky, unlearnt)] == ["better", "unclear", "worse"]


def test_every_client_is_asked_for_the_same_responses_and_progress_runs_through() -> None:
    """A fake's base model needs twice the nats of its generator."""
    told: list[tuple[int, int]] = []
    result = judge_generators(
        ROWS,
        generators=[
            FakeProxies("north", perplexity=lambda *_: 2.0),
            FakeProxies("south", perplexity=lambda *_: 3.0),
        ],
        max_batch_tokens=512,
        on_progress=lambda *done: told.append(done),
    )

    qualities = fit_qualities(result.values, config=CONFIG, seed=0)

    assert {name: (q.untuned.mean, q.tuned.mean) for name, q in qualities.items()} == {
        "north": (pytest.approx(4.0), pytest.approx(2.0)),
        "south": (pytest.approx(9.0), pytest.approx(3.0)),
    }
    assert told == [(6, 24), (12, 24), (18, 24), (24, 24)]


def test_clients_with_one_base_model_and_one_instruction_share_its_answer() -> None:
    told: list[tuple[int, int]] = []
    proxies = [FakeProxies(name, perplexity=lambda *_: 2.0) for name in ("north", "south")]
    proxies[1].untuned = proxies[0].untuned

    result = judge_generators(
        ROWS,
        generators=proxies,
        max_batch_tokens=512,
        on_progress=lambda *done: told.append(done),
    )

    assert told == [(6, 18), (12, 18), (18, 18)]
    north, south = result.values
    assert north.untuned_nll_sums == south.untuned_nll_sums != north.tuned_nll_sums


def test_a_generator_that_has_learnt_nothing_is_named_before_anything_is_sampled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    idle = judge_generators(
        ROWS,
        generators=[FakeProxies("idle", perplexity=lambda *_: 1.0), FakeProxies("able")],
        max_batch_tokens=512,
        on_progress=no_progress,
    )

    warn_of_idle_generators(fit_qualities(idle.values, config=CONFIG, seed=0))

    (record,) = caplog.records
    assert "The generator of idle" in record.getMessage()
    assert "perplexity 1.0, base 1.0" in record.getMessage()


def test_a_generator_that_is_only_perhaps_better_is_not_said_to_be_no_better(
    caplog: pytest.LogCaptureFixture,
) -> None:
    unclear = quality_of(fit(untuned=(1.0, 7.0), tuned=(2.0, 5.0)))
    worse = quality_of(fit(untuned=(1.0, 3.0), tuned=(2.0, 7.0)))
    assert (unclear.verdict, worse.verdict) == ("unclear", "worse")
    assert unclear.tuned.mean < unclear.untuned.mean

    warn_of_idle_generators({"north": unclear, "south": worse})

    of_unclear, of_worse = (record.getMessage() for record in caplog.records)
    assert "test responses not clearly likelier than its base model" in of_unclear
    assert "test responses no likelier than its base model" in of_worse


def raise_scoring_error(prompt: str, response: str) -> float:
    raise ScoringError


def without_number(prompt: str, response: str) -> float:
    return math.inf


@pytest.mark.parametrize("perplexity", [without_number, raise_scoring_error])
def test_a_client_whose_generator_is_broken_is_left_out_and_the_others_go_on(
    perplexity: Callable[[str, str], float], caplog: pytest.LogCaptureFixture
) -> None:
    able, broken = FakeProxies("able"), FakeProxies("broken", perplexity=perplexity)
    broken.untuned = able.untuned  # the base model below it is in order

    result = judge_generators(
        ROWS, generators=[able, broken], max_batch_tokens=512, on_progress=no_progress
    )
    left = with_sound_generator([able, broken], result.values, min_clients=1)

    assert left == (able,)
    assert result.counts == {"num_generators": 2, "num_left_out": 1}
    (record,) = caplog.records
    assert "Client broken is left out with both of its proxies" in record.getMessage()


def test_too_few_clients_with_a_generator_that_works_are_an_error_that_names_the_others() -> None:
    able, broken = FakeProxies("able"), FakeProxies("broken", perplexity=without_number)
    broken.untuned = able.untuned
    result = judge_generators(
        ROWS, generators=[able, broken], max_batch_tokens=512, on_progress=no_progress
    )

    with pytest.raises(ExchangeError, match=r"at least 2 clients.*found 1: the weights of broken"):
        with_sound_generator([able, broken], result.values, min_clients=2)


def test_a_base_model_that_is_broken_is_nobodys_fault_and_ends_the_job() -> None:
    with pytest.raises(ScoringError):
        judge_generators(
            ROWS,
            generators=[FakeProxies("north", perplexity=raise_scoring_error)],
            max_batch_tokens=512,
            on_progress=no_progress,
        )
