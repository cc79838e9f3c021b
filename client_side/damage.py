"""Make a response worse in a known way: cut it short, or swap, drop or repeat its sentences.

A damaged response has the words and the manner of the record's own, so a pair of the two teaches
what telling people from machines does not: that an answer is whole and in order. It is made on this
machine, by no model, from one record alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from client_side.config import Damage
from lm.sentences import SENTENCE_GAP

_WORD_GAP = re.compile(r"(\s+)")
_KEPT_BY_CUT = (0.2, 0.7)


def damage_ids(
    response_ids: Sequence[int],
    *,
    decode: Callable[[Sequence[int]], str],
    encode: Callable[[str], tuple[int, ...]],
    kinds: Sequence[Damage],
    rng: np.random.Generator,
) -> tuple[int, ...]:
    """Damage a response as it is seen in training, which may be cut to a number of tokens.

    Args:
        response_ids: Token ids of the response; at least one.
        decode: Turns ids into text.
        encode: Turns text into ids, cut to the same number of tokens.
        kinds: Ways of damaging to draw from.
        rng: Draws the way and the place.

    Returns:
        Other ids than those given, always: where a way changes nothing (two sentences are the
        same, there is one word only), the next is tried, and a half of the ids is what is left.

    Privacy:
        Output is private. It depends on this response and on draws of its own, on no other record.
    """
    text = decode(response_ids)
    # What comes back from text need not be the ids that went in.
    untouched = (tuple(response_ids), encode(text))
    for index in rng.permutation(len(kinds)):
        damaged = damage_text(text, kind=kinds[int(index)], rng=rng)
        found = untouched[0] if damaged == text else encode(damaged)
        if found not in untouched:
            return found
    return untouched[0][: len(response_ids) // 2]


def damage_text(text: str, *, kind: Damage, rng: np.random.Generator) -> str:
    """Damage a text in one way.

    Args:
        text: The text.
        kind: In which way.
        rng: Draws the place.

    Returns:
        The damaged text; the same text where this way finds nothing to change.

    >>> damage_text("Rest. Drink.", kind=Damage.SWAP, rng=np.random.default_rng(0))
    'Drink. Rest.'
    >>> damage_text("Rest.", kind=Damage.DROP, rng=np.random.default_rng(0))
    'Rest.'
    """
    if kind is Damage.CUT:
        words = _WORD_GAP.split(text)
        num_words = (len(words) + 1) // 2
        num_kept = max(1, int(num_words * rng.uniform(*_KEPT_BY_CUT)))
        return "".join(words[: 2 * num_kept - 1]) if num_kept < num_words else text
    pieces, gaps = _sentences(text)
    if len(pieces) < 2:
        if kind is not Damage.REPEAT:
            return text
        pieces, gaps = [text], []
    place = int(rng.integers(len(pieces)))
    match kind:
        case Damage.SWAP:
            other = (place + int(rng.integers(1, len(pieces)))) % len(pieces)
            pieces[place], pieces[other] = pieces[other], pieces[place]
        case Damage.DROP:
            del pieces[place]
            # The gap that goes is the one behind the sentence, before it for the last.
            del gaps[min(place, len(gaps) - 1)]
        case Damage.REPEAT:
            pieces.insert(place, pieces[place])
            gaps.insert(place, gaps[place] if place < len(gaps) else " ")
    return "".join(part for pair in zip(pieces, [*gaps, ""], strict=True) for part in pair)


def _sentences(text: str) -> tuple[list[str], list[str]]:
    """Return the sentences of a text and what stands between them, one less."""
    parts = SENTENCE_GAP.split(text)
    return parts[::2], parts[1::2]
