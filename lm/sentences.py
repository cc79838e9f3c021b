"""Where sentences end, for texts that were cut at a limit or are to be taken apart."""

from __future__ import annotations

import re
from typing import Final

SENTENCE_GAP: Final = re.compile(r"((?<=[.!?])\s+|\s*\n\s*)")
"""What stands between sentences: white space after an end mark, or a line's end."""

# Neither after a digit ("2." opens the next point of a list) nor after a short title ("Dr.").
_TO_LAST_END: Final = re.compile(r".*(?<!\d)(?<!\b[A-Z][a-z])[.!?…][\"'”’)\]]*(?=\s|$)", re.DOTALL)


def whole_sentences(text: str) -> str:
    """Return a text up to the end of its last whole sentence.

    Args:
        text: A text that may break off anywhere.

    Returns:
        Its beginning, without white space around it; empty where no sentence ends.

    >>> whole_sentences("Rest for a day. Then see Dr. Aldous, who")
    'Rest for a day.'
    >>> whole_sentences("and so on and")
    ''
    """
    found = _TO_LAST_END.match(text)
    return found.group().strip() if found else ""
