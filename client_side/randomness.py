"""Where the randomness of sampling and noise comes from.

Each use has a stream of its own: a child for the draws of a step, one for its noise. A training
that was cut off and goes on so needs nothing of the streams before it, and no key is ever kept.

Covers: unpredictable Poisson sampling and Gaussian noise from ChaCha20 keyed by the operating
system; the floating-point attack on Gaussian samples, by adding up several draws.
Does not cover: an attacker on the client's own machine, or timing of the draws.

Reference: Holohan and Braghin, "Secure Random Sampling in Differential Privacy" (ESORICS 2021):
with n draws added, inverting the sampler takes about 2^(53 (n - 1)) guesses.
"""

from __future__ import annotations

import math
import secrets
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from randomgen import ChaCha

# Privacy: with fewer than 2 draws the low bits of a noisy value can betray the value beneath.
_GAUSSIAN_DRAWS = 4


class Purpose(IntEnum):
    """What a stream is for; two purposes never share numbers, not even under a fixed seed."""

    GENERATOR = 0
    """Everything of the generator proxy's training."""
    REWARD = 1
    """Everything of the reward proxy's training."""
    DRAWS = 2
    """Which units enter a step."""
    NOISE = 3
    """What is added to a step."""
    NEGATIVES = 4
    """The machine-written responses of preference pairs."""


class Randomness:
    """A cryptographically secure stream of uniform and Gaussian numbers.

    Attributes:
        is_reproducible: Whether the stream was made from a fixed seed. Noise that can be
            reproduced is no noise: the ledger is marked, and admission refuses by default.
    """

    def __init__(self, *, seed: int | None = None, path: tuple[int, ...] = ()) -> None:
        """Key the stream.

        Args:
            seed: None keys it with 256 bits from the operating system. A number makes it
                repeatable, for tests and simulations only.
            path: Which of the streams of this seed; see `child`. Means nothing without a seed.
        """
        self.is_reproducible = seed is not None
        self._seed, self._path = seed, path
        # Privacy: 20 rounds and a 256-bit key that is never stored, logged or used again.
        key = secrets.randbits(256) if seed is None else _spread(seed, path)
        self._rng = np.random.Generator(ChaCha(key=key, rounds=20))

    def child(self, purpose: Purpose, number: int = 0) -> Randomness:
        """Give a stream that is independent of this one and of every other child.

        Args:
            purpose: What it is for.
            number: Which of its kind, such as the step, from 0.

        Returns:
            Under a seed the same stream for the same purpose and number. Without one a new stream
            each time, with a key of its own from the operating system.

        Privacy:
            What was drawn before a cut can so be drawn again by nobody, this process included.
        """
        return Randomness(seed=self._seed, path=(*self._path, int(purpose), number))

    def draw_units(self, num_units: int, *, sample_rate: float) -> npt.NDArray[np.int64]:
        """Draw each unit independently with the same probability (Poisson sampling).

        Args:
            num_units: Number of units at hand; private.
            sample_rate: Probability of each, in (0, 1].

        Returns:
            Positions of the drawn units, ascending; often of another number, possibly none.
        """
        # Privacy: this is what PoissonSampledDpEvent assumes; never shuffle, never fix the number.
        return np.flatnonzero(self._rng.random(num_units) < sample_rate)

    def gaussian(self, size: int, *, standard_deviation: float) -> npt.NDArray[np.float64]:
        """Draw independent Gaussian noise of mean zero.

        Args:
            size: Number of values.
            standard_deviation: Of each value; 0 gives zeros.

        Returns:
            Noise, (size,) float64.
        """
        total, drawn = np.zeros(size), np.empty(size)
        for _ in range(_GAUSSIAN_DRAWS):
            self._rng.standard_normal(out=drawn)
            total += drawn
        # Privacy: a sum of n standard normals has variance n.
        total *= standard_deviation / math.sqrt(_GAUSSIAN_DRAWS)
        return total

    def integer(self) -> int:
        """Draw a seed for something that needs no secrecy, such as a sampling engine."""
        return int(self._rng.integers(2**31 - 1))


def _spread(seed: int, path: tuple[int, ...]) -> int:
    words = np.random.SeedSequence(seed, spawn_key=path).generate_state(4, np.uint64)
    return sum(int(word) << (64 * index) for index, word in enumerate(words))
