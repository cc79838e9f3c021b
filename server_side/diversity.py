"""Which samples say nearly what a better one says already.

Two texts are near-duplicates where their sets of word trigrams have more than a given share in
common (Jaccard similarity). Comparing each with each would grow with the square of the pool, so
MinHash signatures cut into bands find those worth comparing, and these are compared exactly:
nothing falls that is not a near-duplicate, and one near-duplicate in a thousand, at the limit
itself, may pass (more of them below a limit of 0.06, for which signatures are too short). The hash
functions are fixed, so the same texts always give the same answer.

Reference: Broder (1997) for MinHash; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets,
section 3.4 (bands).
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from server_side.consensus import split_words

_NUM_HASHES = 128
_NUM_WORDS = 3
"""Words of a shingle: short enough for answers of a dozen words, too long to agree by chance."""
_WANTED_RECALL = 0.999
"""Chance that two texts at the limit share a band, so that they are compared."""

_UintArray = npt.NDArray[np.uint64]


class DistinctTexts:
    """Texts of which none is nearly the same as another."""

    def __init__(self, *, max_similarity: float) -> None:
        """Begin with none.

        Args:
            max_similarity: Share of trigrams in common above which two texts are near-duplicates,
                in (0, 1]; 1 lets everything pass.
        """
        self._max_similarity = max_similarity
        self._rows = _rows_per_band(max_similarity)
        rng = np.random.default_rng(0)  # fixes the hash functions; nothing depends on chance
        self._factors = rng.integers(2**63, size=_NUM_HASHES, dtype=np.uint64) * 2 + 1
        self._offsets = rng.integers(2**63, size=_NUM_HASHES, dtype=np.uint64)
        self._texts: list[_UintArray] = []
        self._bands: dict[tuple[int, bytes], list[int]] = {}

    def add(self, text: str) -> bool:
        """Add a text unless it is nearly the same as one that is there.

        Args:
            text: The text.

        Returns:
            Whether it was added.
        """
        if self._max_similarity >= 1:
            return True
        shingles = _shingles(text)
        signature = self._signature(shingles)
        keys = [
            (start, signature[start : start + self._rows].tobytes())
            for start in range(0, _NUM_HASHES - self._rows + 1, self._rows)
        ]
        near = {index for key in keys for index in self._bands.get(key, ())}
        if any(_jaccard(shingles, self._texts[i]) > self._max_similarity for i in near):
            return False
        for key in keys:
            self._bands.setdefault(key, []).append(len(self._texts))
        self._texts.append(shingles)
        return True

    def _signature(self, shingles: _UintArray) -> _UintArray:
        # Multiply-shift hashing; the upper half of a product modulo 2**64 is the well-mixed one.
        mixed = self._factors[:, None] * shingles[None, :] + self._offsets[:, None]
        signature: _UintArray = (mixed >> np.uint64(32)).min(axis=1)
        return signature


def _shingles(text: str) -> _UintArray:
    """Return hashes of the distinct word trigrams of a text, sorted; at least one."""
    words = split_words(text)
    starts = range(max(1, len(words) - _NUM_WORDS + 1))
    grams = {" ".join(words[start : start + _NUM_WORDS]) for start in starts}
    digests = b"".join(hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in grams)
    return np.unique(np.frombuffer(digests, dtype=np.uint64))


def _jaccard(first: _UintArray, second: _UintArray) -> float:
    num_common = np.intersect1d(first, second, assume_unique=True).size
    return float(num_common / (first.size + second.size - num_common))


def _rows_per_band(similarity: float) -> int:
    """Return the most rows a band may have for texts at the limit to share one almost surely."""
    rows = 1
    while (1 - similarity ** (rows + 1)) ** (_NUM_HASHES // (rows + 1)) <= 1 - _WANTED_RECALL:
        rows += 1
        if rows == _NUM_HASHES:
            break
    return rows
