"""Resamples of seeds and rows, by which all that is told of several seeds gets its interval.

Seeds and rows are drawn with replacement and independently: a row weighs as often as it was drawn ×
as often as its seed was drawn (`server_side/measuring/comparing.py` says why).

Shapes: `S` seeds, `n` rows of all seeds, `k` summed statistics of a row, `R` resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from server_side.measuring.intervals import FloatArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Resamples:
    """The rows of all seeds, one after the other, and how they are resampled."""

    seeds: tuple[int, ...]
    """The seeds."""
    seed_of_row: npt.NDArray[np.int64]
    """Place of each row's seed, (n,)."""
    cluster: npt.NDArray[np.int64]
    """Rows of one name, whatever the seed, have one number, (n,)."""
    seed_weights: FloatArray
    """How often each resample draws each seed, (R, S)."""
    cluster_weights: FloatArray
    """How often each resample draws each distinct row, (R, clusters)."""

    @classmethod
    def of(
        cls, row_ids: Mapping[int, Sequence[str]], *, num_resamples: int, seed: int
    ) -> Resamples:
        """Draw.

        Args:
            row_ids: By seed of the runs, the names of its rows.
            num_resamples: How many to draw.
            seed: Seed of the draw.

        Returns:
            The resamples; fewer than `num_resamples` where some drew no row at all.
        """
        names = [name for own in row_ids.values() for name in own]
        distinct, cluster = np.unique(names, return_inverse=True)
        rng = np.random.default_rng(seed)

        def draw(count: int) -> FloatArray:
            shares = np.full(count, 1.0 / count)
            return rng.multinomial(count, shares, size=num_resamples).astype(np.float64)

        drawn = cls(
            seeds=tuple(row_ids),
            seed_of_row=np.repeat(np.arange(len(row_ids)), [len(own) for own in row_ids.values()]),
            cluster=cluster.reshape(-1),
            seed_weights=draw(len(row_ids)),
            cluster_weights=draw(len(distinct)),
        )
        # Where each seed has rows of its own, a resample of few rows may miss all of its seeds'.
        has_rows = drawn.sums(np.ones((len(names), 1)))[:, 0] > 0
        return replace(
            drawn,
            seed_weights=drawn.seed_weights[has_rows],
            cluster_weights=drawn.cluster_weights[has_rows],
        )

    def sums(self, statistics: FloatArray) -> FloatArray:
        """Return the sums of each resample, (R, k), from what each row adds, (n, k)."""
        total = np.zeros((len(self.seed_weights), statistics.shape[1]))
        for place in range(self.seed_weights.shape[1]):
            is_own = self.seed_of_row == place
            by_cluster = self.cluster_weights[:, self.cluster[is_own]]  # (R, rows of the seed)
            total += self.seed_weights[:, place, None] * (by_cluster @ statistics[is_own])
        return total

    def by_cluster(self, statistics: FloatArray) -> FloatArray:
        """Sum up the rows of one name over seeds, (clusters, k)."""
        sums = np.zeros((self.cluster_weights.shape[1], statistics.shape[1]))
        np.add.at(sums, self.cluster, statistics)
        return sums
