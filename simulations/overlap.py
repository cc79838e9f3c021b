"""What a synthetic set has word for word in common with the private records.

Only a simulation can ask: it owns both. Three signs of leaking are looked for: passages of 13 words
that stand in a record, the longest passage that a text shares with one, and what identifies an
invented person (names, telephone numbers, birth dates). Public test text of the same domain is
measured beside it, because some passages are common to all text of a domain.

A high figure is a reason to look; a low one proves nothing. The guarantee is the ledger.

All passages of a length are compared by 64-bit hashes, so time grows with the amount of text, and
records are taken some million symbols at a time. Among a billion passages of records and a million
of texts, two that differ share a hash with a probability below 10^-4.

Reference: Carlini et al., "Extracting Training Data from Large Language Models" (USENIX Security
2021) for verbatim passages; 13 words after Brown et al. (2020), appendix C.

Shapes: `N` symbols (words or characters) of several texts, one after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from server_side.notes import PrivateOverlap, TextOverlap
from simulations.clinic import find_identifiers

NGRAM_SIZE: Final = 13
"""Words of a passage that is looked for."""

_WORD: Final = re.compile(r"[^\W_]+")
_MAX_SYMBOLS: Final = 4_000_000
# Any odd number has an inverse modulo 2**64, which is all that the hash needs.
_STEP: Final = 0xD1342543DE82EF95
_FILTER_BITS: Final = 22

_Hashes = npt.NDArray[np.uint64]


def measure_overlap(
    *, synthetic: Sequence[str], public: Sequence[str], records: Sequence[str]
) -> PrivateOverlap:
    """Hold the synthetic set, and public text beside it, against the private records.

    Args:
        synthetic: Texts of the synthetic set, such as prompts with their responses.
        public: Public texts of the same domain that no client trained on.
        records: Texts of the clients' private records.

    Returns:
        Shares, lengths and counts; no text.
    """
    known = _identifiers(records)
    codes: tuple[dict[str, int], dict[str, int]] = ({}, {})
    held = (
        _records_in_parts([_words(text) for text in records], codes[0]),
        _records_in_parts([_plain(text) for text in records], codes[1]),
    )
    return PrivateOverlap(
        ngram_size=NGRAM_SIZE,
        num_records=len(set(records)),
        num_identifiers=len(known),
        synthetic=_overlap(synthetic, held, codes, known),
        public=_overlap(public, held, codes, known),
    )


def _longest_common(texts: _Passages, records: Sequence[_Passages]) -> int:
    low, high = 0, texts.longest
    while low < high:
        # A passage that is shared has shorter ones that are shared as well.
        middle = (low + high + 1) // 2
        hashes = np.unique(texts.hashes(middle)[0])
        if len(hashes) and _found(hashes, records, middle).any():
            low = middle
        else:
            high = middle - 1
    return low


def _overlap(
    texts: Sequence[str],
    records: tuple[Sequence[_Passages], Sequence[_Passages]],
    codes: tuple[dict[str, int], dict[str, int]],
    known: set[str],
) -> TextOverlap:
    words = _Passages.of([_words(text) for text in texts], codes[0])
    hashes, owner = words.hashes(NGRAM_SIZE)
    distinct, place = np.unique(hashes, return_inverse=True)
    is_found = _found(distinct, records[0], NGRAM_SIZE)
    texts_with_found = np.unique(owner[is_found[place]])
    chars = _Passages.of([_plain(text) for text in texts], codes[1])
    return TextOverlap(
        num_texts=len(texts),
        found_ngram_fraction=float(is_found.mean()) if len(distinct) else 0.0,
        texts_with_found_fraction=len(texts_with_found) / len(texts) if texts else 0.0,
        longest_common_words=_longest_common(words, records[0]),
        longest_common_chars=_longest_common(chars, records[1]),
        num_identifiers_found=len(known & _identifiers(texts)),
    )


def _identifiers(texts: Sequence[str]) -> set[str]:
    return {found for text in texts for found in find_identifiers(text)}


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _found(distinct: _Hashes, records: Sequence[_Passages], length: int) -> npt.NDArray[np.bool_]:
    """Say for each of some sorted hashes whether a record has a passage with it."""
    found = np.zeros(len(distinct), dtype=np.bool_)
    # Most passages of records fall at once, by their first bits; the others are looked up.
    may_be = np.zeros(1 << _FILTER_BITS, dtype=np.bool_)
    may_be[_first_bits(distinct)] = True
    for part in records:
        hashes = part.hashes(length)[0]
        left = np.unique(hashes[may_be[_first_bits(hashes)]])
        found |= np.isin(distinct, left)
    return found


def _first_bits(hashes: _Hashes) -> npt.NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)


def _records_in_parts(
    records: Sequence[Sequence[str]], codes: dict[str, int]
) -> tuple[_Passages, ...]:
    """Number the records' symbols, a few million at a time; no record is divided."""
    parts: list[_Passages] = []
    part: list[Sequence[str]] = []
    size = 0
    for record in records:
        part.append(record)
        size += len(record)
        if size >= _MAX_SYMBOLS:
            parts.append(_Passages.of(part, codes))
            part, size = [], 0
    return (*parts, _Passages.of(part, codes))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Passages:
    """Texts, ready to give the hash of every passage of any length."""

    sums: _Hashes
    """Running sum of symbol · step^place, (N + 1,)."""
    owner: npt.NDArray[np.int64]
    """The text to which each symbol belongs, (N,)."""
    longest: int
    """Symbols of the longest text."""

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]], codes: dict[str, int]) -> _Passages:
        """Number the symbols; `codes` is shared by all that are to be compared."""
        lengths = [len(text) for text in texts]
        numbers = np.fromiter(
            (codes.setdefault(symbol, len(codes)) for text in texts for symbol in text),
            dtype=np.uint64,
            count=sum(lengths),
        )
        values = _scattered(numbers) * _powers(_STEP, len(numbers))
        return cls(
            sums=np.concatenate([np.zeros(1, np.uint64), np.cumsum(values)]),
            owner=np.repeat(np.arange(len(texts)), lengths),
            longest=max(lengths, default=0),
        )

    def hashes(self, length: int) -> tuple[_Hashes, npt.NDArray[np.int64]]:
        """Return the hash of each passage of some length within one text, and whose it is.

        The hash is Σ symbol[i + j] · step^j modulo 2^64, by differences of one running sum.
        """
        count = len(self.owner) - length + 1
        if count <= 0:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        hashes = self.sums[length:] - self.sums[:count]
        hashes *= _powers(pow(_STEP, -1, 2**64), count)
        is_within = self.owner[length - 1 :] == self.owner[:count]
        return hashes[is_within], self.owner[:count][is_within]


def _scattered(numbers: _Hashes) -> _Hashes:
    """Turn small numbers into ones that look random, each into one of its own (SplitMix64)."""
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _powers(base: int, count: int) -> _Hashes:
    steps = np.full(count, base, dtype=np.uint64)
    steps[:1] = 1
    powers: _Hashes = np.cumprod(steps)
    return powers
