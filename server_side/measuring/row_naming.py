"""Names of test rows, by which runs that judged the same rows are paired."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from lm.tables import TextRow


def name_rows(rows: Sequence[TextRow]) -> list[str]:
    """Name each row by a digest of its texts; a copy of an earlier row gets a number as well.

    >>> row = TextRow(prompt="What now?", response="Rest.")
    >>> first, second = name_rows([row, row])
    >>> second == f"{first}-2"
    True
    """
    seen: Counter[str] = Counter()
    names = []
    for row in rows:
        text = json.dumps([row.prompt, row.response])
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names
