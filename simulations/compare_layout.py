"""Tables of text in which names give way and no number is ever cut.

Where a terminal is too narrow, names wrap at their underscores; where little would be left of them,
each stands in a line of its own above its numbers. A table of numbers alone that is still too wide
runs over the edge. What is no terminal gets the width that the table needs.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Final

_GAP: Final = " "
_LEAST_NAME: Final = 12
"""Characters below which a column of names is not wrapped but given up."""
_INDENT: Final = "  "


def lay_out(
    titles: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None
) -> list[str]:
    r"""Return the lines of a table: names to the left, numbers right-aligned.

    Args:
        titles: Titles of the columns.
        rows: Cells of each row, of which the first is a name; line breaks part a cell's lines.
        width: Characters that a line may have; None for as many as it takes.

    >>> for line in lay_out(["arm", "value"], [["a_long_name_of_an_arm", "0.5\n0.4 to 0.6"]]):
    ...     print(line)
    arm                        value
    a_long_name_of_an_arm        0.5
                          0.4 to 0.6
    """
    cells = [[cell.split("\n") for cell in row] for row in rows]
    columns = [
        [len(line) for lines in column for line in lines]
        for column in zip([[title] for title in titles], *cells, strict=True)
    ]
    whole, *numbers = map(max, columns)
    needed = sum(numbers) + len(_GAP) * len(numbers)
    room = whole if width is None else min(whole, width - needed)
    is_apart = room < min(whole, _LEAST_NAME)
    if is_apart:
        room = max(len(titles[0]), len(_INDENT))
    widths = [room, *numbers]
    lines = [_line(titles, widths)]
    for names, *own in cells:
        if is_apart:
            text = ", ".join(name.strip() for name in names if name.strip())
            lines += _wrapped(text, width or whole)
            names = []
        named = [part for name in names for part in _wrapped(name, room)]
        columns_of_row = [named, *own]
        lines += [
            _line([column[at] if at < len(column) else "" for column in columns_of_row], widths)
            for at in range(max(map(len, columns_of_row)))
        ]
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = cells
    padded = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
    return _GAP.join([name.ljust(widths[0]), *padded]).rstrip()


def _wrapped(name: str, width: int) -> list[str]:
    wrapper = textwrap.TextWrapper(width=width, subsequent_indent=_INDENT)
    wrapper.wordsep_re = re.compile(r"(\s+|[^\s_]*_+)")  # names have underscores for spaces
    return wrapper.wrap(name)
