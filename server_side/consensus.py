"""How much a response agrees with the other responses to its query.

What many samples of one model have in common is likelier to be right than what one of them says
alone (minimum Bayes risk). It costs no privacy, and is one optional term of the rank fusion.

Reference: Lin (2004) for ROUGE-L; Hyyrö (2004) for the bit-parallel longest common subsequence.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+")


def consensus_scores(responses: Sequence[str]) -> list[float]:
    """Return each response's mean ROUGE-L F-measure against the others.

    Args:
        responses: Responses to one query.

    Returns:
        One score in [0, 1] a response; 0 where there is no other.

    >>> [round(score, 2) for score in consensus_scores(["a b c", "a b d", "x y z"])]
    [0.33, 0.33, 0.0]
    """
    words = [_WORD.findall(response.lower()) for response in responses]
    scores: list[list[float]] = [[] for _ in responses]
    for i in range(len(words)):
        for j in range(i):
            score = rouge_l(words[i], words[j])
            scores[i].append(score)
            scores[j].append(score)
    return [statistics.fmean(own) if own else 0.0 for own in scores]


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the ROUGE-L F-measure of two texts as words; it is symmetric.

    Args:
        first: Words of one text.
        second: Words of the other.

    Returns:
        Twice the longest common subsequence ÷ the number of words in both; 0 without words.
    """
    length = _common_subsequence_length(first, second)
    return 2 * length / (len(first) + len(second)) if length else 0.0


def _common_subsequence_length(first: Sequence[str], second: Sequence[str]) -> int:
    # One bit a position of `first`; a zero bit at the end marks a step of the subsequence.
    positions: dict[str, int] = {}
    for index, word in enumerate(first):
        positions[word] = positions.get(word, 0) | 1 << index
    mask = (1 << len(first)) - 1
    row = mask
    for word in second:
        matches = row & positions.get(word, 0)
        row = ((row + matches) | (row - matches)) & mask
    return len(first) - row.bit_count()
