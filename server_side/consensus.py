"""How much a response agrees with what the generator's responses to its query have in common.

What many samples of one model have in common is likelier to be right than what one of them says
alone (minimum Bayes risk). It costs no privacy. The panel that a response is compared with are the
candidates of round 1, in every round: so a rewrite's figure can be compared with that of the
response that it was made from, and a target that repeats itself cannot raise it.

Reference: Lin (2004) for ROUGE-L; Hyyrö (2004) for the bit-parallel longest common subsequence.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence

from server_side.samples import Candidate

_WORD = re.compile(r"[^\W_]+")


def consensus_scores(candidates: Sequence[Candidate], *, panel: Sequence[Candidate]) -> list[float]:
    """Return each candidate's mean ROUGE-L F-measure against the panel's responses to its query.

    Args:
        candidates: What to score.
        panel: The candidates of round 1. Neither a candidate itself nor the one from which it
            descends counts: near to it is any rewrite, and that would be no agreement.

    Returns:
        One score in [0, 1] a candidate; 0 where there is no other.
    """
    members: dict[str, list[tuple[str, list[str]]]] = {}
    for member in panel:
        own = members.setdefault(member.query_id, [])
        own.append((member.candidate_id, split_words(member.response)))
    scores = []
    for candidate in candidates:
        words = split_words(candidate.response)
        root = (*candidate.lineage, candidate.candidate_id)[0]
        others = [text for name, text in members.get(candidate.query_id, ()) if name != root]
        agreement = [rouge_l(words, text) for text in others]
        scores.append(statistics.fmean(agreement) if agreement else 0.0)
    return scores


def split_words(text: str) -> list[str]:
    """Return the words of a text in small letters, of any script.

    >>> split_words("Drink water, 2 litres!")
    ['drink', 'water', '2', 'litres']
    """
    return _WORD.findall(text.lower())


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
