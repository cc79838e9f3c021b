"""Canaries are distinct units, unlikely in the way that their kind says, and repeatable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lm.loading import load_tokenizer
from lm.tables import TextRow
from protocol.errors import ConfigurationError
from simulations.audit.canaries import Canary, compose_canaries, flip_coins
from simulations.audit.config import CanaryKind
from tests.support.auditing import build_wordy_model
from tests.support.samplers import FakeSampler

SEEDS = tuple(TextRow(prompt=f"question {n}", response="one two three four") for n in range(24))


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wordy_model(tmp_path_factory.mktemp("wordy"))


def compose(
    folder: Path, kinds: Sequence[CanaryKind], *, avoid: Sequence[TextRow] = (), seed: int = 1
) -> tuple[Canary, ...]:
    return compose_canaries(
        SEEDS,
        kinds=kinds,
        tokenizer=load_tokenizer(folder),
        open_base=lambda: FakeSampler(lambda prefix, n: (70 + len(prefix) % 5, 80 + n)),
        instruction="Answer.",
        avoid=avoid,
        rng=np.random.default_rng(seed),
    )


def test_kinds_are_dealt_evenly_and_prompts_are_the_seeds(wordy: Path) -> None:
    canaries = compose(wordy, list(CanaryKind))

    assert [canary.prompt for canary in canaries] == [seed.prompt for seed in SEEDS]
    for kind in CanaryKind:
        assert sum(canary.kind is kind for canary in canaries) == len(SEEDS) // len(CanaryKind)


def test_no_two_canaries_are_one_unit(wordy: Path) -> None:
    canaries = compose(wordy, list(CanaryKind))

    assert len({(canary.prompt, canary.response) for canary in canaries}) == len(SEEDS)


def test_new_tokens_occur_in_no_record_and_in_no_other_canary(wordy: Path) -> None:
    avoid = [TextRow(prompt=f"<w{n}>", response="x") for n in range(150)]

    canaries = compose(wordy, [CanaryKind.NEW_TOKEN], avoid=avoid)

    responses = [canary.response for canary in canaries]
    assert len(set(responses)) == len(SEEDS)
    assert not set(responses) & {row.prompt for row in avoid}
    tokenizer = load_tokenizer(wordy)
    assert all(len(tokenizer(text)["input_ids"]) == 1 for text in responses)


def test_too_small_a_vocabulary_for_new_tokens_is_an_error(tiny_llama: Path) -> None:
    everything = [TextRow(prompt="".join(map(chr, range(33, 127))), response="x")]

    with pytest.raises(ConfigurationError, match="24 tokens that no record uses"):
        compose(tiny_llama, [CanaryKind.NEW_TOKEN], avoid=everything)


def test_a_domain_beginning_is_the_seeds_own(wordy: Path) -> None:
    canaries = compose(wordy, [CanaryKind.DOMAIN_BEGINNING])

    assert all(canary.response.startswith("one two ") for canary in canaries)
    assert len({canary.response for canary in canaries}) == len(SEEDS)


def test_a_seed_repeats_canaries_and_another_gives_others(wordy: Path) -> None:
    first, again, other = (
        compose(wordy, [CanaryKind.RANDOM_SUFFIX], seed=seed) for seed in (1, 1, 2)
    )

    assert first == again
    assert first != other


def test_coins_are_fair_and_independent() -> None:
    """10,000 coins: more than 5 standard deviations off happens once in two million."""
    coins = flip_coins(10_000, rng=np.random.default_rng(0))

    assert abs(int(coins.sum()) - 5000) < 250
    assert abs(np.corrcoef(coins[1:], coins[:-1])[0, 1]) < 0.05
