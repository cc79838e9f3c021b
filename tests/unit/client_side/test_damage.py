from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client_side.config import Damage
from client_side.damage import damage_ids, damage_text

TEXT = "Rest today. Drink water!\nCome back if it hurts? Call us."


def _bytes_of(text: str, limit: int = 10_000) -> tuple[int, ...]:
    return tuple(text.encode())[:limit]


def _damage_ids(text: str, *, seed: int, kinds: list[Damage], limit: int) -> tuple[int, ...]:
    return damage_ids(
        _bytes_of(text, limit),
        decode=lambda ids: bytes(ids).decode(errors="replace"),
        encode=lambda damaged: _bytes_of(damaged, limit),
        kinds=kinds,
        rng=np.random.default_rng(seed),
    )


def _words(text: str) -> list[str]:
    return sorted(text.split())


@pytest.mark.parametrize("seed", range(20))
def test_cutting_keeps_a_beginning(seed: int) -> None:
    found = damage_text(TEXT, kind=Damage.CUT, rng=np.random.default_rng(seed))

    assert TEXT.startswith(found)
    assert 0 < len(found.split()) < len(TEXT.split())


@pytest.mark.parametrize("seed", range(20))
def test_swapping_keeps_every_word_and_the_gaps(seed: int) -> None:
    found = damage_text(TEXT, kind=Damage.SWAP, rng=np.random.default_rng(seed))

    assert found != TEXT
    assert _words(found) == _words(TEXT)
    assert found.count("\n") == TEXT.count("\n")


@pytest.mark.parametrize("seed", range(20))
def test_dropping_takes_one_sentence(seed: int) -> None:
    found = damage_text(TEXT, kind=Damage.DROP, rng=np.random.default_rng(seed))

    assert sum(mark in found for mark in ("Rest", "Drink", "Come", "Call")) == 3
    assert found == found.strip()


@pytest.mark.parametrize("seed", range(20))
def test_repeating_says_one_sentence_twice(seed: int) -> None:
    found = damage_text(TEXT, kind=Damage.REPEAT, rng=np.random.default_rng(seed))

    counts = [found.count(mark) for mark in ("Rest", "Drink", "Come", "Call")]
    assert sorted(counts) == [1, 1, 1, 2]


def test_every_kind_is_drawn() -> None:
    kinds = list(Damage)

    found = {_damage_ids(TEXT, seed=seed, kinds=kinds, limit=1000) for seed in range(60)}

    assert any(TEXT.encode().startswith(bytes(ids)) for ids in found)
    assert any(_words(bytes(ids).decode()) == _words(TEXT) for ids in found)
    assert any(len(ids) > len(TEXT) for ids in found)


@given(
    text=st.text(min_size=1, max_size=60),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(Damage),
    limit=st.integers(1, 80),
)
def test_a_damaged_response_never_equals_the_original(
    text: str, seed: int, kind: Damage, limit: int
) -> None:
    """Also where a response is cut to a number of tokens and the damage lies behind the cut."""
    found = _damage_ids(text, seed=seed, kinds=[kind], limit=limit)

    assert found != _bytes_of(text, limit)
    assert len(found) <= limit


def test_damage_behind_the_cut_is_not_taken() -> None:
    """A repeated last sentence lies behind the cut, where training does not see it."""
    text = "Rest."

    found = _damage_ids(text, seed=0, kinds=[Damage.REPEAT], limit=len(text))

    assert found == _bytes_of("Re")
