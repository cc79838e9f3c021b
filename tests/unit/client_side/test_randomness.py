"""The source of noise: cipher and key, distribution, independence, the mark on a repeatable one."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from client_side import randomness
from client_side.randomness import Purpose, Randomness

_KEY = bytes(range(224, 256))


def test_every_stream_asks_the_operating_system_for_256_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def randbits(bits: int) -> int:
        asked.append(bits)
        return int.from_bytes(_KEY, "little")

    monkeypatch.setattr(randomness.secrets, "randbits", randbits)

    Randomness().child(Purpose.GENERATOR).child(Purpose.NOISE, 3)

    assert asked == [256, 256, 256]


def test_a_stream_is_chacha20_under_the_operating_systems_key(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second implementation's key stream; a uniform number is the top 53 bits of 64."""
    monkeypatch.setattr(randomness.secrets, "randbits", lambda _: int.from_bytes(_KEY, "little"))

    drawn = Randomness().draw_units(1000, sample_rate=0.5)

    cipher = Cipher(algorithms.ChaCha20(_KEY, nonce=bytes(16)), mode=None)
    words = np.frombuffer(cipher.encryptor().update(bytes(8 * 1000)), dtype="<u8")
    assert np.array_equal(drawn, np.flatnonzero((words >> np.uint64(11)) * 2.0**-53 < 0.5))


class _Doubling:
    """Stands in for normal numbers: 2 at the first draw, 4 at the second, 8 at the third."""

    num_draws = 0

    def standard_normal(self, *, out: np.ndarray) -> None:
        self.num_draws += 1
        out[:] = 2.0**self.num_draws


def test_noise_adds_up_several_draws_of_equal_weight() -> None:
    """With one draw, low bits would betray what lies beneath.

    The n draws 2, 4, …, 2^n add up to 2^(n + 1) − 2; weights of 1 ÷ √n keep the variance at 1.
    """
    source, numbers = Randomness(), _Doubling()
    source._rng = numbers

    noise = source.gaussian(3, standard_deviation=0.7)

    num_draws = numbers.num_draws
    assert num_draws >= 2
    assert noise == pytest.approx(0.7 * (2.0 ** (num_draws + 1) - 2) / np.sqrt(num_draws))


def test_gaussian_has_the_moments_and_shape_of_a_normal() -> None:
    """Kolmogorov–Smirnov and a chi-square interval, each with false-alarm probability 1e-6."""
    noise = Randomness(seed=5).gaussian(200_000, standard_deviation=0.7)

    assert stats.kstest(noise / 0.7, "norm").pvalue > 1e-6
    low, high = stats.chi2.interval(1 - 1e-6, df=noise.size)
    assert low < (noise**2).sum() / 0.7**2 < high


def test_successive_draws_are_uncorrelated() -> None:
    source = Randomness(seed=6)
    first = source.gaussian(100_000, standard_deviation=1.0)

    second = source.gaussian(100_000, standard_deviation=1.0)

    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(100_000)


def test_no_noise_is_no_noise() -> None:
    assert not Randomness(seed=0).gaussian(10, standard_deviation=0.0).any()


def test_two_streams_from_the_operating_system_differ() -> None:
    first = Randomness().gaussian(4, standard_deviation=1.0)

    assert not np.array_equal(first, Randomness().gaussian(4, standard_deviation=1.0))


def test_a_seed_repeats_the_stream_and_marks_it() -> None:
    first, second = Randomness(seed=1), Randomness(seed=1)

    assert np.array_equal(
        first.gaussian(4, standard_deviation=1.0), second.gaussian(4, standard_deviation=1.0)
    )
    assert first.is_reproducible


def test_the_operating_systems_stream_is_not_marked() -> None:
    assert not Randomness().is_reproducible


def test_neighbouring_seeds_share_nothing() -> None:
    first = Randomness(seed=1).gaussian(10_000, standard_deviation=1.0)
    second = Randomness(seed=2).gaussian(10_000, standard_deviation=1.0)

    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(10_000)


@pytest.mark.parametrize("sample_rate", [0.05, 0.5, 1.0])
def test_every_unit_is_drawn_at_the_sample_rate(sample_rate: float) -> None:
    source = Randomness(seed=2)

    drawn = np.zeros(50)
    for _ in range(2000):
        drawn[source.draw_units(50, sample_rate=sample_rate)] += 1

    spread = np.sqrt(sample_rate * (1 - sample_rate) / 2000)
    assert np.all(np.abs(drawn / 2000 - sample_rate) <= 6 * spread)


def test_a_seeds_children_repeat_and_share_nothing() -> None:
    """So that a training which goes on finds the streams of its remaining steps, and no others."""
    children = {
        (purpose, number): Randomness(seed=7).child(purpose, number)
        for purpose in (Purpose.DRAWS, Purpose.NOISE)
        for number in (0, 1)
    }
    noise = {
        path: child.gaussian(10_000, standard_deviation=1.0) for path, child in children.items()
    }
    again = Randomness(seed=7).child(Purpose.NOISE, 1).gaussian(10_000, standard_deviation=1.0)

    assert np.array_equal(noise[Purpose.NOISE, 1], again)
    correlations = np.corrcoef(
        [*noise.values(), Randomness(seed=7).gaussian(10_000, standard_deviation=1.0)]
    )
    off_diagonal = correlations[~np.eye(5, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(10_000)


def test_children_of_children_do_not_meet_other_paths() -> None:
    first = Randomness(seed=7).child(Purpose.REWARD).child(Purpose.NOISE, 2)
    second = Randomness(seed=7).child(Purpose.GENERATOR).child(Purpose.NOISE, 2)

    assert first.is_reproducible
    assert first.integer() != second.integer()


def test_without_a_seed_the_same_child_is_a_new_stream_each_time() -> None:
    """What a killed process drew for a step can be drawn again by nobody."""
    source = Randomness()

    first, second = (
        source.child(Purpose.NOISE, 3).gaussian(4, standard_deviation=1.0) for _ in range(2)
    )

    assert not np.array_equal(first, second)
    assert not source.child(Purpose.NOISE, 3).is_reproducible
